"""What a model answers: frozen records in units of the original picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds that each part of a prediction took."""

    decode: float
    preprocess: float
    network: float
    postprocess: float


@dataclass(frozen=True, kw_only=True)
class Label:
    """One class, its place among the outputs, and its score, 0..1."""

    name: str
    index: int
    score: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification:
    """The answer of a classifier for one picture.

    scores: (num_classes,) float32 probabilities that sum to 1, in the order of `names`.
    size_hw: height and width of the picture after its EXIF orientation, in pixels.
    source: where the picture came from: a path, an address, '-' or '' for something in memory.
    """

    scores: NDArray[np.float32]
    names: tuple[str, ...]
    size_hw: tuple[int, int]
    source: str
    model: str
    ms: Timing

    task = "classify"

    @property
    def best(self) -> Label:
        return self.top(1)[0]

    def top(self, k: int = 5) -> list[Label]:
        """The `k` most probable classes, most probable first; equal scores in the order of the classes."""
        order = np.argsort(-self.scores, kind="stable")[:k]
        return [Label(name=self.names[i], index=int(i), score=float(self.scores[i])) for i in order]

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """Plain values, as `predict --json` prints them; scores rounded to 6 digits, times to .01 ms."""
        return {
            "source": self.source,
            "task": self.task,
            "model": self.model,
            "size_hw": list(self.size_hw),
            "ms": {part: round(value, 2) for part, value in asdict(self.ms).items()},
            "labels": [
                {"name": label.name, "index": label.index, "score": round(label.score, 6)} for label in self.top(top)
            ],
        }
