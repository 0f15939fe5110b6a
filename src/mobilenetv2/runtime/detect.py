"""From a detector's raw outputs to boxes, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.anchors import decode as decode_boxes
from mobilenetv2.boxes import Boxes, batched_nms
from mobilenetv2.postprocessing import Postprocessing

_CANDIDATES_PER_DETECTION = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Boxes of one picture, best first: (N, 4) float32 corners, (N,) float32 scores 0..1, (N,) int64 classes."""

    boxes_xyxy: Boxes
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    def in_pixels(self, size_hw: tuple[int, int]) -> Found:
        """Boxes in shares of a picture -> in its pixels, clipped to it."""
        height, width = size_hw
        boxes_xyxy = self.boxes_xyxy.clip(0, 1) * np.array([width, height, width, height], np.float32)
        return replace(self, boxes_xyxy=boxes_xyxy)


def decode(
    class_logits: NDArray[np.float32],
    box_codes: Boxes,
    anchors_xyxy: Boxes,
    postprocessing: Postprocessing,
) -> list[Found]:
    """What a detector found in each picture; boxes in shares of its input, not clipped.

    class_logits: (N, anchors, classes + 1), the background first. box_codes: (N, anchors, 4).
    anchors_xyxy: (anchors, 4) in shares of the input. Of equal scores the earlier anchor goes first, then the
    earlier class.
    """
    return [_decode_one(*one, anchors_xyxy, postprocessing) for one in zip(class_logits, box_codes, strict=True)]


def _decode_one(
    class_logits: NDArray[np.float32], box_codes: Boxes, anchors_xyxy: Boxes, postprocessing: Postprocessing
) -> Found:
    score = _sigmoid_above if postprocessing.scores == "sigmoid" else _softmax_above
    anchors, labels, scores = score(class_logits, np.float32(postprocessing.score_threshold))
    boxes_xyxy = decode_boxes(box_codes, anchors_xyxy) if len(anchors) else np.empty((0, 4), np.float32)

    def without_covered(some: NDArray[np.int64] | slice) -> Found:
        boxes, limit = boxes_xyxy[anchors[some]], postprocessing.max_detections
        kept = batched_nms(boxes, scores[some], labels[some], postprocessing.iou_threshold, limit)
        return Found(boxes_xyxy=boxes[kept], scores=scores[some][kept], labels=labels[some][kept])

    few = _CANDIDATES_PER_DETECTION * postprocessing.max_detections
    if len(scores) > few:
        # Only better boxes cover a box, so where the best candidates are enough, the others change nothing.
        found = without_covered(np.flatnonzero(scores >= np.partition(scores, -few)[-few]))
        if len(found.scores) == postprocessing.max_detections:
            return found
    return without_covered(slice(None))


# Exponentials are taken in float64 and rounded once, as exported graphs do it: in float32 each library is off in
# the last bit in a way of its own, which can decide what covers what. So only what may matter gets one.
_Candidates = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def _sigmoid_above(class_logits: NDArray[np.float32], threshold: np.float32) -> _Candidates:
    """Anchor, class and score of what is above the threshold, by anchor and then class.

    class_logits: (anchors, classes + 1). Each class is for itself, and the background does not count.
    """
    share = float(threshold)
    least = -np.inf
    if share > 0:
        # A look at the logits spares most of them; rounding can lift a score, but not by so much.
        lower = 0.999 * share
        least = math.log(lower / (1 - lower))
    anchors, classes = np.divmod(np.flatnonzero(class_logits > least), class_logits.shape[1])
    with np.errstate(over="ignore"):  # of a very negative logit, whose score is 0
        scores = (1 / (1 + np.exp(-class_logits[anchors, classes].astype(np.float64)))).astype(np.float32)
    above = (scores > threshold) & (classes > 0)
    return anchors[above], classes[above] - 1, scores[above]


def _softmax_above(class_logits: NDArray[np.float32], threshold: np.float32) -> _Candidates:
    """The same; the classes compete with each other and with the background."""
    highest = class_logits.max(axis=1, keepdims=True)
    # A share is no more than its power over the highest one, which is 1.
    least = math.log(float(threshold)) - 1e-3 if threshold > 0 else -np.inf
    rows = np.flatnonzero((class_logits[:, 1:] - highest > least).any(axis=1))
    powers = np.exp((class_logits[rows] - highest[rows]).astype(np.float64))
    scores = (powers / powers.sum(axis=1, keepdims=True))[:, 1:].astype(np.float32)
    chosen, labels = np.nonzero(scores > threshold)
    return rows[chosen], labels, scores[chosen, labels]
