"""Decoding: training pictures with masks as torch samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mobilenetv2.data.augment_masks import AugmentMasks
from mobilenetv2.data.masked import MaskedPicture, read_mask
from mobilenetv2.data.pictures import drawing
from mobilenetv2.data.tree import Tree, decode


class MaskSample(NamedTuple):
    """One picture: (H, W, 3) uint8 levels, and (H, W) uint8 classes or `masks.IGNORED`."""

    pixels: Tensor
    mask: Tensor


class MaskedPictureSet(Dataset[MaskSample]):
    """Pictures by (epoch, index) -> `MaskSample`. What is random depends on seed, epoch and index alone."""

    def __init__(self, tree: Tree, pictures: Sequence[MaskedPicture], augment: AugmentMasks, *, seed: int) -> None:
        self.tree, self.pictures, self.augment, self.seed = tree, pictures, augment, seed

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: tuple[int, int]) -> MaskSample:
        epoch, index = key
        picture = self.pictures[index]
        image, mask = decode(self.tree, picture.name), read_mask(self.tree, picture)
        with drawing(self.seed, epoch, index):
            image, mask = self.augment(image, mask)
        return MaskSample(torch.from_numpy(np.array(image)), torch.from_numpy(mask))
