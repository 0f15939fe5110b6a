"""Anchors: the published numbers, the coding, and matching against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mobilenetv2.anchors import (
    FITTED_A_CELL,
    AnchorSizes,
    anchor_grid,
    best_overlaps,
    decode,
    encode,
    fit_anchor_sizes,
    map_sizes,
    match,
    tf_anchor_sizes,
)
from mobilenetv2.boxes import Boxes, pairwise_iou, to_centers
from mobilenetv2.detector import Detector
from mobilenetv2.errors import UserError
from mobilenetv2.networks.ssd import SSD, ssdlite

# -- which anchors there are


@pytest.mark.parametrize(("size", "anchors"), [(300, 1917), (320, 2034)])
def test_as_many_as_published(size: int, anchors: int) -> None:
    grid = anchor_grid((size, size), tf_anchor_sizes())
    assert grid.shape == (anchors, 4)
    assert grid.dtype == np.float32


def test_sizes_by_hand() -> None:
    """Scales .2, .35, .5, .65, .8, .95 and, after the last, 1; ratios are width over height."""
    sizes = tf_anchor_sizes()
    root2, root3 = 2**0.5, 3**0.5
    assert np.array(sizes[0]) == pytest.approx(
        np.array([(0.1, 0.1), (0.2 * root2, 0.2 / root2), (0.2 / root2, 0.2 * root2)])
    )
    assert np.array(sizes[1]) == pytest.approx(
        np.array(
            [
                (0.35, 0.35),
                (0.35 * root2, 0.35 / root2),
                (0.35 / root2, 0.35 * root2),
                (0.35 * root3, 0.35 / root3),
                (0.35 / root3, 0.35 * root3),
                ((0.35 * 0.5) ** 0.5, (0.35 * 0.5) ** 0.5),
            ]
        )
    )
    assert [row[0][0] for row in sizes[1:]] == pytest.approx([0.35, 0.5, 0.65, 0.8, 0.95])
    assert sizes[5][5] == pytest.approx((0.95**0.5, 0.95**0.5))
    assert [len(row) for row in sizes] == [3, 6, 6, 6, 6, 6]


def test_places_by_hand() -> None:
    grid = anchor_grid((320, 320), tf_anchor_sizes())
    # The first cell of the first map has its centre in 1/40 and its first anchor a side of .1.
    assert grid[0] == pytest.approx([0.025 - 0.05, 0.025 - 0.05, 0.025 + 0.05, 0.025 + 0.05])
    # Cells go along the row first, three anchors each: the second one's centre is 3/40 across.
    assert to_centers(grid)[3] == pytest.approx([0.075, 0.025, 0.1, 0.1])
    assert to_centers(grid)[60] == pytest.approx([0.025, 0.075, 0.1, 0.1])
    # The second map begins after 20 x 20 x 3.
    assert to_centers(grid)[1200] == pytest.approx([0.05, 0.05, 0.35, 0.35])
    assert to_centers(grid)[1200 + 6 * 99 + 1] == pytest.approx([0.95, 0.95, 0.35 * 2**0.5, 0.35 / 2**0.5])
    # The last map is one cell in the middle; nothing is clipped.
    assert to_centers(grid)[-1] == pytest.approx([0.5, 0.5, 0.95**0.5, 0.95**0.5])
    assert grid.min() < 0
    assert grid.max() > 1


def test_anchors_of_a_wide_picture_are_square_in_pixels() -> None:
    """.1 is a share of the shorter side, and so half as much of a side that is twice as long."""
    sizes = tf_anchor_sizes()
    wide = anchor_grid((160, 320), sizes)
    assert len(wide) == sum(
        rows * columns * len(row) for (rows, columns), row in zip(map_sizes((160, 320)), sizes, strict=True)
    )
    assert to_centers(wide)[0] == pytest.approx([1 / 40, 1 / 20, 0.05, 0.1])
    tall = anchor_grid((320, 160), sizes)
    assert to_centers(tall)[0] == pytest.approx([1 / 20, 1 / 40, 0.1, 0.05])
    pixels = to_centers(wide)[:, 2:] * np.array([320, 160], np.float32)
    assert sorted({round(float(side), 2) for side in pixels[:, 0]}) == sorted(
        {round(160 * width, 2) for row in sizes for width, _ in row}
    )


@pytest.fixture(scope="module")
def network() -> SSD:
    with torch.device("meta"):
        return ssdlite(width=0.35, num_classes=1).eval()


@pytest.mark.parametrize("size_hw", [(320, 320), (300, 300), (97, 225), (1, 1), (512, 513), (33, 1030)], ids=str)
def test_maps_are_those_of_the_network(network: SSD, size_hw: tuple[int, int]) -> None:
    images = torch.empty(1, 3, *size_hw, device="meta")
    assert map_sizes(size_hw) == [tuple(x.shape[2:]) for x in network.maps(images)]
    assert len(anchor_grid(size_hw, tf_anchor_sizes())) == network(images).box_codes.shape[1]


# -- coding


def spread(count: int, seed: int) -> Boxes:
    random = np.random.default_rng(seed)
    low = random.uniform(-0.2, 1, (count, 2))
    return np.concatenate([low, low + random.uniform(0.002, 1, (count, 2))], axis=1).astype(np.float32)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 30))
def test_decoding_undoes_encoding(seed: int, count: int) -> None:
    boxes, anchors = spread(count, seed), np.flip(spread(count, seed + 1), axis=0)
    # Sides at most 62 times those of the anchor, beyond which decoding stops.
    near = ((boxes[:, 2:] - boxes[:, :2]) / (anchors[:, 2:] - anchors[:, :2])).max(axis=1, initial=0) < 62
    codes = encode(boxes, anchors)
    assert codes.dtype == np.float32
    assert np.allclose(decode(codes, anchors)[near], boxes[near], atol=1e-5)
    assert np.allclose(encode(decode(codes, anchors), anchors)[near], codes[near], rtol=1e-3, atol=2e-2)


def test_codes_by_hand() -> None:
    anchors = np.array([[0.2, 0.2, 0.6, 0.4]], np.float32)
    assert encode(anchors, anchors).tolist() == [[0, 0, 0, 0]]
    # Right by half a width, down by a height; e times as wide, half as high.
    box = np.array([[0.6 - 0.2 * math.e, 0.5 - 0.05, 0.6 + 0.2 * math.e, 0.5 + 0.05]], np.float32)
    assert encode(box, anchors)[0] == pytest.approx([5, 10, 5, -5 * math.log(2)], rel=1e-5)


def test_decoding_stops_at_62_times_the_anchor() -> None:
    anchors = np.array([[0, 0, 1, 1]], np.float32)
    boxes = decode(np.array([[0, 0, 1e4, -1e4]], np.float32), anchors)
    assert to_centers(boxes)[0] == pytest.approx([0.5, 0.5, 62.5, 0])


def test_decoding_takes_batches() -> None:
    anchors = spread(7, seed=1)
    codes = np.random.default_rng(0).normal(size=(3, 7, 4)).astype(np.float32)
    together = decode(codes, anchors)
    assert together.dtype == np.float32
    assert all(np.array_equal(together[index], decode(codes[index], anchors)) for index in range(3))


def test_an_empty_box_has_finite_codes() -> None:
    assert np.isfinite(encode(np.array([[0.5, 0.5, 0.5, 0.5]], np.float32), spread(1, seed=0))).all()


# -- matching


def match_plainly(anchors: Boxes, boxes: Boxes, threshold: float) -> list[int]:
    """The docstring of `match`, word by word."""
    overlap = pairwise_iou(boxes, anchors).tolist()
    pairs = [(-overlap[box][anchor], box, anchor) for box in range(len(boxes)) for anchor in range(len(anchors))]
    owner: dict[int, int] = {}
    waiting = set(range(len(boxes)))
    for negative, box, anchor in sorted(pairs):
        if negative < 0 and box in waiting and anchor not in owner:
            owner[anchor] = box
            waiting.remove(box)
    found = []
    for anchor in range(len(anchors)):
        best = max(range(len(boxes)), key=lambda box: overlap[box][anchor], default=-1)  # the first of the largest
        if anchor in owner:
            found.append(owner[anchor])
        else:
            found.append(best if len(boxes) and overlap[best][anchor] >= threshold else -1)
    return found


@st.composite
def boxes(draw: st.DrawFn, *, least: int, most: int) -> Boxes:
    """On a coarse grid from 0 to 1, so that many are equal, touch, are empty or lie at the border."""
    count = draw(st.integers(least, most))
    corners = draw(arrays(np.float32, (count, 2, 2), elements=st.integers(0, 8))) / np.float32(8)
    if count and draw(st.booleans()):
        corners += draw(arrays(np.float32, (count, 2, 2), elements=st.integers(0, 100))) / np.float32(1000)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)


@settings(max_examples=1000, derandomize=True, deadline=None)
@given(
    anchors=boxes(least=1, most=12),
    found=boxes(least=0, most=16),
    threshold=st.sampled_from([0.125, 0.25, 0.5, 0.75, 1]),
)
def test_matching_equals_plain_loops(anchors: Boxes, found: Boxes, threshold: float) -> None:
    matched = match(anchors, found, threshold)
    assert matched.dtype == np.int64
    assert matched.tolist() == match_plainly(anchors, found, threshold)
    owned = set(matched.tolist()) - {-1}
    overlap = pairwise_iou(found, anchors)
    # Who has none overlaps only anchors that the forced choice gave to others.
    assert all((matched[overlap[box] > 0] >= 0).all() for box in range(len(found)) if box not in owned)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(found=boxes(least=0, most=10))
def test_matching_the_anchors_of_a_network(found: Boxes) -> None:
    anchors = anchor_grid((64, 64), tf_anchor_sizes())
    matched = match(anchors, found)
    assert matched.tolist() == match_plainly(anchors, found, 0.5)
    # There are anchors enough for every box that is no speck between them.
    large = (found[:, 2:] - found[:, :2] > 0.1).all(axis=1)
    assert set(np.flatnonzero(large)) <= set(matched.tolist())


def test_matching_by_hand() -> None:
    anchors = np.array([[0, 0, 0.4, 0.4], [0, 0, 0.4, 0.2], [0.5, 0.5, 1, 1], [0, 0.8, 0.2, 1]], np.float32)
    # The first two want the first anchor; the first of them fits it better, so the second has the next best.
    found = np.array([[0, 0, 0.4, 0.4], [0, 0, 0.4, 0.38], [0.9, 0.9, 1, 1], [0.3, 0.3, 0.3, 0.3]], np.float32)
    assert match(anchors, found).tolist() == [0, 1, 2, -1]
    # Who comes first does not matter, but for the numbers.
    assert match(anchors, found[[3, 2, 1, 0]]).tolist() == [3, 2, 1, -1]


def test_of_equal_overlaps_the_earlier_go_first() -> None:
    anchors = np.array([[0, 0, 1, 1]] * 4, np.float32)
    found = np.array([[0, 0, 0.5, 1], [0, 0, 1, 0.5]], np.float32)
    assert match(anchors, found).tolist() == [0, 1, 0, 0]
    assert match(anchors, found, threshold=0.6).tolist() == [0, 1, -1, -1]


def test_small_boxes_can_be_given_more_anchors() -> None:
    anchors = np.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 1, 0.8], [0.7, 0.7, 1, 1], [2, 2, 3, 3]], np.float32)
    found = np.array([[0, 0, 1, 1], [0.9, 0.9, 1, 1], [0.75, 0.75, 0.8, 0.8]], np.float32)
    assert match(anchors, found, 0.85).tolist() == [0, 0, 2, 1, -1]
    # The last box overlaps the taken anchors only, and nobody the far one.
    assert match(anchors, found, 0.85, least=3).tolist() == [0, 0, 2, 1, -1]
    assert match(anchors, found[:2], 0.85, least=3).tolist() == [0, 0, 0, 1, -1]
    assert match(anchors, found[:2], 0.85, least=2).tolist() == [0, 0, -1, 1, -1]
    # The second anchor only touches this box.
    assert match(anchors, found[[1]], 0.85, least=3).tolist() == [0, -1, -1, 0, -1]


def test_no_boxes_match_nothing() -> None:
    assert match(spread(3, seed=0), np.zeros((0, 4), np.float32)).tolist() == [-1, -1, -1]
    assert best_overlaps(spread(3, seed=0), np.zeros((0, 4), np.float32)).shape == (0,)


def test_thousands_of_boxes() -> None:
    """More boxes than anchors: every anchor that can have one has, and by plain loops the same."""
    random = np.random.default_rng(5)
    low = random.uniform(0, 0.95, (5000, 2))
    found = np.concatenate([low, low + random.uniform(0, 0.05, (5000, 2)) * (random.random((5000, 1)) > 0.1)], axis=1)
    found = found.astype(np.float32)
    anchors = anchor_grid((160, 160), tf_anchor_sizes())
    matched = match(anchors, found)
    assert matched.tolist() == match_vectorized(anchors, found)
    assert (matched >= 0).all()


def match_vectorized(anchors: Boxes, found: Boxes) -> list[int]:
    """`match_plainly`, with the sorting left to NumPy: millions of pairs are too many for tuples."""
    overlap = pairwise_iou(found, anchors)
    best = overlap.argmax(axis=0)
    result = np.where(overlap.max(axis=0) >= 0.5, best, -1)
    order = np.argsort(-overlap, axis=None, kind="stable")
    order = order[overlap.ravel()[order] > 0]
    waiting, free = np.ones(len(found), bool), np.ones(len(anchors), bool)
    for box, anchor in zip(*(part.tolist() for part in np.unravel_index(order, overlap.shape)), strict=True):
        if waiting[box] and free[anchor]:
            waiting[box] = free[anchor] = False
            result[anchor] = box
    found_by: list[int] = result.tolist()
    return found_by


def test_best_overlaps() -> None:
    anchors = np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5]], np.float32)
    found = np.array([[0, 0, 0.5, 0.5], [0, 0, 1, 0.5], [0.7, 0.7, 0.7, 0.9]], np.float32)
    assert best_overlaps(anchors, found).tolist() == [1, 0.5, 0]


# -- anchors that fit the data


def odd_boxes(count: int, ratio: float, area: float = 0.04) -> Boxes:
    random = np.random.default_rng(count)
    areas, ratios = area * np.exp(random.normal(0, 0.3, count)), ratio * np.exp(random.normal(0, 0.3, count))
    sides = np.stack([np.sqrt(areas * ratios), np.sqrt(areas / ratios)], axis=1).clip(0, 0.98)
    low = random.uniform(0, 1 - sides)
    return np.concatenate([low, low + sides], axis=1).astype(np.float32)


def reach(boxes: Boxes, sizes: AnchorSizes, size_hw: tuple[int, int]) -> float:
    return float((best_overlaps(anchor_grid(size_hw, sizes), boxes) >= 0.5).mean())


@pytest.mark.parametrize("ratio", [6, 1 / 8])
@pytest.mark.parametrize("size_hw", [(320, 320), (192, 384)], ids=str)
def test_fitted_anchors_reach_odd_shapes(ratio: float, size_hw: tuple[int, int]) -> None:
    found = odd_boxes(800, ratio)
    sides = to_centers(found)[:, 2:] * np.array(size_hw[::-1], np.float32) / min(size_hw)
    fitted = fit_anchor_sizes(sides, size_hw)
    Detector(anchors=fitted)  # they are anchors that a detector takes
    before, after = reach(found, tf_anchor_sizes(), size_hw), reach(found, fitted, size_hw)
    assert after > 0.75
    assert after > before + 0.05


def test_fitting_does_not_lose_what_small_boxes_need() -> None:
    """Small boxes need fine maps; anchors of their size on a coarse one have too few places."""
    found = odd_boxes(800, ratio=1, area=0.01)
    fitted = fit_anchor_sizes(to_centers(found)[:, 2:], (320, 320))
    assert reach(found, fitted, (320, 320)) > reach(found, tf_anchor_sizes(), (320, 320))
    assert len(fitted[0]) == FITTED_A_CELL
    assert fitted[2:] == tf_anchor_sizes()[2:]


def test_fitting_is_the_same_in_any_order() -> None:
    sides = to_centers(odd_boxes(500, ratio=3))[:, 2:]
    once = fit_anchor_sizes(sides, (320, 320))
    assert once == fit_anchor_sizes(sides, (320, 320))
    assert once == fit_anchor_sizes(np.random.default_rng(0).permutation(sides), (320, 320))


def test_fitted_anchors_are_sorted_by_area() -> None:
    fitted = fit_anchor_sizes(to_centers(odd_boxes(500, ratio=3))[:, 2:], (320, 320))
    areas = [[width * height for width, height in row] for row in fitted if len(row) == FITTED_A_CELL]
    assert areas[0] == sorted(areas[0])


def test_six_shapes_are_found_exactly() -> None:
    shapes = np.array([[0.12, 0.12], [0.1, 0.19], [0.19, 0.1], [0.15, 0.15], [0.12, 0.17], [0.17, 0.12]], np.float32)
    fitted = fit_anchor_sizes(np.repeat(shapes, 50, axis=0), (320, 320))
    assert sorted(fitted[0]) == sorted((round(float(w), 5), round(float(h), 5)) for w, h in shapes)


def test_a_map_without_boxes_keeps_its_anchors() -> None:
    """All boxes alike: five shapes too few to fit six anchors to."""
    fitted = fit_anchor_sizes(np.full((100, 2), 0.3, np.float32), (320, 320))
    assert fitted == tf_anchor_sizes()


@pytest.mark.parametrize(
    "sides", [np.zeros((0, 2)), np.zeros((5, 2)), np.array([[0.3, 0]])], ids=["none", "empty", "flat"]
)
def test_no_boxes_to_fit(sides: NDArray[np.float64]) -> None:
    with pytest.raises(UserError, match="no boxes to fit anchors to"):
        fit_anchor_sizes(sides.astype(np.float32), (320, 320))
