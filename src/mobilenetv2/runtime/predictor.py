"""A model, loaded: pictures in, answers out. Without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.errors import ImageError, ModelFileError, did_you_mean
from mobilenetv2.files import reason
from mobilenetv2.modelfile import Card, load_model_file
from mobilenetv2.predictions import Classification, Timing
from mobilenetv2.preprocessing import Preprocessing, preprocess
from mobilenetv2.runtime.engine import Engine, OnnxRuntimeEngine, PictureEngine
from mobilenetv2.runtime.images import Source, name_of, open_image

MODELS_IN_THE_BOX = Path(__file__).parents[1] / "models"
DEFAULT_MODEL = "cifar10"


def load(model: str | os.PathLike[str] = DEFAULT_MODEL, *, threads: int | None = None) -> Predictor:
    """Load a model to predict with.

    model: a model file (`.safetensors`), an `.onnx` that was exported here, or the name of a model in the box.
    threads: of one run; None for one a core.
    Raises ModelFileError if there is no such model, or the file is damaged, foreign or too new.
    """
    path = find_model(model)
    if path.suffix.lower() == ".onnx":
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {reason(error)}") from error
        engine = PictureEngine(content, source=str(path), threads=threads)
        return Predictor(engine.card, GraphScorer(engine))
    file = load_model_file(path)
    return Predictor(file.card, PillowScorer(OnnxRuntimeEngine(file, threads=threads), file.card.preprocessing))


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
    """Answers for pictures. Safe to use from many threads at once."""

    def __init__(self, card: Card, scorer: Scorer) -> None:
        self.card = card
        self._scorer = scorer

    def predict(self, source: Source) -> Classification:
        """Classify one picture: anything that `images.open_image` takes. Raises ImageError if it cannot be read."""
        (answer,) = self.predict_batch([source])
        return answer

    def predict_batch(self, sources: Iterable[Source]) -> list[Classification]:
        """The same for many, in their order, up to 16 in one run of the network.

        The network's time of a run is shared evenly among its pictures. Raises ImageError for the first
        picture that cannot be read; to go on after one, call `predict` for each.
        """
        remaining = iter(sources)
        answers: list[Classification] = []
        while some := [self._prepare(source) for source in islice(remaining, self._scorer.batch)]:
            answers += self._answer(some)
        return answers

    def _prepare(self, source: Source) -> _Prepared:
        start = time.perf_counter()
        picture = open_image(source)
        decode_ms, start = _ms_since(start), time.perf_counter()
        name = name_of(source)
        try:
            pixels = self._scorer.prepare(picture)
        except ImageError as error:
            raise ImageError(f"{name or 'picture'}: {error}") from error
        return _Prepared(name, (picture.height, picture.width), pixels, decode_ms, _ms_since(start))

    def _answer(self, some: Sequence[_Prepared]) -> list[Classification]:
        scored = self._scorer.score([one.pixels for one in some])
        share = 1 / len(some)
        return [
            Classification(
                scores=scores,
                names=self.card.labels,
                size_hw=one.size_hw,
                source=one.name,
                model=self.card.name,
                ms=Timing(
                    decode=one.decode_ms,
                    preprocess=one.preprocess_ms,
                    network=scored.network_ms * share,
                    postprocess=scored.postprocess_ms * share,
                ),
            )
            for one, scores in zip(some, scored.probabilities, strict=True)
        ]


class _Prepared(NamedTuple):
    name: str
    size_hw: tuple[int, int]
    pixels: NDArray[Any]
    decode_ms: float
    preprocess_ms: float


class Scores(NamedTuple):
    """(N, num_classes) probabilities, and what they took together."""

    probabilities: NDArray[np.float32]
    network_ms: float
    postprocess_ms: float


class Scorer(Protocol):
    """From pictures to probabilities in two steps, of which the second takes up to `batch` pictures at once."""

    batch: int

    def prepare(self, picture: Image.Image) -> NDArray[Any]:
        """An RGB picture of any size -> what `score` takes of it."""

    def score(self, prepared: Sequence[NDArray[Any]]) -> Scores:
        """Probabilities of what was prepared."""


class PillowScorer:
    """Preprocesses with Pillow, then runs the bare network on the batch."""

    batch = 16

    def __init__(self, engine: Engine, preprocessing: Preprocessing) -> None:
        self._engine = engine
        self._preprocessing = preprocessing

    def prepare(self, picture: Image.Image) -> NDArray[Any]:
        return preprocess(picture, self._preprocessing)

    def score(self, prepared: Sequence[NDArray[Any]]) -> Scores:
        start = time.perf_counter()
        logits = self._engine.run(np.stack(prepared))
        network_ms, start = _ms_since(start), time.perf_counter()
        probabilities = softmax(logits)
        return Scores(probabilities, network_ms, _ms_since(start))


class GraphScorer:
    """Hands pictures to an exported graph, which does everything: its time counts as the network's."""

    batch = 1

    def __init__(self, engine: PictureEngine) -> None:
        self._engine = engine

    def prepare(self, picture: Image.Image) -> NDArray[Any]:
        return np.asarray(picture)

    def score(self, prepared: Sequence[NDArray[Any]]) -> Scores:
        start = time.perf_counter()
        probabilities = np.stack([self._engine.run(picture) for picture in prepared])
        return Scores(probabilities, _ms_since(start), 0.0)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., num_classes) -> probabilities of sum 1."""
    powers: NDArray[np.float64] = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities = powers / powers.sum(axis=-1, keepdims=True)
    return np.asarray(probabilities, np.float32)


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
