"""Run-length codes and outlines of masks."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mobilenetv2.masks import outlines, rle_decode, rle_encode


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.bool_]:
    """Noise, or few areas with straight edges."""
    height, width, block = draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    return (random.random((height, width)) < share).repeat(block, 0).repeat(block, 1)


@given(masks())
def test_a_code_gives_the_mask_back(mask: NDArray[np.bool_]) -> None:
    code = rle_encode(mask)
    assert code["size"] == list(mask.shape)
    np.testing.assert_array_equal(rle_decode(code), mask)


def test_a_code_written_by_hand() -> None:
    mask = np.array([[0, 1], [1, 1], [0, 1]], bool)  # down the columns: 1 outside, 1 inside, 1 outside, 3 inside
    assert rle_encode(mask) == {"size": [3, 2], "counts": "1112"}
    np.testing.assert_array_equal(rle_decode({"size": [3, 2], "counts": [1, 1, 1, 3]}), mask)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ({}, "size None is not a height and a width"),
        ({"size": [2], "counts": [4]}, "is not a height and a width"),
        ({"size": [2, -2], "counts": [4]}, "is not a height and a width"),
        ({"size": [2, 2.5], "counts": [4]}, "is not a height and a width"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "more than the 178,956,970 pixels"),
        ({"size": [2, 2], "counts": [3]}, "are of 3 pixels, but 2x2 are 4"),
        ({"size": [2, 2], "counts": [5, -1]}, "neither text nor whole numbers"),
        ({"size": [2, 2], "counts": [True, 3]}, "neither text nor whole numbers"),
        ({"size": [1, 1], "counts": [0, 0, 1]}, "more runs than 1x1 pixels can have"),
        ({"size": [1, 1], "counts": "0" * 10**5}, "more runs than 1x1 pixels can have"),
        ({"size": [2, 2], "counts": None}, "neither text nor whole numbers"),
        ({"size": [2, 2], "counts": "4\x00"}, "where none can be"),
        ({"size": [2, 2], "counts": "oooooooooooooooooooooo"}, "where none can be"),
        ({"size": [2, 2], "counts": "é"}, "pixels, but|where none can be"),
        ({"size": [2, 2], "counts": "P"}, "end within a number"),
    ],
)
def test_damaged_codes(code: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rle_decode(code)


def test_a_long_text_for_a_small_mask_takes_little_memory() -> None:
    text = "0" * 10**6
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more runs"):
            rle_decode({"size": [1, 1], "counts": text})
        assert tracemalloc.get_traced_memory()[1] < 3 * len(text)
    finally:
        tracemalloc.stop()


@given(st.text(max_size=30), st.integers(0, 20), st.integers(0, 20))
def test_any_text_is_a_mask_or_an_error_of_one_kind(text: str, height: int, width: int) -> None:
    try:
        mask = rle_decode({"size": [height, width], "counts": text})
    except ValueError:
        return
    assert mask.shape == (height, width)


def rasterised(polygons: list[list[float]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """What is inside by the even-odd rule, at the centres of pixels."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    crossings = np.zeros(shape, int)
    for polygon in polygons:
        corners = np.array(polygon).reshape(-1, 2)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
            if x0 == x1:
                crossings += (x < x0) & (y > min(y0, y1)) & (y < max(y0, y1))
    inside: NDArray[np.bool_] = crossings % 2 == 1
    return inside


def area(polygon: list[float]) -> float:
    """Positive where it runs clockwise on the screen."""
    corners = np.array(polygon).reshape(-1, 2)
    following = np.roll(corners, -1, 0)
    return float((corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]).sum() / 2)


@settings(deadline=None)
@given(masks())
def test_outlines_hold_just_what_is_inside(mask: NDArray[np.bool_]) -> None:
    polygons = outlines(mask)
    np.testing.assert_array_equal(rasterised(polygons, mask.shape), mask)
    assert sum(map(area, polygons)) == mask.sum()
    for polygon in polygons:
        steps = np.diff(np.array([*polygon, *polygon[:2]]).reshape(-1, 2), axis=0)
        # Every step turns: along rows and columns in turn.
        assert ((steps != 0).sum(axis=1) == 1).all()
        assert ((steps[:, 0] != 0) != np.roll(steps[:, 0] != 0, 1)).all()


def test_holes_run_the_other_way_and_corners_do_not_join() -> None:
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert sorted(map(area, outlines(ring))) == [-1, 9]
    assert sorted(map(area, outlines(np.eye(2, dtype=bool)))) == [1, 1]


def test_a_damaged_size_is_not_quoted_in_full() -> None:
    with pytest.raises(ValueError, match="is not a height and a width") as caught:
        rle_decode({"size": ["x" * 10**5], "counts": [1]})
    assert len(str(caught.value)) < 200
