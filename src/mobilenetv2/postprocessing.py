"""From a detector's raw outputs to boxes: described once, in a record that the model file carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mobilenetv2.errors import UserError

Scores = Literal["sigmoid", "softmax"]
MAX_DETECTIONS = 10_000


@dataclass(frozen=True, kw_only=True)
class Postprocessing:
    """Scores from logits, decoding, suppression.

    scores: "sigmoid", each class for itself, or "softmax" over the classes and the background (class 0).
    score_threshold: boxes of a lower score are not shown, 0..1. Evaluation goes far below it.
    iou_threshold: a box that overlaps a better one of its class by more is suppressed, 0..1.
    max_detections: of one picture.
    """

    scores: Scores = "sigmoid"
    score_threshold: float = 0.3
    iou_threshold: float = 0.6
    max_detections: int = 100

    def __post_init__(self) -> None:
        if self.scores not in ("sigmoid", "softmax"):
            raise UserError(f"scores {self.scores!r} are not known; they can be 'sigmoid' or 'softmax'")
        for name in ("score_threshold", "iou_threshold"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise UserError(f"{name.replace('_', ' ')} {value!r} is out of range; give 0 to 1")
        if not isinstance(self.max_detections, int) or not 1 <= self.max_detections <= MAX_DETECTIONS:
            raise UserError(f"max detections {self.max_detections!r} is out of range; give 1 to {MAX_DETECTIONS}")
