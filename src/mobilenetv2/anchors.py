"""Anchors: the boxes that an SSD refines, their coding, and which of them answers for which true box (NumPy).

Everything here is in shares of the picture: 0, 0 its upper left corner, 1, 1 its lower right one.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.boxes import Boxes, pairwise_iou, to_centers, to_corners
from mobilenetv2.errors import UserError

# For each map, the width and height of each anchor of a cell, in shares of the input's shorter side.
AnchorSizes = tuple[tuple[tuple[float, float], ...], ...]

MAPS = 6
FIRST_STRIDE = 16
FITTED_A_CELL = 6
# More boxes than this are thinned out evenly before they are clustered, which takes three seconds then.
MOST_CLUSTERED = 10_000
# What offsets are multiplied by before the network learns them: x, y, width, height (TF Object Detection API).
CODE_SCALES_XYWH = np.array([10, 10, 5, 5], np.float32)
# exp() of a larger code would make a box of more than 62 times its anchor; as torchvision.
MAX_LOG_SCALE = math.log(1000 / 16)


def tf_anchor_sizes(smallest: float = 0.2, largest: float = 0.95) -> AnchorSizes:
    """The rule of the TF Object Detection API: 3 anchors a cell on the first map, 6 on the five others.

    The scales are evenly spaced; on each map there are aspect ratios 1, 2, 1/2, 3, 1/3, and a square between
    this scale and the next. The first map has (.1, 1), (.2, 2) and (.2, 1/2) only.
    """
    scales = [smallest + (largest - smallest) * step / (MAPS - 1) for step in range(MAPS)] + [1.0]
    rows = [[(0.1, 1.0), (smallest, 2.0), (smallest, 0.5)]]
    for scale, following in itertools.pairwise(scales[1:]):
        rows.append([(scale, ratio) for ratio in (1, 2, 1 / 2, 3, 1 / 3)] + [(math.sqrt(scale * following), 1)])
    return tuple(tuple((scale * math.sqrt(ratio), scale / math.sqrt(ratio)) for scale, ratio in row) for row in rows)


def map_sizes(size_hw: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of the six maps for an input of that size in pixels: stride 16, 32, 64, ..., rounded up."""
    height, width = size_hw
    strides = [FIRST_STRIDE * 2**step for step in range(MAPS)]
    return [(-(-height // stride), -(-width // stride)) for stride in strides]


def anchor_grid(size_hw: tuple[int, int], sizes: AnchorSizes) -> Boxes:
    """(anchors, 4) xyxy in shares of the picture, by map, row, column and anchor of the cell. Not clipped.

    size_hw: of the network's input, in pixels.
    """
    height, width = size_hw
    shorter = min(size_hw)
    grids = []
    for (rows, columns), cell in zip(map_sizes(size_hw), sizes, strict=True):
        y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
        wh = np.array(cell, np.float64).reshape(-1, 2) * shorter / (width, height)
        centers = np.broadcast_to(np.stack([x, y], -1)[:, :, None], (rows, columns, len(cell), 2))
        grids.append(np.concatenate([centers, np.broadcast_to(wh, centers.shape)], -1).reshape(-1, 4))
    return to_corners(np.concatenate(grids)).astype(np.float32)


def encode(boxes_xyxy: Boxes, anchors_xyxy: Boxes) -> Boxes:
    """(N, 4), (N, 4) -> (N, 4) codes: offset of the centre and logarithm of the sides, relative to the anchor."""
    boxes, anchors = to_centers(boxes_xyxy), to_centers(anchors_xyxy)
    offsets = (boxes[:, :2] - anchors[:, :2]) / anchors[:, 2:]
    # A side of nothing has no logarithm.
    scales = np.log(np.maximum(boxes[:, 2:] / anchors[:, 2:], 1e-6))
    return np.concatenate([offsets, scales], axis=1).astype(np.float32) * CODE_SCALES_XYWH


def decode(codes: Boxes, anchors_xyxy: Boxes) -> Boxes:
    """(..., N, 4) codes, (N, 4) anchors -> (..., N, 4) xyxy in shares of the picture, not clipped."""
    anchors = to_centers(anchors_xyxy)
    offsets = codes / CODE_SCALES_XYWH
    centers = offsets[..., :2] * anchors[:, 2:] + anchors[:, :2]
    # In float64, then rounded, as an exported graph does it: the last bit can decide what covers what.
    factors = np.exp(np.minimum(offsets[..., 2:], np.float32(MAX_LOG_SCALE)).astype(np.float64)).astype(np.float32)
    sides = factors * anchors[:, 2:]
    return to_corners(np.concatenate([centers, sides], axis=-1))


def match(anchors_xyxy: Boxes, boxes_xyxy: Boxes, threshold: float = 0.5, *, least: int = 1) -> NDArray[np.int64]:
    """(anchors,) index of the true box that each anchor answers for, -1 for none.

    First every true box, in the order of the best overlap there still is, takes the free anchor that overlaps it
    most (so each has one of its own); then every other anchor takes the box that it overlaps most, if by
    `threshold` or more. Of equal overlaps the earlier box and anchor go first. Source: SSD, Sec. 2.2.
    least: with more than 1, each box in its turn that fewer anchors answer for takes more of those that answer for
    none, the most overlapping first: small boxes, which few anchors reach, would else hardly count in training.
    """
    if not len(boxes_xyxy):
        return np.full(len(anchors_xyxy), -1, np.int64)
    overlap = pairwise_iou(boxes_xyxy, anchors_xyxy)
    best = overlap.argmax(axis=0)
    matched = np.where(overlap[best, np.arange(len(anchors_xyxy))] >= threshold, best, -1)
    taken = np.zeros(len(anchors_xyxy), bool)
    queue = [(-float(row.max()), index, int(row.argmax())) for index, row in enumerate(overlap)]
    heapq.heapify(queue)
    while queue:
        negative, index, anchor = heapq.heappop(queue)
        if not negative:
            break  # what is left overlaps no free anchor
        if taken[anchor]:
            free = np.where(taken, -1, overlap[index])
            anchor = int(free.argmax())
            heapq.heappush(queue, (-max(float(free[anchor]), 0.0), index, anchor))
            continue
        taken[anchor] = True
        matched[anchor] = index
    if least > 1:
        for short in np.flatnonzero(np.bincount(matched[matched >= 0], minlength=len(overlap)) < least):
            more = least - int((matched == short).sum())
            free = np.where(matched < 0, overlap[short], 0)
            chosen = np.argsort(-free, kind="stable")[:more]
            matched[chosen[free[chosen] > 0]] = short
    return matched


def best_overlaps(anchors_xyxy: Boxes, boxes_xyxy: Boxes) -> NDArray[np.float32]:
    """(boxes,) the largest overlap of each true box with any anchor."""
    if not len(boxes_xyxy):
        return np.zeros(0, np.float32)
    return np.asarray(pairwise_iou(boxes_xyxy, anchors_xyxy).max(axis=1))


def fit_anchor_sizes(sides_wh: NDArray[np.floating[Any]], size_hw: tuple[int, int]) -> AnchorSizes:
    """Anchor sizes for boxes of these sides: 6 a cell on every map.

    Each box belongs to the coarsest map whose cells are at most half its size (the root of its area), as a coarser
    one has too few places for it; the boxes of a map are clustered. A map of fewer than 6 different boxes keeps the
    TF rule's sizes. The same for the same boxes.
    sides_wh: (N, 2) width and height of the true boxes in shares of the input's shorter side.
    size_hw: of the input, in pixels.
    Raises UserError where there are no boxes.
    """
    sides = sides_wh[(sides_wh > 0).all(axis=1)].astype(np.float64)
    if not len(sides):
        raise UserError("there are no boxes to fit anchors to; use the default ones, or add boxes")
    # Sorted, so that the order in which the boxes come changes nothing.
    sides = sides[np.lexsort((sides[:, 0], sides.prod(axis=1)))]
    sides = sides[np.linspace(0, len(sides) - 1, min(len(sides), MOST_CLUSTERED)).astype(int)]
    height, width = size_hw
    cells = np.array([max(height / rows, width / columns) for rows, columns in map_sizes(size_hw)]) / min(size_hw)
    place = (cells[None] <= np.sqrt(sides.prod(axis=1))[:, None] / 2).sum(axis=1).clip(min=1) - 1
    rows = []
    for index, default in enumerate(tf_anchor_sizes()):
        own = sides[place == index]
        enough = len(np.unique(own, axis=0)) >= FITTED_A_CELL
        rows.append(tuple(cluster_sides(own, FITTED_A_CELL)) if enough else default)
    return tuple(rows)


def cluster_sides(sides_wh: NDArray[np.float64], clusters: int, rounds: int = 100) -> list[tuple[float, float]]:
    """k-means with 1 - IoU as the distance, boxes laid on one corner (YOLOv2, Sec. 2); smallest area first.

    Of ten starts that pick boxes far from those picked before, the one that ends with the highest mean IoU.
    """
    random = np.random.default_rng(0)

    def overlaps(centers: NDArray[np.float64]) -> NDArray[np.float64]:
        inter = np.minimum(sides_wh[:, None], centers[None]).prod(axis=2)
        return np.asarray(inter / (sides_wh.prod(axis=1)[:, None] + centers.prod(axis=1)[None] - inter))

    best, best_iou = sides_wh[:clusters], -1.0
    for _ in range(10):
        centers = sides_wh[random.integers(len(sides_wh), size=1)]
        while len(centers) < clusters:
            distance = (1 - overlaps(centers).max(axis=1)).clip(min=0) ** 2
            centers = np.vstack([centers, sides_wh[random.choice(len(sides_wh), p=distance / distance.sum())]])
        nearest = np.full(len(sides_wh), -1)
        for _ in range(rounds):
            assigned = overlaps(centers).argmax(axis=1)
            if (assigned == nearest).all():
                break
            nearest = assigned
            for cluster in range(clusters):
                if len(members := sides_wh[nearest == cluster]):
                    centers[cluster] = members.mean(axis=0)
        if (reached := float(overlaps(centers).max(axis=1).mean())) > best_iou:
            best, best_iou = centers, reached
    return [(round(float(w), 5), round(float(h), 5)) for w, h in best[np.argsort(best.prod(axis=1), kind="stable")]]
