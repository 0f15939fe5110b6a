"""A model, loaded: pictures in, answers out. Without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.errors import ImageError, ModelFileError, UserError, did_you_mean
from mobilenetv2.files import reason
from mobilenetv2.modelfile import Card, ModelFile, load_model_file
from mobilenetv2.predictions import Prediction, Timing
from mobilenetv2.preprocessing import preprocess
from mobilenetv2.runtime.answers import Answer, reader_for, record
from mobilenetv2.runtime.engine import Engine, OnnxRuntimeEngine, PictureEngine
from mobilenetv2.runtime.images import Source, name_of, open_image

MODELS_IN_THE_BOX = Path(__file__).parents[1] / "models"
DEFAULT_MODEL = "cifar10"
MAX_BATCH = 16
MAX_BATCH_PIXELS = MAX_BATCH * 224 * 224


def load(
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    threads: int | None = None,
    score_threshold: float | None = None,
) -> Predictor:
    """Load a model to predict with.

    model: a model file (`.safetensors`), an `.onnx` that was exported here, or the name of a model in the box.
    threads: of one run; None for one a core. score_threshold: 0..1, detectors only: boxes of a lower score are
    left out; None for that of the model's card.
    Raises ModelFileError if there is no such model, or the file is damaged, foreign or too new; UserError for
    a threshold that is out of range, or given for a classifier.
    """
    path = find_model(model)
    if path.suffix.lower() == ".onnx":
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {reason(error)}") from error
        return predictor_of_graph(content, source=str(path), threads=threads, score_threshold=score_threshold)
    return predictor_of(load_model_file(path), threads=threads, score_threshold=score_threshold)


def predictor_of(model: ModelFile, *, threads: int | None = None, score_threshold: float | None = None) -> Predictor:
    """The same for a model file in memory."""
    card = _with_threshold(model.card, score_threshold)
    return Predictor(card, PillowScorer(OnnxRuntimeEngine(model, threads=threads), card))


def predictor_of_graph(
    content: bytes, *, source: str, threads: int | None = None, score_threshold: float | None = None
) -> Predictor:
    """The same for an exported `.onnx` in memory; `source` names it in errors."""
    engine = PictureEngine(content, source=source, threads=threads)
    card = _with_threshold(engine.card, score_threshold)
    return Predictor(card, GraphScorer(engine, card))


def _with_threshold(card: Card, score_threshold: float | None) -> Card:
    if score_threshold is None:
        return card
    if card.postprocessing is None:
        raise UserError(f"model {card.name!r} classifies; a score threshold is for detectors, leave it out")
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

        A classifier answers with a `Classification`, a detector with `Detections`.
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
        decode_ms, start = _ms_since(start), time.perf_counter()
        name = name_of(source)
        try:
            prepared = self._scorer.prepare(picture)
        except ImageError as error:
            raise ImageError(f"{name or 'picture'}: {error}") from error
        return _Prepared(name, (picture.height, picture.width), prepared, decode_ms, _ms_since(start))

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


class Scores(NamedTuple):
    """An answer for each picture, and what they took together."""

    answers: Iterable[Answer]
    network_ms: float
    postprocess_ms: float


class Scorer(Protocol):
    """From pictures to answers in two steps, of which the second takes up to `batch` pictures at once."""

    batch: int

    def prepare(self, picture: Image.Image) -> Any:
        """An RGB picture of any size -> what `score` takes of it."""

    def score(self, prepared: Sequence[Any]) -> Scores:
        """Answers for what was prepared."""

    def with_card(self, card: Card) -> Scorer:
        """The same on the same engine, with the thresholds of another card."""


class PillowScorer:
    """Preprocesses with Pillow, then runs the bare network on the batch."""

    def __init__(self, engine: Engine, card: Card) -> None:
        self._engine = engine
        self._preprocessing = card.preprocessing
        self._reader = reader_for(card)
        height, width = card.preprocessing.size_hw
        # Large inputs would need much memory between the layers, and gain nothing by company.
        self.batch = max(1, min(MAX_BATCH, MAX_BATCH_PIXELS // (height * width)))

    def with_card(self, card: Card) -> PillowScorer:
        return PillowScorer(self._engine, card)

    def prepare(self, picture: Image.Image) -> tuple[NDArray[np.float32], tuple[int, int]]:
        return preprocess(picture, self._preprocessing), (picture.height, picture.width)

    def score(self, prepared: Sequence[tuple[NDArray[np.float32], tuple[int, int]]]) -> Scores:
        start = time.perf_counter()
        outputs = self._engine.run(np.stack([pixels for pixels, _ in prepared]))
        network_ms, start = _ms_since(start), time.perf_counter()
        answers = self._reader.of_network(outputs, [size_hw for _, size_hw in prepared])
        return Scores(answers, network_ms, _ms_since(start))


class GraphScorer:
    """Hands pictures to an exported graph, which does everything: its time counts as the network's."""

    # Pictures of one run are of one size.
    batch = 1

    def __init__(self, engine: PictureEngine, card: Card) -> None:
        self._engine = engine
        self._reader = reader_for(card)
        self._score_threshold = card.postprocessing.score_threshold if card.postprocessing else None

    def with_card(self, card: Card) -> GraphScorer:
        return GraphScorer(self._engine, card)

    def prepare(self, picture: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(picture)

    def score(self, prepared: Sequence[NDArray[np.uint8]]) -> Scores:
        start = time.perf_counter()
        outputs = self._engine.run(np.stack(prepared), score_threshold=self._score_threshold)
        answers = self._reader.of_graph(outputs, len(prepared))
        return Scores(answers, _ms_since(start), 0.0)


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
