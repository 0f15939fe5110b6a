"""A model, loaded: pictures in, answers out. Without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mobilenetv2.errors import ImageError, ModelFileError, UserError, did_you_mean
from mobilenetv2.files import reason
from mobilenetv2.modelfile import Card, ModelFile, load_model_file
from mobilenetv2.predictions import Prediction, Timing
from mobilenetv2.runtime.answers import record
from mobilenetv2.runtime.engine import PictureEngine
from mobilenetv2.runtime.engines import GENERAL_ENGINE, check_engine, choose_engine, engine_of_export
from mobilenetv2.runtime.exported import CARD_FILE, Export, read_export
from mobilenetv2.runtime.images import Source, name_of, open_image
from mobilenetv2.runtime.scorers import GraphScorer, PillowScorer, Scorer, TiledScorer, ms_since

MODELS_IN_THE_BOX = Path(__file__).parents[1] / "models"
DEFAULT_MODEL = "cifar10"


def load(
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    engine: str | None = None,
    threads: int | None = None,
    score_threshold: float | None = None,
    tiles: bool = False,
) -> Predictor:
    """Load a model to predict with.

    model: a model file (`.safetensors`), an `.onnx` or the folder of another export that was made here, or the name of
    a model in the box. engine: a name of `engines.ENGINES`; None for the export's own, or the fused one where it knows
    the network, else onnxruntime. threads: of one run; None for one a core.
    score_threshold: 0..1, detectors only: boxes of a lower score are left out; None for that of the model's card.
    tiles: segmenters only: look at large pictures piece by piece at their own resolution, instead of at the whole made
    small; see `scorers.TiledScorer`.
    Raises ModelFileError if there is no such model, or the file is damaged, foreign or too new; UserError for
    a threshold that is out of range, for an engine that does not run it, and for what is given to a model of another
    task.
    """
    path = find_model(model)
    if engine is not None:
        check_engine(engine)
    options: dict[str, Any] = {"threads": threads, "score_threshold": score_threshold, "tiles": tiles}
    if path.is_dir():
        export = read_export(path)
        if engine not in (None, export.target):
            raise UserError(f"{path}: is for engine {export.target!r}, not {engine!r}")
        return predictor_of_export(export, **options)
    if path.suffix.lower() == ".onnx":
        if engine not in (None, GENERAL_ENGINE):
            raise UserError(
                f"{path}: is for engine {GENERAL_ENGINE!r}; give the model file it was made from for {engine!r}"
            )
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {reason(error)}") from error
        return predictor_of_graph(content, source=str(path), **options)
    return predictor_of(load_model_file(path, to_run=True), engine=engine, **options)


def predictor_of(
    model: ModelFile,
    *,
    engine: str | None = None,
    threads: int | None = None,
    score_threshold: float | None = None,
    tiles: bool = False,
) -> Predictor:
    """The same for a model file in memory."""
    card = _with_threshold(model.card, score_threshold)
    chosen = choose_engine(engine, model, threads=threads)
    return _predictor(card, PillowScorer(chosen.engine, card), tiles, engine_name=chosen.name, engine_note=chosen.note)


def predictor_of_graph(
    content: bytes,
    *,
    source: str,
    threads: int | None = None,
    score_threshold: float | None = None,
    tiles: bool = False,
) -> Predictor:
    """The same for an exported `.onnx` in memory; `source` names it in errors."""
    engine = PictureEngine(content, source=source, threads=threads)
    card = _with_threshold(engine.card, score_threshold)
    return _predictor(card, GraphScorer(engine, card), tiles, precision=engine.precision)


def predictor_of_export(
    export: Export, *, threads: int | None = None, score_threshold: float | None = None, tiles: bool = False
) -> Predictor:
    """The same for the folder of an export."""
    card = _with_threshold(export.card, score_threshold)
    engine = engine_of_export(export, threads=threads)
    return _predictor(card, PillowScorer(engine, card), tiles, engine_name=export.target, precision=export.precision)


def _predictor(
    card: Card,
    scorer: Scorer,
    tiles: bool,
    *,
    engine_name: str = GENERAL_ENGINE,
    engine_note: str = "",
    precision: str = "float32",
) -> Predictor:
    if tiles:
        card.segmenter  # noqa: B018  raises for another task
        scorer = TiledScorer(scorer, card)
    return Predictor(card, scorer, engine_name=engine_name, engine_note=engine_note, precision=precision)


def _with_threshold(card: Card, score_threshold: float | None) -> Card:
    if score_threshold is None:
        return card
    if card.postprocessing is None:
        raise UserError(
            f"model {card.name!r} is for task {card.task!r}; a score threshold is for detectors, leave it out"
        )
    return replace(card, postprocessing=replace(card.postprocessing, score_threshold=score_threshold))


def find_model(name_or_path: str | os.PathLike[str], *, folder: Path = MODELS_IN_THE_BOX) -> Path:
    """The file of a model: a path as it is, or the model in the box of that name.

    folder: the box. Raises ModelFileError, which lists what is in it.
    """
    name = os.fspath(name_or_path)
    path = Path(name)
    looks_like_path = path.suffix != "" or path.name != name
    if looks_like_path or path.is_file() or (path / CARD_FILE).is_file():
        if not path.exists():
            raise ModelFileError(f"{name}: no such model file")
        return path
    in_the_box = models_in_the_box(folder)
    if name in in_the_box:
        return folder / f"{name}.safetensors"
    known = f"in the box are {', '.join(in_the_box)}" if in_the_box else "the box is empty"
    raise ModelFileError(
        f"model {name!r} is not known{did_you_mean(name, in_the_box)}; {known}; "
        "or give the path of a .safetensors or .onnx file, or of an export's folder"
    )


def models_in_the_box(folder: Path = MODELS_IN_THE_BOX) -> list[str]:
    """Names of the models that came with the package."""
    return sorted(file.stem for file in folder.glob("*.safetensors"))


class Predictor:
    """Answers for pictures. Safe to use from many threads at once.

    card: the model's, with the score threshold that is used. engine_name: what computes it. engine_note: why
    that is not the fused engine, where it could not be. precision: "float32" or "int8", in which it does.
    """

    def __init__(
        self,
        card: Card,
        scorer: Scorer,
        *,
        engine_name: str = GENERAL_ENGINE,
        engine_note: str = "",
        precision: str = "float32",
    ) -> None:
        self.card = card
        self.engine_name, self.engine_note, self.precision = engine_name, engine_note, precision
        self._scorer = scorer

    def predict(self, source: Source) -> Prediction:
        """The answer for one picture: anything that `images.open_image` takes. Raises ImageError if it cannot be read.

        A classifier answers with a `Classification`, a detector with `Detections`, a segmenter with a `Segmentation`.
        """
        (answer,) = self.predict_batch([source])
        return answer

    def predict_batch(self, sources: Iterable[Source]) -> list[Prediction]:
        """The same for many, in their order, up to 16 in one run of the network.

        The network's time of a run is shared evenly among its pictures. Raises ImageError for the first
        picture that cannot be read; to go on after one, call `predict` for each.
        """
        remaining = iter(sources)
        answers: list[Prediction] = []
        while some := [self._prepare(source) for source in islice(remaining, self._scorer.batch)]:
            answers += self._answer(some)
        return answers

    def with_score_threshold(self, score_threshold: float) -> Predictor:
        """The same detector, on the same engine, with another threshold. Raises UserError as `load` does."""
        card = _with_threshold(self.card, score_threshold)
        other = copy(self)
        other.card, other._scorer = card, self._scorer.with_card(card)
        return other

    def _prepare(self, source: Source) -> _Prepared:
        start = time.perf_counter()
        picture = open_image(source)
        decode_ms, start = ms_since(start), time.perf_counter()
        name = name_of(source)
        try:
            prepared = self._scorer.prepare(picture)
        except ImageError as error:
            raise ImageError(f"{name or 'picture'}: {error}") from error
        return _Prepared(name, (picture.height, picture.width), prepared, decode_ms, ms_since(start))

    def _answer(self, some: Sequence[_Prepared]) -> list[Prediction]:
        scored = self._scorer.score([one.prepared for one in some])
        share = 1 / len(some)
        return [
            record(
                answer,
                card=self.card,
                size_hw=one.size_hw,
                source=one.name,
                ms=Timing(
                    decode=one.decode_ms,
                    preprocess=one.preprocess_ms,
                    network=scored.network_ms * share,
                    postprocess=scored.postprocess_ms * share,
                ),
            )
            for one, answer in zip(some, scored.answers, strict=True)
        ]


class _Prepared(NamedTuple):
    name: str
    size_hw: tuple[int, int]
    prepared: Any
    decode_ms: float
    preprocess_ms: float
