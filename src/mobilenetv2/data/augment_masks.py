"""Random changes to training pictures and their masks."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2

from mobilenetv2.masks import IGNORED
from mobilenetv2.preprocessing import PILLOW_FILTERS, Preprocessing
from mobilenetv2.training.recipes import SegmentRecipe

# At output stride 16, sides of 16 k + 1 keep the corners of every map on the corners of the picture.
GRID = 16


class AugmentMasks:
    """Pictures of any size -> crops of one size, in the network's scale. Draws from torch's generator."""

    def __init__(self, recipe: SegmentRecipe, preprocessing: Preprocessing) -> None:
        self.size_hw = preprocessing.size_hw
        self.crop_hw = crop_size(preprocessing.size_hw, recipe.crop)
        self.scales = math.log(recipe.scale_min), math.log(recipe.scale_max)
        self.flip = recipe.flip
        self.filter = PILLOW_FILTERS[preprocessing.interpolation]
        # What a picture does not cover is mean grey, which the network sees as zero.
        self.grey = tuple(round(255 * level) for level in preprocessing.mean_rgb)
        self.colour = v2.RandomApply([v2.RandomPhotometricDistort(p=0.5)], p=recipe.photometric)

    def __call__(self, image: Image.Image, mask: NDArray[np.uint8]) -> tuple[Image.Image, NDArray[np.uint8]]:
        scale, down, across, flip = torch.rand(4).tolist()
        low, high = self.scales
        factor = math.exp(low + scale * (high - low))
        height, width = (max(1, round((side - 1) * factor) + 1) for side in self.size_hw)
        top, left = (_offset(*sides) for sides in zip((height, width), self.crop_hw, (down, across), strict=True))
        crop_h, crop_w = self.crop_hw
        # Only what is kept is resized, from what it covers in the picture.
        box = (left, top, left + crop_w, top + crop_h)
        inside = (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))
        size = (inside[2] - inside[0], inside[3] - inside[1])
        x, y = image.width / width, image.height / height
        source = (inside[0] * x, inside[1] * y, inside[2] * x, inside[3] * y)
        place = (inside[0] - box[0], inside[1] - box[1])
        cut = Image.new("RGB", (crop_w, crop_h), self.grey)
        cut.paste(image.resize(size, self.filter, box=source), place)
        cut_mask = Image.new("L", (crop_w, crop_h), IGNORED)
        cut_mask.paste(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST, box=source), place)
        if flip < self.flip:
            cut, cut_mask = (some.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for some in (cut, cut_mask))
        return self.colour(cut), np.array(cut_mask)


def crop_size(size_hw: tuple[int, int], share: float) -> tuple[int, int]:
    """Sides of the training crops: that share of the input's, moved to the grid of the network; all of it for 1."""
    if share == 1:
        return size_hw
    height, width = (max(1, round((side * share - 1) / GRID)) * GRID + 1 for side in size_hw)
    return height, width


def _offset(side: int, crop: int, share: float) -> int:
    """Where a crop begins: anywhere inside a larger picture; a smaller one lies anywhere inside the crop."""
    spare = side - crop
    return round(share * spare)
