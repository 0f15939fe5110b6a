"""Boxes as arrays: corners and centres, overlap, and suppression of the less certain (NumPy).

A box is x1, y1, x2, y2 (`xyxy`): its left, upper, right and lower edge in continuous coordinates, so a box
around the single pixel in the corner is 0, 0, 1, 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]


def to_centers(boxes_xyxy: Boxes) -> Boxes:
    """(..., 4) corners -> centre x, centre y, width, height."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=-1)


def to_corners(boxes_cxcywh: Boxes) -> Boxes:
    """(..., 4) centre x, centre y, width, height -> corners."""
    center, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return np.concatenate([center - half, center + half], axis=-1)


def areas(boxes_xyxy: Boxes) -> NDArray[np.float32]:
    """(..., 4) -> (...)."""
    sides = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return np.asarray(sides[..., 0] * sides[..., 1])


def pairwise_iou(first_xyxy: Boxes, second_xyxy: Boxes) -> NDArray[np.float32]:
    """(N, 4), (M, 4) -> (N, M) intersection over union, 0..1; 0 where both boxes are empty."""
    # A row for each edge: four times as fast as edges that lie side by side.
    first, second = np.ascontiguousarray(first_xyxy.T)[:, :, None], np.ascontiguousarray(second_xyxy.T)[:, None]
    width, height = np.maximum(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), 0)
    inter = width * height
    union = areas(first_xyxy)[:, None] + areas(second_xyxy)[None, :] - inter
    return np.asarray(np.divide(inter, union, out=np.zeros_like(inter), where=union > 0))


def nms(boxes_xyxy: Boxes, scores: NDArray[np.float32], iou_threshold: float, limit: int) -> NDArray[np.int64]:
    """Indices of the boxes that are kept, best first: none overlaps a better one by more than the threshold.

    Of equal scores the earlier box goes first. limit: how many are kept at most. An empty box overlaps
    nothing. Source: torchvision's `nms`, whose answers these are.
    """
    return batched_nms(boxes_xyxy, scores, np.zeros(len(scores), np.int64), iou_threshold, limit)


def batched_nms(
    boxes_xyxy: Boxes, scores: NDArray[np.float32], labels: NDArray[np.int64], iou_threshold: float, limit: int
) -> NDArray[np.int64]:
    """`nms` within each label; indices of the best `limit` of all that are kept, best first."""
    threshold = round_down(iou_threshold)
    corners, area = np.ascontiguousarray(boxes_xyxy.T), areas(boxes_xyxy)

    def covers(better: NDArray[np.int64], worse: NDArray[np.int64]) -> NDArray[np.bool_]:
        (x1, y1, x2, y2), (left, upper, right, lower) = corners[:, better, None], corners[:, worse]
        inter = np.maximum(np.minimum(x2, right) - np.maximum(x1, left), 0)
        inter *= np.maximum(np.minimum(y2, lower) - np.maximum(y1, upper), 0)
        with np.errstate(invalid="ignore", divide="ignore"):  # two empty boxes: 0 / 0, which is not above
            over = inter / (area[better, None] + area[worse] - inter) > threshold
        return np.asarray(over & (labels[better, None] == labels[worse]))

    # A box is judged by better ones alone, so the work can end with the last that is wanted: what decides is
    # how many boxes are kept, hardly how many there are.
    kept = np.empty(0, np.int64)
    for few in _best_first(scores):
        free = few[~covers(kept, few).any(axis=0)]
        covered, alive = covers(free, free), np.ones(len(free), bool)
        for place in range(len(free)):
            if alive[place]:
                alive[place + 1 :] &= ~covered[place, place + 1 :]
        kept = np.concatenate([kept, free[alive]])[:limit]
        if len(kept) == limit:
            break
    return kept


_FEW = 256


def _best_first(scores: NDArray[np.float32]) -> Iterator[NDArray[np.int64]]:
    """All indices, best first and of equal scores the earlier first, a few at a time. Sorts no more than it must."""
    rest, size = np.arange(len(scores)), _FEW
    while len(rest):
        costs = -scores[rest]
        last = np.partition(costs, size - 1)[size - 1] if size < len(rest) else np.inf
        group, rest = rest[~(costs > last)], rest[costs > last]
        group = group[np.argsort(-scores[group], kind="stable")]
        yield from (group[start : start + _FEW] for start in range(0, len(group), _FEW))
        size *= 4


def round_down(share: float) -> np.float32:
    """The largest float32 that is not above: a float32 is above it just where it is above `share` itself."""
    nearest = np.float32(share)
    return nearest if float(nearest) <= share else np.nextafter(nearest, np.float32(-np.inf))
