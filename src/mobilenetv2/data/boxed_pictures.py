"""Decoding: training pictures with boxes as torch samples, each anchor told what it answers for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mobilenetv2.anchors import match
from mobilenetv2.boxes import Boxes, pairwise_iou
from mobilenetv2.data.annotations import BoxedPicture
from mobilenetv2.data.augment_boxes import AugmentBoxes, Boxed
from mobilenetv2.data.pictures import drawing
from mobilenetv2.data.tree import Tree, decode

BACKGROUND = 0
IGNORE = -1


class BoxSample(NamedTuple):
    """One picture, and for each anchor what it should say.

    pixels: (H, W, 3) uint8. classes: (anchors,) int64: 1 and up for the classes, `BACKGROUND`, or `IGNORE`.
    boxes_xyxy: (anchors, 4) float32 in shares of the picture, of the true box that an anchor answers for; zeros
    for an anchor that answers for none.
    """

    pixels: Tensor
    classes: Tensor
    boxes_xyxy: Tensor


def assign(
    anchors_xyxy: Boxes,
    boxes_xyxy: Boxes,
    labels: NDArray[np.int64],
    ignored: NDArray[np.bool_],
    threshold: float,
    *,
    least: int = 1,
) -> tuple[NDArray[np.int64], Boxes]:
    """(anchors,) classes and (anchors, 4) boxes, as in `BoxSample`, for one picture; boxes in shares of it.

    An anchor on a box that is to be ignored, and on no other, is neither an example of a class nor background.
    threshold, least: as in `anchors.match`.
    """
    true = boxes_xyxy[~ignored]
    matched = match(anchors_xyxy, true, threshold, least=least)
    classes = np.full(len(anchors_xyxy), BACKGROUND, np.int64)
    if ignored.any():
        classes[(pairwise_iou(anchors_xyxy, boxes_xyxy[ignored]) >= threshold).any(axis=1)] = IGNORE
    targets = np.zeros((len(anchors_xyxy), 4), np.float32)
    found = matched >= 0
    classes[found] = labels[~ignored][matched[found]] + 1
    targets[found] = true[matched[found]]
    return classes, targets


class BoxedPictureSet(Dataset[BoxSample]):
    """Pictures by (epoch, index) -> `BoxSample`. What is random depends on seed, epoch and index alone."""

    def __init__(
        self,
        tree: Tree,
        pictures: Sequence[BoxedPicture],
        augment: AugmentBoxes,
        anchors_xyxy: Boxes,
        *,
        threshold: float,
        least: int = 1,
        seed: int,
    ) -> None:
        self.tree, self.pictures, self.augment = tree, pictures, augment
        self.anchors_xyxy, self.threshold, self.least, self.seed = anchors_xyxy, threshold, least, seed

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: tuple[int, int]) -> BoxSample:
        epoch, index = key
        own = self._decoded(index)
        with drawing(self.seed, epoch, index):
            sample = self.augment(own, lambda: self._decoded(int(torch.randint(len(self), ()))))
        width, height = sample.image.size
        boxes = (sample.boxes_xyxy / np.array([width, height, width, height])).astype(np.float32)
        classes, targets = assign(
            self.anchors_xyxy, boxes, sample.labels, sample.ignored, self.threshold, least=self.least
        )
        pixels = torch.from_numpy(np.array(sample.image))
        return BoxSample(pixels, torch.from_numpy(classes), torch.from_numpy(targets))

    def _decoded(self, index: int) -> Boxed:
        picture = self.pictures[index]
        image = decode(self.tree, picture.name)
        return Boxed(image, picture.boxes_xyxy, picture.labels, picture.ignored)
