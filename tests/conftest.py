"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.architecture import Architecture
from mobilenetv2.detector import Detector
from mobilenetv2.modelfile import Card, ModelFile, tensor_shapes
from mobilenetv2.postprocessing import Postprocessing
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.segmenter import Segmenter

# One thread: the networks of the tests are too small to share, and other work may hold the second processor.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures and checkpoints beside a checkout; tests that need it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data in ../shared/data")
    return SHARED_DATA


class RandomModel(Protocol):
    def __call__(self, *, preprocessing: Preprocessing, seed: int = 0, **architecture: Any) -> ModelFile: ...


class RandomDetector(Protocol):
    def __call__(
        self,
        *,
        preprocessing: Preprocessing,
        postprocessing: Postprocessing | None = None,
        seed: int = 0,
        **detector: Any,
    ) -> ModelFile: ...


class RandomSegmenter(Protocol):
    def __call__(self, *, preprocessing: Preprocessing, seed: int = 0, **segmenter: Any) -> ModelFile: ...


@pytest.fixture(scope="session")
def random_segmenter() -> RandomSegmenter:
    """The same for segmenters."""
    return make_random_segmenter


@pytest.fixture(scope="session")
def random_detector() -> RandomDetector:
    """The same for detectors."""
    return make_random_detector


@pytest.fixture(scope="session")
def random_model() -> RandomModel:
    """Makes model files whose batch norms and biases all matter, and whose answers are far from even."""
    return make_random_model


def make_random_model(*, preprocessing: Preprocessing, seed: int = 0, **architecture: Any) -> ModelFile:
    """Options are those of `Architecture`."""
    record = Architecture(**{"width": 0.35, "num_classes": 10, **architecture})
    card = Card(
        name="random", task="classify", architecture=record, labels=_labels(record), preprocessing=preprocessing
    )
    return _random(card, seed)


def make_random_detector(
    *, preprocessing: Preprocessing, postprocessing: Postprocessing | None = None, seed: int = 0, **detector: Any
) -> ModelFile:
    """Options are those of `Detector`."""
    record = Detector(**{"width": 0.1, "num_classes": 3, **detector})
    card = Card(
        name="random",
        task="detect",
        architecture=record,
        labels=_labels(record),
        preprocessing=preprocessing,
        postprocessing=postprocessing or Postprocessing(),
    )
    return _random(card, seed)


def make_random_segmenter(*, preprocessing: Preprocessing, seed: int = 0, **segmenter: Any) -> ModelFile:
    """Options are those of `Segmenter`."""
    record = Segmenter(**{"width": 0.1, "num_classes": 5, **segmenter})
    card = Card(name="random", task="segment", architecture=record, labels=_labels(record), preprocessing=preprocessing)
    return _random(card, seed)


def _labels(record: Architecture | Detector | Segmenter) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(record.num_classes))


def _random(card: Card, seed: int) -> ModelFile:
    random = np.random.default_rng(seed)

    def values(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        if name.endswith(("norm.weight", "running_var")):
            return random.uniform(0.5, 1.5, shape)
        if name.endswith(("norm.bias", "running_mean")):
            return random.normal(0, 0.3, shape)
        # Kernels that keep the variance; a classifier that is sure of its answers.
        scale = 20.0 if name.startswith("classifier") else 1.4
        return random.normal(0, scale / np.sqrt(np.prod(shape[1:])), shape)

    shapes = tensor_shapes(card.architecture)
    return ModelFile(card=card, tensors={name: values(name, shape).astype(np.float32) for name, shape in shapes})


COLOURS = {"blue": (40, 60, 200), "green": (40, 170, 60), "red": (200, 50, 40)}


def paint(path: Path, colour: tuple[int, int, int], seed: int, size: int = 24) -> None:
    """A small noisy picture of one colour, which a network can learn in seconds."""
    noise = np.random.default_rng(seed).integers(-40, 40, (size, size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """An image folder: three colours, 12 pictures each to train on and 4 each to validate on."""
    root = tmp_path / "colours"
    for split, count in (("train", 12), ("val", 4)):
        for name, colour in COLOURS.items():
            for index in range(count):
                paint(root / split / name / f"{index}.png", colour, seed=1000 * len(split) + index)
    return root


# The smallest training that goes through every part of the loop.
QUICK = (
    "pretrained=none",
    "width=0.35",
    "resolution=32",
    "epochs=2",
    "warmup_epochs=0",
    "batch_size=8",
    "freeze_stages=0",
    "workers=0",
    "learning_rate=0.002",
    "head_learning_rate=0.002",
    "ema_decay=0.9",
)
