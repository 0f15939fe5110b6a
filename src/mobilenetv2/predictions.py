"""What a model answers: frozen records in units of the original picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.masks import outlines, rle_encode


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


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One box: the class's name and place, the score, 0..1, and the edges in pixels of the original picture."""

    name: str
    index: int
    score: float
    box_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """The answer of a detector for one picture: boxes, surest first.

    boxes_xyxy: (N, 4) float32, left, upper, right and lower edge in pixels of the picture after its EXIF
        orientation, clipped to it. scores: (N,) float32, 0..1. labels: (N,) int64, places in `names`.
    The rest as in `Classification`.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    size_hw: tuple[int, int]
    source: str
    model: str
    ms: Timing

    task = "detect"

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def boxes(self) -> list[Detection]:
        return [
            Detection(
                name=self.names[label],
                index=int(label),
                score=float(score),
                box_xyxy=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
            )
            for box, score, label in zip(self.boxes_xyxy, self.scores, self.labels, strict=True)
        ]

    def above(self, score: float) -> Detections:
        """Only the boxes of a higher score."""
        surer = self.scores > np.float32(score)
        return replace(self, boxes_xyxy=self.boxes_xyxy[surer], scores=self.scores[surer], labels=self.labels[surer])

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Boxes as entries of a COCO results file; edges rounded to .01 pixel, scores to 6 digits.

        image_id: COCO's number of the picture. category_ids: COCO's number of each class; from 1 if None.
        """
        ids = range(1, len(self.names) + 1) if category_ids is None else category_ids
        entries = []
        for box in self.boxes:
            x1, y1, x2, y2 = box.box_xyxy
            entries.append(
                {
                    "image_id": image_id,
                    "category_id": ids[box.index],
                    "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
                    "score": round(box.score, 6),
                }
            )
        return entries

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `predict --json` prints them; edges rounded to .01 pixel, scores to 6 digits."""
        return {
            "source": self.source,
            "task": self.task,
            "model": self.model,
            "size_hw": list(self.size_hw),
            "ms": {part: round(value, 2) for part, value in asdict(self.ms).items()},
            "detections": [
                {
                    "name": box.name,
                    "index": box.index,
                    "score": round(box.score, 6),
                    "box_xyxy": [round(edge, 2) for edge in box.box_xyxy],
                }
                for box in self.boxes
            ],
        }


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One class of a picture: its name and place, and how many pixels are of it."""

    name: str
    index: int
    pixels: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """The answer of a segmenter for one picture: a class for each pixel.

    mask: (H, W) uint8, places in `names`, in pixels of the picture after its EXIF orientation.
    The rest as in `Classification`.
    """

    mask: NDArray[np.uint8]
    names: tuple[str, ...]
    size_hw: tuple[int, int]
    source: str
    model: str
    ms: Timing

    task = "segment"

    @property
    def segments(self) -> list[Segment]:
        """The classes that are there, largest first; equal ones in the order of the classes."""
        pixels = np.bincount(self.mask.reshape(-1), minlength=len(self.names))
        order = np.argsort(-pixels, kind="stable")
        return [Segment(name=self.names[i], index=int(i), pixels=int(pixels[i])) for i in order if pixels[i]]

    def to_dict(self, *, polygons: bool = False) -> dict[str, Any]:
        """Plain values, as `predict --json` prints them: where each class is, as COCO's run-length code.

        polygons: outlines too, as lists of x, y, x, y... in pixels; see `masks.outlines`.
        """
        return {
            "source": self.source,
            "task": self.task,
            "model": self.model,
            "size_hw": list(self.size_hw),
            "ms": {part: round(value, 2) for part, value in asdict(self.ms).items()},
            "segments": [
                {
                    **asdict(segment),
                    "rle": rle_encode(self.mask == segment.index),
                    **({"polygons": outlines(self.mask == segment.index)} if polygons else {}),
                }
                for segment in self.segments
            ],
        }


Prediction = Classification | Detections | Segmentation
