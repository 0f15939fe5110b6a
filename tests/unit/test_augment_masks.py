"""Training crops: picture and mask stay together, whatever happens to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.data.augment_masks import AugmentMasks, crop_size
from mobilenetv2.masks import IGNORED
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.training.recipes import SegmentRecipe


def augment(size_hw: tuple[int, int] = (65, 97), **options: float) -> AugmentMasks:
    settings: dict[str, Any] = {"photometric": 0, **options}
    recipe = SegmentRecipe(**settings)
    return AugmentMasks(recipe, Preprocessing(size_hw=size_hw))


def quarters(size_hw: tuple[int, int]) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Four colours, and a class for each: red where right, green where below."""
    height, width = size_hw
    mask = np.zeros(size_hw, np.uint8)
    mask[:, width // 2 :] += 1
    mask[height // 2 :] += 2
    levels = np.stack([255 * (mask & 1), 255 * (mask >> 1), np.full(size_hw, 0)], axis=-1).astype(np.uint8)
    return Image.fromarray(levels), mask


@pytest.mark.parametrize("size_hw", [(65, 97), (120, 160), (400, 300), (1, 1), (1, 500)])
def test_pictures_of_any_size_become_crops_of_one(size_hw: tuple[int, int]) -> None:
    change = augment(crop=0.5)
    for seed in range(20):
        torch.manual_seed(seed)
        image, mask = change(*quarters(size_hw))
        assert image.size[::-1] == mask.shape == (33, 49)
        assert set(np.unique(mask)) <= {0, 1, 2, 3, IGNORED}


def test_every_class_stays_on_its_colour() -> None:
    change = augment()
    seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        image, mask = change(*quarters((120, 160)))
        levels = np.asarray(image)
        expected = (levels[..., 0] > 127) + 2 * (levels[..., 1] > 127)
        inside = mask != IGNORED
        # Along the seams levels are mixed, and classes are not.
        assert (expected == mask)[inside].mean() > 0.93
        assert (levels[~inside] == 128).all()
        seen |= set(np.unique(mask[inside]))
    assert seen == {0, 1, 2, 3}


def test_without_changes_it_is_the_picture_itself() -> None:
    image, mask = quarters((65, 97))
    found, found_mask = augment(scale_min=1, scale_max=1, flip=0)(image, mask)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(image))
    np.testing.assert_array_equal(found_mask, mask)
    flipped, flipped_mask = augment(scale_min=1, scale_max=1, flip=1)(image, mask)
    np.testing.assert_array_equal(np.asarray(flipped), np.asarray(image)[:, ::-1])
    np.testing.assert_array_equal(flipped_mask, mask[:, ::-1])


def test_what_is_random_comes_from_torchs_generator() -> None:
    change = augment(photometric=1, crop=0.5)
    answers = []
    for _ in range(2):
        torch.manual_seed(7)
        image, mask = change(*quarters((120, 160)))
        answers.append((np.asarray(image), mask))
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("size_hw", "share", "expected"),
    [
        ((369, 481), 1, (369, 481)),
        ((369, 481), 0.68, (257, 321)),
        ((513, 513), 0.5, (257, 257)),
        ((33, 33), 0.05, (17, 17)),
    ],
)
def test_crops_lie_on_the_grid(size_hw: tuple[int, int], share: float, expected: tuple[int, int]) -> None:
    assert crop_size(size_hw, share) == expected
