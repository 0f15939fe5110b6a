"""The way into the network: torchvision's geometry to the pixel, and its arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from mobilenetv2.errors import ImageError, UserError
from mobilenetv2.preprocessing import (
    IMAGENET_MEAN_RGB,
    IMAGENET_STD_RGB,
    MAX_PIXELS,
    Interpolation,
    Preprocessing,
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


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size_hw": (0, 224)}, "input size 0x224"),
        ({"size_hw": (224, 4097)}, "input size 224x4097 .* 1 to 4096"),
        ({"resize": "pad"}, "resize 'pad' .* 'stretch' or 'crop'"),
        ({"interpolation": "nearest"}, "interpolation 'nearest' .* 'bilinear' or 'bicubic'"),
        ({"crop_fraction": 0.0}, "crop fraction 0.0"),
        ({"crop_fraction": 1.1}, "crop fraction 1.1"),
        ({"crop_fraction": float("nan")}, "crop fraction nan"),
        ({"resize": "crop", "size_hw": (224, 192)}, "square input, not 224x192"),
        ({"std_rgb": (0.5, 0.5, 0.0)}, "standard deviation"),
        ({"mean_rgb": (0.5, 0.5)}, "three numbers each"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Preprocessing(**{"size_hw": (224, 224), **wrong})
    assert "\n" not in str(caught.value)
