"""A model, loaded: pictures in, answers out. Without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mobilenetv2.errors import ImageError, ModelFileError, UserError, did_you_mean
from mobilenetv2.files import reason
from mobilenetv2.modelfile import Card, ModelFile, load_model_file
from mobilenetv2.predictions import Prediction, Timing
from mobilenetv2.runtime.answers import record
from mobilenetv2.runtime.engine import OnnxRuntimeEngine, PictureEngine
from mobilenetv2.runtime.images import Source, name_of, open_image
from mobilenetv2.runtime.scorers import GraphScorer, PillowScorer, Scorer, TiledScorer, ms_since

MODELS_IN_THE_BOX = Path(__file__).parents[1] / "models"
DEFAULT_MODEL = "cifar10"


def load(
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    threads: int | None = None,
    score_threshold: float | None = None,
    tiles: bool = False,
) -> Predictor:
    """Load a model to predict with.

    model: a model file (`.safetensors`), an `.onnx` that was exported here, or the name of a model in the box.
    threads: of one run; None for one a core. score_threshold: 0..1, detectors only: boxes of a lower score are
    left out; None for that of the model's card. tiles: segmenters only: look at large pictures piece by piece at
    their own resolution, instead of at the whole made small; see `scorers.TiledScorer`.
    Raises ModelFileError if there is no such model, or the file is damaged, foreign or too new; UserError for
    a threshold that is out of range, and for what is given to a model of another task.
    """
    path = find_model(model)
    if path.suffix.lower() == ".onnx":
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {reason(error)}") from error
        return predictor_of_graph(
            content, source=str(path), threads=threads, score_threshold=score_threshold, tiles=tiles
        )
    return predictor_of(load_model_file(path), threads=threads, score_threshold=score_threshold, tiles=tiles)


def predictor_of(
    model: ModelFile, *, threads: int | None = None, score_threshold: float | None = None, tiles: bool = False
) -> Predictor:
    """The same for a model file in memory."""
    card = _with_threshold(model.card, score_threshold)
    return _predictor(card, PillowScorer(OnnxRuntimeEngine(model, threads=threads), card), tiles)


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
    return _predictor(card, GraphScorer(engine, card), tiles)


def _predictor(card: Card, scorer: Scorer, tiles: bool) -> Predictor:
    if not tiles:
        return Predictor(card, scorer)
    card.segmenter  # noqa: B018  raises for another task
    return Predictor(card, TiledScorer(scorer, card))


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
    if looks_like_path or path.is_file():
        if not path.exists():
            raise ModelFileError(f"{name}: no such model file")
        return path
    in_the_box = models_in_the_box(folder)
    if name in in_the_box:
        return folder / f"{name}.safetensors"
    known = f"in the box are {', '.join(in_the_box)}" if in_the_box else "the box is empty"
    raise ModelFileError(
        f"model {name!r} is not known{did_you_mean(name, in_the_box)}; {known}; "
        "or give the path of a .safetensors or .onnx file"
    )


def models_in_the_box(folder: Path = MODELS_IN_THE_BOX) -> list[str]:
    """Names of the models that came with the package."""
    return sorted(file.stem for file in folder.glob("*.safetensors"))


class Predictor:
    """Answers for pictures. Safe to use from many threads at once.

    card: the model's, with the score threshold that is used.
    """

    def __init__(self, card: Card, scorer: Scorer) -> None:
        self.card = card
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
        return Predictor(card, self._scorer.with_card(card))

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
