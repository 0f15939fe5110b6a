"""The way into the network: torchvision's geometry to the pixel, and its arithmetic; TF-Slim's too."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from mobilenetv2.errors import ImageError, UserError
from mobilenetv2.preprocessing import (
    IMAGENET_MEAN_RGB,
    IMAGENET_STD_RGB,
    MAX_LENGTH,
    MAX_PIXELS,
    Interpolation,
    Preprocessing,
    Resize,
    normalize,
    plan_geometry,
    preprocess,
    resize,
)

SIDES = st.one_of(st.integers(1, 40), st.integers(1, 300))
FRACTIONS = st.sampled_from([1.0, 0.875, 0.9, 0.965, 224 / 232])


@settings(max_examples=150, deadline=None)
@given(height=SIDES, width=SIDES, side=st.integers(1, 128), fraction=FRACTIONS)
def test_the_geometry_is_torchvisions(height: int, width: int, side: int, fraction: float) -> None:
    preprocessing = Preprocessing(size_hw=(side, side), resize="crop", crop_fraction=fraction)
    geometry = plan_geometry((height, width), preprocessing)
    # Its own functions, given where every pixel comes from instead of a picture.
    theirs = v2.functional.get_size(v2.functional.resize(Image.new("L", (width, height)), [int(side / fraction)]))
    assert geometry.resized_hw == tuple(theirs)
    rows, columns = geometry.resized_hw
    places = np.arange(rows)[:, None] * columns + np.arange(columns)
    window = v2.functional.center_crop(Image.fromarray(places.astype(np.int32)), [side, side])
    assert np.asarray(window)[0, 0] == places[geometry.top, geometry.left]
    assert np.asarray(window)[-1, -1] == places[geometry.top + side - 1, geometry.left + side - 1]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, side=st.integers(1, 128), fraction=FRACTIONS, seed=st.integers(0, 99))
def test_the_pixels_are_torchvisions(
    interpolation: Interpolation, height: int, width: int, side: int, fraction: float, seed: int
) -> None:
    # No level so near the ends that bicubic overshoots are cut off between the passes.
    levels = np.random.default_rng(seed).integers(64, 192, (height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(levels)
    preprocessing = Preprocessing(
        size_hw=(side, side), resize="crop", crop_fraction=fraction, interpolation=interpolation
    )
    theirs = v2.Compose([v2.Resize(int(side / fraction), InterpolationMode(interpolation)), v2.CenterCrop(side)])
    expected = np.asarray(theirs(picture)).astype(int)
    difference = np.abs(np.asarray(resize(picture, preprocessing)) - expected)
    # Newer Pillows take tall pictures height first, we never do: rounding in between is a level or two then.
    assert difference.max() <= (2 if height > width else 0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_stretching_is_one_resize(interpolation: Interpolation) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 81, 3), dtype=np.uint8))
    theirs = v2.Resize((33, 65), InterpolationMode(interpolation))
    ours = resize(picture, Preprocessing(size_hw=(33, 65), interpolation=interpolation))
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs(picture)))


# ---- TF-Slim's: the middle of the picture, sampled


@given(height=SIDES, width=SIDES, fraction=st.one_of(FRACTIONS, st.floats(0.01, 1)))
def test_the_middle_is_the_fraction_to_the_pixel(height: int, width: int, fraction: float) -> None:
    preprocessing = Preprocessing(size_hw=(24, 33), resize="central", crop_fraction=fraction)
    geometry = plan_geometry((height, width), preprocessing)
    left, top, right, bottom = geometry.source
    assert geometry[1:] == ((24, 33), 0, 0)
    for side, begin, end in ((height, top, bottom), (width, left, right)):
        assert begin + end == side
        assert begin < end
        # Of what is to go, half a pixel less than a whole one stays on each end; but for the rounding of the fraction.
        assert -1e-9 <= side * (1 - fraction) / 2 - begin < 1 + 1e-9


def test_the_middle_is_tensorflows() -> None:
    # tf.image.central_crop of 8 and of 1000 pixels; of 7 nothing is cut, and never the last pixel.
    for side, fraction, kept in (
        (8, 0.5, (2, 6)),
        (1000, 0.875, (62, 938)),
        (7, 0.875, (0, 7)),
        (1, 0.01, (0, 1)),
        (2, 0.01, (0, 2)),
    ):
        preprocessing = Preprocessing(size_hw=(4, 4), resize="central", crop_fraction=fraction)
        left, top, right, bottom = plan_geometry((side, 40), preprocessing).source
        assert (top, bottom) == kept
        assert plan_geometry((40, side), preprocessing).source == (top, left, bottom, right)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "sampled"])
@settings(max_examples=40, deadline=None)
@given(height=SIDES, width=SIDES, fraction=FRACTIONS, seed=st.integers(0, 99))
def test_what_is_not_in_the_middle_is_never_looked_at(
    interpolation: Interpolation, height: int, width: int, fraction: float, seed: int
) -> None:
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    central = Preprocessing(size_hw=(24, 33), resize="central", crop_fraction=fraction, interpolation=interpolation)
    middle = picture.crop(plan_geometry((height, width), central).source)
    expected = resize(middle, Preprocessing(size_hw=(24, 33), interpolation=interpolation))
    np.testing.assert_array_equal(np.asarray(resize(picture, central)), np.asarray(expected))


def sampled(levels: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(resize(Image.fromarray(levels), Preprocessing(size_hw=size_hw, interpolation="sampled")))


def exactly(levels: NDArray[np.uint8], size_hw: tuple[int, int], row: int, column: int) -> Fraction:
    """The red level of one output pixel, without any rounding."""
    (height, width), (down, across) = (
        levels.shape[:2],
        (Fraction(place * side, new) for place, side, new in zip((row, column), levels.shape, size_hw, strict=False)),
    )
    total = Fraction(0)
    for y in (math.floor(down), math.floor(down) + 1):
        for x in (math.floor(across), math.floor(across) + 1):
            weight = (1 - abs(down - y)) * (1 - abs(across - x))
            total += weight * int(levels[min(y, height - 1), min(x, width - 1), 0])
    return total


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, out_h=st.integers(1, 9), out_w=st.integers(1, 9), seed=st.integers(0, 99))
def test_sampling_is_linear_between_four_pixels(height: int, width: int, out_h: int, out_w: int, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = sampled(levels, (out_h, out_w))
    for row in range(out_h):
        for column in range(out_w):
            expected = exactly(levels, (out_h, out_w), row, column)
            # Rounded to the nearest level, from positions in float32.
            assert abs(int(found[row, column, 0]) - expected) <= 0.5 + 0.02


def as_tensorflow(levels: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """resize_bilinear_op.cc, one number after the other, and the rounding."""
    (height, width), half = levels.shape[:2], np.float32(0.5)
    scales = [np.float32(side) / np.float32(new) for side, new in zip((height, width), size_hw, strict=True)]
    out = np.empty((*size_hw, 3), np.uint8)
    for row in range(size_hw[0]):
        y = np.float32(row) * scales[0]
        above, below = levels[math.floor(y)], levels[min(math.ceil(y), height - 1)]
        for column in range(size_hw[1]):
            x = np.float32(column) * scales[1]
            left, right = math.floor(x), min(math.ceil(x), width - 1)
            corners = (above[left], above[right], below[left], below[right])
            top_left, top_right, bottom_left, bottom_right = (corner.astype(np.float32) for corner in corners)
            across, down = np.float32(x - np.floor(x)), np.float32(y - np.floor(y))
            top = top_left + (top_right - top_left) * across
            bottom = bottom_left + (bottom_right - bottom_left) * across
            out[row, column] = np.floor(top + (bottom - top) * down + half)
    return out


@pytest.mark.parametrize(
    ("size_hw", "out_hw"), [((4001, 5), (30, 17)), ((7, 5003), (9, 31)), ((427, 641), (24, 33)), ((3, 2), (40, 60))]
)
def test_sampling_is_tensorflows_to_the_level(size_hw: tuple[int, int], out_hw: tuple[int, int]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    np.testing.assert_array_equal(sampled(levels, out_hw), as_tensorflow(levels, out_hw))


SHARED = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(2, 20))


@settings(max_examples=60, deadline=None)
@given(down=SHARED, across=SHARED, seed=st.integers(0, 99))
def test_sampling_is_torchs_where_corners_lie_on_corners(
    down: tuple[int, int, int], across: tuple[int, int, int], seed: int
) -> None:
    # From a * n pixels to b * n, pixel b * k comes from pixel a * k; up to the last of these torch does the same.
    (in_h, out_h, times_h), (in_w, out_w, times_w) = down, across
    levels = np.random.default_rng(seed).integers(0, 256, (in_h * times_h, in_w * times_w, 3), dtype=np.uint8)
    up_to, new = (((times_h - 1) * tall + 1, (times_w - 1) * wide + 1) for tall, wide in ((in_h, in_w), (out_h, out_w)))
    planes = torch.from_numpy(levels[: up_to[0], : up_to[1]]).permute(2, 0, 1)[None].double()
    theirs = torch.nn.functional.interpolate(planes, size=new, mode="bilinear", align_corners=True)
    found = sampled(levels, (out_h * times_h, out_w * times_w))[: new[0], : new[1]]
    assert np.abs(found - theirs[0].permute(1, 2, 0).numpy()).max() <= 0.5 + 0.02


def test_halves_go_up_once() -> None:
    levels = np.array([0, 1, 2, 3, 254, 255], np.uint8).repeat(3).reshape(1, 6, 3)
    assert sampled(levels, (1, 12))[0, :, 0].tolist() == [0, 1, 1, 2, 2, 3, 3, 129, 254, 255, 255, 255]
    # Between four pixels of which one is 1: a quarter, which rounding after each pass would make 1.
    corner = np.zeros((2, 2, 3), np.uint8)
    corner[0, 0] = 1
    assert sampled(corner, (4, 4))[:2, :2, 0].tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("resize_by", ["stretch", "crop", "central"])
def test_a_picture_of_the_right_size_is_unchanged(resize_by: Resize) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (97, 97, 3), dtype=np.uint8)
    preprocessing = Preprocessing(size_hw=(97, 97), resize=resize_by, interpolation="sampled")
    np.testing.assert_array_equal(np.asarray(resize(Image.fromarray(levels), preprocessing)), levels)


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, side=st.integers(1, 64), fraction=FRACTIONS, seed=st.integers(0, 99))
def test_the_centre_of_a_sampled_picture(height: int, width: int, side: int, fraction: float, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    crop = Preprocessing(size_hw=(side, side), resize="crop", crop_fraction=fraction, interpolation="sampled")
    geometry = plan_geometry((height, width), crop)
    rows, columns = (slice(begin, begin + side) for begin in (geometry.top, geometry.left))
    # Inputs have at most 4096 pixels a side.
    if max(geometry.resized_hw) <= 4096:
        whole = sampled(levels, geometry.resized_hw)[rows, columns]
        np.testing.assert_array_equal(np.asarray(resize(Image.fromarray(levels), crop)), whole)


def test_sampling_reads_little_of_a_large_picture() -> None:
    picture = Image.new("RGB", (4000, 3000), (1, 2, 3))
    preprocessing = Preprocessing(size_hw=(64, 64), resize="central", crop_fraction=0.875, interpolation="sampled")
    tracemalloc.start()
    resized = resize(picture, preprocessing)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6e6
    assert resized.getcolors() == [(64 * 64, (1, 2, 3))]


def test_large_pictures_bring_no_warning() -> None:
    # Pillow's `crop` warns of pieces from half of MAX_PIXELS on; warnings are errors here.
    picture = Image.new("RGB", (12000, 8000), (1, 2, 3))
    for interpolation in ("bilinear", "sampled"):
        # So high that sampling needs every row.
        preprocessing = Preprocessing(
            size_hw=(4096, 8), resize="central", interpolation=interpolation, crop_fraction=0.99
        )
        assert resize(picture, preprocessing).getcolors() == [(4096 * 8, (1, 2, 3))]


def test_levels_become_numbers_around_zero() -> None:
    levels = np.array([[[0, 255, 51]]], np.uint8)
    halves = normalize(levels, Preprocessing(size_hw=(1, 1)))
    assert halves.dtype == np.float32
    assert halves.shape == (3, 1, 1)
    np.testing.assert_allclose(halves.ravel(), [-1, 1, -0.6], atol=1e-6)
    imagenet = Preprocessing(size_hw=(1, 1), mean_rgb=IMAGENET_MEAN_RGB, std_rgb=IMAGENET_STD_RGB)
    expected = [-0.485 / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(normalize(levels, imagenet).ravel(), expected, atol=1e-6)


def test_a_batch_is_normalized_picture_by_picture() -> None:
    preprocessing = Preprocessing(size_hw=(4, 5), mean_rgb=IMAGENET_MEAN_RGB, std_rgb=IMAGENET_STD_RGB)
    batch = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    together = normalize(batch, preprocessing)
    assert together.shape == (2, 3, 4, 5)
    assert together.flags.c_contiguous
    for picture, pixels in zip(batch, together, strict=True):
        np.testing.assert_array_equal(normalize(picture, preprocessing), pixels)
        np.testing.assert_array_equal(preprocess(Image.fromarray(picture), preprocessing), pixels)


def test_a_picture_too_long_is_refused_before_it_is_resized() -> None:
    preprocessing = Preprocessing(size_hw=(224, 224), resize="crop")
    longest = MAX_PIXELS // 224 // 224
    assert plan_geometry((1, longest), preprocessing).resized_hw == (224, 224 * longest)
    with pytest.raises(ImageError, match=f"{longest + 1}x1 pixels are too long and narrow"):
        plan_geometry((1, longest + 1), preprocessing)
    with pytest.raises(ImageError, match=f"1x{longest + 1} pixels are too long and narrow"):
        plan_geometry((longest + 1, 1), preprocessing)


@pytest.mark.parametrize("resize_by", ["stretch", "central"])
def test_a_picture_too_long_on_the_way_is_refused(resize_by: Resize) -> None:
    # As wide as the input and as high as the picture, before its height follows.
    preprocessing = Preprocessing(size_hw=(64, 224), resize=resize_by)
    tallest = MAX_PIXELS // 224
    plan_geometry((tallest, 1), preprocessing)
    plan_geometry((1, MAX_LENGTH), preprocessing)
    with pytest.raises(ImageError, match=f"1x{tallest + 1} pixels are too long and narrow"):
        plan_geometry((tallest + 1, 1), preprocessing)
    with pytest.raises(ImageError, match=f"{MAX_LENGTH + 1}x1 pixels are too long and narrow"):
        plan_geometry((1, MAX_LENGTH + 1), preprocessing)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size_hw": (0, 224)}, "input size 0x224"),
        ({"size_hw": (224, 4097)}, "input size 224x4097 .* 1 to 4096"),
        ({"resize": "pad"}, "resize 'pad' .* 'stretch', 'crop' or 'central'$"),
        ({"interpolation": "nearest"}, "interpolation 'nearest' .* 'bilinear', 'bicubic' or 'sampled'$"),
        ({"crop_fraction": 0.0}, "crop fraction 0.0 .* 0.01 to 1$"),
        ({"crop_fraction": 5e-324}, "crop fraction 5e-324"),
        ({"crop_fraction": 1.1}, "crop fraction 1.1"),
        ({"crop_fraction": float("nan")}, "crop fraction nan"),
        ({"resize": "crop", "size_hw": (224, 192)}, "square input, not 224x192; use 'stretch' or 'central'$"),
        ({"std_rgb": (0.5, 0.5, 0.0)}, "standard deviation"),
        ({"mean_rgb": (0.5, 0.5)}, "three numbers each"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Preprocessing(**{"size_hw": (224, 224), **wrong})
    assert "\n" not in str(caught.value)
