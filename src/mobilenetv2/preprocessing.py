"""From a picture to the network's input: described once, in a record that the model file carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.errors import ImageError, UserError

Resize = Literal["stretch", "crop"]
Interpolation = Literal["bilinear", "bicubic"]

PILLOW_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
IMAGENET_MEAN_RGB = (0.485, 0.456, 0.406)
IMAGENET_STD_RGB = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # as mean and std: pixels to [-1, 1], TensorFlow's habit
MAX_SIDE = 4096
MAX_PIXELS = 178_956_970  # of one picture, 512 MiB as RGB: twice Pillow's warning, where Pillow refuses


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, perhaps crop, scale to 0..1, subtract a mean and divide by a standard deviation.

    size_hw: height and width of the network's input, in pixels.
    resize: "stretch" makes the whole picture `size_hw`; "crop" makes its shorter side
        floor(side / crop_fraction), keeping its shape, then takes the centre (torchvision's and timm's rule).
    interpolation: antialiased, as Pillow does it (rounded to whole levels after each of the two passes).
    mean_rgb, std_rgb: of pixels scaled to 0..1.
    """

    size_hw: tuple[int, int]
    resize: Resize = "stretch"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"
    mean_rgb: tuple[float, float, float] = HALF
    std_rgb: tuple[float, float, float] = HALF

    def __post_init__(self) -> None:
        height, width = self.size_hw
        if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
            raise UserError(f"input size {height}x{width} is out of range; give 1 to {MAX_SIDE} pixels a side")
        if self.resize not in ("stretch", "crop"):
            raise UserError(f"resize {self.resize!r} is not known; it can be 'stretch' or 'crop'")
        if self.interpolation not in PILLOW_FILTERS:
            raise UserError(f"interpolation {self.interpolation!r} is not known; it can be 'bilinear' or 'bicubic'")
        if not 0 < self.crop_fraction <= 1:
            raise UserError(f"crop fraction {self.crop_fraction!r} is out of range; give above 0, at most 1")
        if self.resize == "crop" and height != width:
            raise UserError(f"resize 'crop' needs a square input, not {height}x{width}; use 'stretch'")
        if len(self.mean_rgb) != 3 or len(self.std_rgb) != 3 or min(self.std_rgb) <= 0:
            raise UserError(f"mean {self.mean_rgb} and standard deviation {self.std_rgb} must be three numbers each")


class Geometry(NamedTuple):
    """Where a picture goes: resized to (height, width), of which a window of the input's size is kept."""

    resized_hw: tuple[int, int]
    top: int
    left: int


def plan_geometry(size_hw: tuple[int, int], preprocessing: Preprocessing) -> Geometry:
    """Sizes and offsets in whole pixels, by torchvision's rounding (`Resize` then `CenterCrop`).

    Raises ImageError for a picture so long and narrow that it would not fit into memory once resized.
    """
    if preprocessing.resize == "stretch":
        return Geometry(preprocessing.size_hw, 0, 0)
    height, width = size_hw
    side = preprocessing.size_hw[0]
    shorter = int(side / preprocessing.crop_fraction)
    if height <= width:
        resized = (shorter, max(shorter, shorter * width // height))
    else:
        resized = (max(shorter, shorter * height // width), shorter)
    if resized[0] * resized[1] > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels are too long and narrow: crop the picture before")
    return Geometry(resized, round((resized[0] - side) / 2), round((resized[1] - side) / 2))


def resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """An RGB picture of any size -> one of `preprocessing.size_hw`."""
    geometry = plan_geometry((image.height, image.width), preprocessing)
    (height, width), (out_height, out_width) = geometry.resized_hw, preprocessing.size_hw
    interpolation = PILLOW_FILTERS[preprocessing.interpolation]
    # Width first, as Pillow did for every picture until some version of 12 began to take tall ones height
    # first: levels are rounded in between, and the answer must not depend on the version.
    resized = image.resize((width, image.height), interpolation).resize((width, height), interpolation)
    if (height, width) == (out_height, out_width):
        return resized
    left, top = geometry.left, geometry.top
    return resized.crop((left, top, left + out_width, top + out_height))


def normalize(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """(..., H, W, 3) levels 0..255 -> (..., 3, H, W) float32, as the network takes them."""
    mean = np.array(preprocessing.mean_rgb, np.float32) * 255
    scale = 1 / (np.array(preprocessing.std_rgb, np.float32) * 255)
    scaled = (pixels.astype(np.float32) - mean) * scale
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """An RGB picture of any size -> (3, H, W) float32."""
    return normalize(np.asarray(resize(image, preprocessing)), preprocessing)
