"""Random changes to training pictures and their boxes, by torchvision's transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from mobilenetv2.boxes import areas
from mobilenetv2.preprocessing import Preprocessing, resize
from mobilenetv2.training.recipes import DetectRecipe

# A box of which less is left after a cut is no example of its class any more: a side, and a share of its area.
_LEAST_SIDE_PX = 2.0
_LEAST_SHARE = 0.2
_CROP_SCALE_MIN = 0.3
_MOSAIC_CENTER = (0.35, 0.65)


class Boxed(NamedTuple):
    """A decoded picture with its boxes: (N, 4) xyxy in pixels, (N,) labels, (N,) whether they are to be ignored."""

    image: Image.Image
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]


class AugmentBoxes:
    """Pictures of any size -> a random variant of `preprocessing.size_hw`. Draws from torch's generator."""

    def __init__(self, recipe: DetectRecipe, preprocessing: Preprocessing) -> None:
        # What a picture does not cover is mean grey, which the network sees as zero.
        self.grey = tuple(round(255 * level) for level in preprocessing.mean_rgb)
        geometry: list[nn.Module] = [
            v2.RandomZoomOut(fill=self.grey, side_range=(1.0, recipe.zoom_out_max), p=recipe.zoom_out),
            # `RandomIoUCrop` leaves the picture as it is in one of seven cases, and fails to find a cut in more.
            v2.RandomApply([v2.RandomIoUCrop(min_scale=_CROP_SCALE_MIN)], p=recipe.crop),
            v2.RandomHorizontalFlip(recipe.flip),
            v2.RandomVerticalFlip(recipe.flip_vertical),
            v2.SanitizeBoundingBoxes(min_size=_LEAST_SIDE_PX, labels_getter=lambda sample: sample[2:]),
        ]
        self.geometry = v2.Compose(geometry)
        self.colour = v2.RandomApply([v2.RandomPhotometricDistort(p=0.5)], p=recipe.photometric)
        self.mosaic = recipe.mosaic
        self.preprocessing = preprocessing

    def __call__(self, own: Boxed, another: Callable[[], Boxed]) -> Boxed:
        """One sample, boxes in pixels of the result. `another` gives some other picture of the set, for the mosaic."""
        if self.mosaic and float(torch.rand(())) < self.mosaic:
            own = mosaic([own, another(), another(), another()], self.preprocessing.size_hw, self.grey)
        image = own.image
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(own.boxes_xyxy), format="XYXY", canvas_size=(image.height, image.width)
        )
        sample: Any = self.geometry(image, boxes, torch.from_numpy(own.labels), torch.from_numpy(own.ignored))
        image, boxes, labels, ignored = sample
        scaled = boxes.numpy() * (np.array(self.preprocessing.size_hw[::-1] * 2) / (image.size * 2))
        # The runtime's own resize, so that training sees what use will see; colours after it, as it is smaller.
        small = self.colour(resize(image, self.preprocessing))
        return Boxed(small, scaled.astype(np.float32), labels.numpy(), ignored.numpy())


def mosaic(four: list[Boxed], size_hw: tuple[int, int], grey: tuple[int, ...]) -> Boxed:
    """Four pictures in one of twice `size_hw`, around a random centre; each keeps its shape and is cut off outside.

    Boxes of which less than a fifth is left are dropped (Bochkovskiy et al., YOLOv4, 2020).
    """
    height, width = size_hw[0] * 2, size_hw[1] * 2
    low, high = _MOSAIC_CENTER
    fraction_y, fraction_x = (low + (high - low) * torch.rand(2)).tolist()
    # Where the four meet.
    center_y, center_x = round(height * fraction_y), round(width * fraction_x)
    canvas = Image.new("RGB", (width, height), tuple(grey))
    boxes, labels, ignored = [], [], []
    for place, part in enumerate(four):
        right, below = place % 2, place // 2
        room_w, room_h = (width - center_x if right else center_x), (height - center_y if below else center_y)
        scale = max(room_w / part.image.width, room_h / part.image.height)
        new_w, new_h = round(part.image.width * scale), round(part.image.height * scale)
        left = center_x if right else center_x - new_w
        top = center_y if below else center_y - new_h
        # Cut to its quarter, so that it covers none of the others.
        x1, y1 = (center_x if right else 0), (center_y if below else 0)
        x2, y2 = x1 + room_w, y1 + room_h
        piece = part.image.resize((new_w, new_h), Image.Resampling.BILINEAR)
        canvas.paste(piece.crop((x1 - left, y1 - top, x2 - left, y2 - top)), (x1, y1))
        moved = part.boxes_xyxy * (np.array([new_w, new_h] * 2) / (part.image.size * 2)) + [left, top, left, top]
        cut = np.clip(moved, [x1, y1, x1, y1], [x2, y2, x2, y2])
        keep = areas(cut) >= _LEAST_SHARE * np.maximum(areas(moved), 1e-9)
        boxes.append(cut[keep].astype(np.float32))
        labels.append(part.labels[keep])
        ignored.append(part.ignored[keep])
    return Boxed(canvas, np.concatenate(boxes), np.concatenate(labels), np.concatenate(ignored))
