"""Boxes: the two ways to write them, overlaps worked out by hand, and suppression against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mobilenetv2.boxes import Boxes, areas, batched_nms, nms, pairwise_iou, to_centers, to_corners


def rows(*values: tuple[float, float, float, float]) -> Boxes:
    return np.array(values, np.float32).reshape(-1, 4)


def test_corners_and_centres_by_hand() -> None:
    assert to_centers(rows((0, 0, 1, 1), (2, 4, 8, 5))).tolist() == [[0.5, 0.5, 1, 1], [5, 4.5, 6, 1]]
    assert to_corners(rows((0.5, 0.5, 1, 1), (5, 4.5, 6, 1))).tolist() == [[0, 0, 1, 1], [2, 4, 8, 5]]


@settings(max_examples=200, derandomize=True, deadline=None)
@given(arrays(np.float32, (2, 3, 4), elements=st.integers(-1000, 1000)))
def test_corners_and_centres_are_inverse(boxes: Boxes) -> None:
    """Also of boxes in the wrong order, and with batches in front. Halves of whole numbers do not round."""
    assert np.array_equal(to_corners(to_centers(boxes)), boxes)
    assert to_corners(to_centers(boxes)).dtype == np.float32


def test_areas() -> None:
    assert areas(rows((0, 0, 2, 3), (1, 1, 1, 9))).tolist() == [6, 0]
    assert areas(np.zeros((2, 5, 4), np.float32)).shape == (2, 5)
    assert areas(rows()).shape == (0,)


@pytest.mark.parametrize(
    ("other", "overlap"),
    [
        ((0, 0, 2, 2), 1),
        ((1, 0, 3, 2), 1 / 3),
        ((1, 1, 3, 3), 1 / 7),
        ((0, 0, 1, 1), 1 / 4),
        ((2, 0, 4, 2), 0),  # shares an edge
        ((2, 2, 4, 4), 0),  # shares a corner
        ((5, 0, 6, 2), 0),
        ((3, 3, 9, 9), 0),  # apart on both axes: two negative sides are no area
        ((1, 1, 1, 1), 0),  # empty, inside
    ],
)
def test_overlap_with_a_square_of_two(other: tuple[float, float, float, float], overlap: float) -> None:
    found = pairwise_iou(rows((0, 0, 2, 2)), rows(other))
    assert found.dtype == np.float32
    assert found.tolist() == [[pytest.approx(overlap)]]


def test_overlaps_of_nothing() -> None:
    assert pairwise_iou(rows(), rows((0, 0, 1, 1))).shape == (0, 1)
    assert pairwise_iou(rows((0, 0, 1, 1)), rows()).shape == (1, 0)
    assert pairwise_iou(rows((1, 1, 1, 1)), rows((1, 1, 1, 1))).tolist() == [[0]]


def test_suppression_by_hand() -> None:
    boxes = rows((0, 0, 2, 2), (0, 0, 2, 2.5), (2, 0, 4, 2), (0, 0, 2, 1.5))
    scores = np.array([0.5, 0.9, 0.1, 0.7], np.float32)
    # The second covers the first by .8 and the last by .6.
    assert nms(boxes, scores, 0.7, 100).tolist() == [1, 3, 2]
    assert nms(boxes, scores, 0.5, 100).tolist() == [1, 2]
    assert nms(boxes, scores, 0.9, 100).tolist() == [1, 3, 0, 2]
    assert nms(boxes, scores, 0.9, 2).tolist() == [1, 3]


def test_a_suppressed_box_suppresses_nothing() -> None:
    boxes = rows((0, 0, 4, 1), (1, 0, 5, 1), (2, 0, 6, 1))  # neighbours by 3/5, the outer two by 1/3
    assert nms(boxes, np.array([0.9, 0.8, 0.7], np.float32), 0.5, 100).tolist() == [0, 2]


def test_of_equal_scores_the_earlier_box_goes_first() -> None:
    boxes = rows((0, 0, 1, 1), (5, 5, 6, 6), (0, 0, 1, 1), (7, 7, 8, 8))
    scores = np.full(4, 0.5, np.float32)
    assert nms(boxes, scores, 0.5, 100).tolist() == [0, 1, 3]
    assert batched_nms(boxes, scores, np.array([1, 0, 0, 0]), 0.5, 100).tolist() == [0, 1, 2, 3]
    assert batched_nms(boxes, scores, np.array([1, 0, 0, 0]), 0.5, 2).tolist() == [0, 1]


def test_an_empty_box_overlaps_nothing() -> None:
    boxes = rows((1, 1, 1, 1), (1, 1, 1, 1), (0, 0, 2, 2))
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert nms(boxes, scores, 0.0, 100).tolist() == [0, 1, 2]


def test_nothing_to_suppress() -> None:
    none = nms(rows(), np.zeros(0, np.float32), 0.5, 100)
    assert none.shape == (0,)
    assert none.dtype == np.int64
    none = batched_nms(rows(), np.zeros(0, np.float32), np.zeros(0, np.int64), 0.5, 100)
    assert none.shape == (0,)
    assert none.dtype == np.int64


def test_limits() -> None:
    boxes = rows((0, 0, 1, 1), (2, 0, 3, 1), (4, 0, 5, 1))
    scores, labels = np.array([0.1, 0.3, 0.2], np.float32), np.array([0, 1, 1])
    assert nms(boxes, scores, 0.5, 0).tolist() == []
    assert batched_nms(boxes, scores, labels, 0.5, 2).tolist() == [1, 2]
    assert batched_nms(boxes, scores, labels, 0.5, 0).tolist() == []


def test_classes_do_not_suppress_each_other() -> None:
    boxes, scores = rows((0, 0, 2, 2), (0, 0, 2, 2), (0, 0, 2, 2)), np.array([0.3, 0.9, 0.8], np.float32)
    assert nms(boxes, scores, 0.5, 100).tolist() == [1]
    assert batched_nms(boxes, scores, np.array([7, 7, 2]), 0.5, 100).tolist() == [1, 2]


@pytest.mark.parametrize("limit", [1, 255, 256, 257, 700, 5000])
def test_crowds_against_plain_loops(limit: int) -> None:
    """Hundreds that suppress each other in chains, with equal scores across every boundary of the work."""
    random = np.random.default_rng(limit)
    low = random.integers(0, 60, (1500, 2))
    boxes = np.concatenate([low, low + random.integers(0, 12, (1500, 2))], axis=1).astype(np.float32)
    scores = (random.integers(0, 20, 1500) / 20).astype(np.float32)
    labels = random.integers(0, 3, 1500)
    assert batched_nms(boxes, scores, labels, 0.4, limit).tolist() == plainly(boxes, scores, labels, 0.4)[:limit]


def plainly(
    boxes: Boxes,
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    threshold: float,
) -> list[int]:
    overlap = pairwise_iou(boxes, boxes).tolist()  # doubles: 2/5 in single precision is above .4
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: (-scores[index], index)):
        if all(labels[better] != labels[index] or overlap[better][index] <= threshold for better in kept):
            kept.append(index)
    return kept
