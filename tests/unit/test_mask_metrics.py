"""Intersection over union and boundaries, held against plain loops."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mobilenetv2.evaluation.mask_metrics import (
    boundary_counts,
    boundary_f,
    boundary_tolerance,
    confusion,
    mask_metrics,
    mean_iou,
    pixel_accuracy,
)
from mobilenetv2.masks import IGNORED

Mask = NDArray[np.uint8]
CLASSES = 4


@st.composite
def masks(draw: st.DrawFn) -> tuple[Mask, Mask]:
    """What is true, with ignored pixels, and what was found; pixels, or few large areas."""
    height, width, block = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = [*range(draw(st.integers(1, CLASSES))), *([IGNORED] if draw(st.booleans()) else [])]

    def mask(values: list[int]) -> Mask:
        coarse = random.choice(np.array(values, np.uint8), (math.ceil(height / block), math.ceil(width / block)))
        return coarse.repeat(block, 0).repeat(block, 1)[:height, :width]

    return mask(values), mask(list(range(draw(st.integers(1, CLASSES)))))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(masks())
def test_counts_are_a_plain_loop_s(both: tuple[Mask, Mask]) -> None:
    true, found = both
    expected = np.zeros((CLASSES, CLASSES), np.int64)
    for place in np.ndindex(true.shape):
        if true[place] != IGNORED:
            expected[true[place], found[place]] += 1
    counts = confusion(true, found, CLASSES)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, expected)
    ious = []
    for label in range(CLASSES):
        truth, answer = (true == label), (found == label) & (true != IGNORED)
        if union := int((truth | answer).sum()):
            ious.append(int((truth & answer).sum()) / union)
    if ious:
        assert mean_iou(counts) == pytest.approx(np.mean(ious))
        assert pixel_accuracy(counts) == pytest.approx((true == found)[true != IGNORED].mean())
    else:
        assert mean_iou(counts) is None
        assert pixel_accuracy(counts) is None


def test_large_masks_and_255_classes() -> None:
    """More pixels than are counted at once, and every value that a mask may hold."""
    random = np.random.default_rng(0)
    true, found = random.integers(0, 256, (2, 1100, 1000)).astype(np.uint8)
    found[found == IGNORED] = 254
    expected = np.zeros((256, 255), np.int64)
    np.add.at(expected, (true.reshape(-1), found.reshape(-1)), 1)
    np.testing.assert_array_equal(confusion(true, found, 255), expected[:255])


def test_what_is_no_class_is_refused() -> None:
    mask = np.array([[0, 1], [2, IGNORED]], np.uint8)
    with pytest.raises(ValueError, match="none of 2 classes"):
        confusion(mask, np.zeros_like(mask), 2)
    with pytest.raises(ValueError, match="none of 3 classes"):
        confusion(np.zeros_like(mask), mask, 3)
    with pytest.raises(ValueError, match="different size"):
        confusion(mask, mask[:, :1], 3)
    # Whatever was found where nothing is known does not count.
    assert confusion(mask, np.full_like(mask, 2), 3).sum() == 3


# ---- Boundaries


def slow_counts(true: Mask, found: Mask, reach: int) -> list[list[int]]:
    """The definition, point by point."""
    ignored = [place for place in np.ndindex(true.shape) if true[place] == IGNORED]

    def boundary(mask: Mask, label: int) -> list[tuple[int, ...]]:
        places: list[tuple[int, ...]] = []
        for y, x in np.ndindex(mask.shape):
            beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [(v, u) for v, u in beside if 0 <= v < mask.shape[0] and 0 <= u < mask.shape[1]]
            if mask[y, x] != label or (y, x) in ignored:
                continue
            if any(mask[place] != label and place not in ignored for place in inside):
                places.append((y, x))
        return places

    def near(place: tuple[int, ...], others: list[tuple[int, ...]]) -> bool:
        return any(math.dist(place, other) <= reach for other in others)

    rows = []
    for label in range(CLASSES):
        sides = [boundary(found, label), boundary(true, label)]
        row = []
        for own, other in (sides, sides[::-1]):
            counting = [place for place in own if not near(place, ignored)]
            row += [sum(near(place, other) for place in counting), len(counting)]
        rows.append(row)
    return rows


@settings(max_examples=200, deadline=None, derandomize=True)
@given(masks(), st.integers(0, 4))
def test_boundaries_are_the_definition_s(both: tuple[Mask, Mask], reach: int) -> None:
    true, found = both
    counts = boundary_counts(true, found, CLASSES, reach)
    assert counts.tolist() == slow_counts(true, found, reach)
    for score, (near_true, of_found, near_found, of_true) in zip(boundary_f(counts), counts.tolist(), strict=True):
        if of_found + of_true == 0:
            assert math.isnan(score)
        elif near_true == 0 or near_found == 0:
            assert score == 0
        else:
            assert score == pytest.approx(2 / (of_found / near_true + of_true / near_found))


def test_the_tolerance_is_csurka_s() -> None:
    assert boundary_tolerance((360, 480)) == 5
    assert boundary_tolerance((1, 1)) == 1
    true = np.zeros((360, 480), np.uint8)
    true[:, 200:] = 1
    for shift, expected in ((0, 1.0), (5, 1.0), (-5, 1.0), (6, 0.0), (-6, 0.0)):
        found = np.zeros_like(true)
        found[:, 200 + shift :] = 1
        assert boundary_f(boundary_counts(true, found, 2)).tolist() == [expected] * 2


def test_a_rim_of_ignored_pixels_is_neither_right_nor_wrong() -> None:
    """VOC draws one around each object: what is found along it cannot be judged."""
    true = np.zeros((60, 60), np.uint8)
    true[20:40, 20:40] = 1
    true[18:42, 18:20] = true[18:42, 40:42] = true[18:20, 18:42] = true[40:42, 18:42] = IGNORED
    found = np.zeros_like(true)
    found[17:43, 19:41] = 1
    assert boundary_counts(true, found, 2, 3).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]
    # Far from it, it can.
    found[2:8, 2:8] = 1
    near_true, of_found, near_found, of_true = boundary_counts(true, found, 2, 3)[1]
    assert (near_true, of_found, near_found, of_true) == (0, 20, 0, 0)


def test_boundaries_of_a_street_take_little_time() -> None:
    """480x360 with 11 classes: a few hundredths of a second, where a class at a time would take many."""
    random = np.random.default_rng(0)
    true = random.integers(0, 11, (12, 16)).astype(np.uint8).repeat(30, 0).repeat(30, 1)
    found = np.roll(true, (3, 4), (0, 1))
    times = []
    for _ in range(5):
        start = time.process_time()
        boundary_counts(true, found, 11)
        times.append(time.process_time() - start)
    assert min(times) < 0.06


# ---- What is made of them


def metrics_of(rows: list[list[int]], boundary: list[list[float]]) -> Any:
    names = tuple("abcd"[: len(rows)])
    return mask_metrics(np.array(rows, np.int64), np.array(boundary).reshape(-1, len(rows)), names)


def test_classes_that_are_nowhere_do_not_count_and_those_only_found_do() -> None:
    nan = math.nan
    # a: 6 of 10 found, 2 as b, 2 as c. b: all 4 found. c: not there, but found. d: in neither.
    metrics = metrics_of(
        [[6, 2, 2, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[1.0, 0.5, nan, nan], [0.5, nan, 0.0, nan], [nan, nan, nan, nan]],
    )
    a, b, c, d = metrics.per_class
    assert (a.pixels, a.iou, a.precision, a.recall, a.boundary_f) == (10, 0.6, 1, 0.6, 0.75)
    assert (b.pixels, b.iou, b.recall, b.boundary_f) == (4, 4 / 6, 1, 0.5)
    assert (c.pixels, c.iou, c.precision, c.recall, c.boundary_f) == (0, 0, 0, None, 0)
    assert (d.pixels, d.iou, d.precision, d.recall, d.boundary_f) == (0, None, None, None, None)
    assert metrics.miou == pytest.approx((0.6 + 4 / 6 + 0) / 3)
    assert metrics.mean_accuracy == pytest.approx(0.8)
    assert metrics.pixel_accuracy == pytest.approx(10 / 14)
    assert metrics.fw_iou == pytest.approx((0.6 * 10 + 4 / 6 * 4) / 14)
    # Each picture's mean over its classes; the last has no boundaries.
    assert metrics.boundary_f == pytest.approx((0.75 + 0.25) / 2)


def test_nothing_that_counts_is_no_number() -> None:
    metrics = metrics_of([[0, 0], [0, 0]], [])
    assert (metrics.miou, metrics.pixel_accuracy, metrics.mean_accuracy, metrics.fw_iou) == (None,) * 4
    assert metrics.boundary_f is None
    assert all(row.iou is None for row in metrics.per_class)
