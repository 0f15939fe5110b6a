"""From a picture to the network's input: described once, in a record that the model file carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.errors import ImageError, UserError

Resize = Literal["stretch", "crop", "central"]
Interpolation = Literal["bilinear", "bicubic", "sampled"]

PILLOW_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
IMAGENET_MEAN_RGB = (0.485, 0.456, 0.406)
IMAGENET_STD_RGB = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # as mean and std: pixels to [-1, 1], TensorFlow's habit
MAX_SIDE = 4096
MIN_CROP_FRACTION = 0.01
MAX_PIXELS = 178_956_970  # of one picture, 512 MiB as RGB: twice Pillow's warning, where Pillow refuses
MAX_LENGTH = 2**24  # of a picture's side in pixels: beyond it float32 has no whole numbers, Pillow's tables no room


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, perhaps crop, scale to 0..1, subtract a mean and divide by a standard deviation.

    size_hw: height and width of the network's input, in pixels.
    resize: "stretch" makes the whole picture `size_hw`; "crop" makes its shorter side
        floor(side / crop_fraction), keeping its shape, then takes the centre (torchvision's and timm's rule); "central"
        makes the middle crop_fraction of each side `size_hw`, whatever its shape (TF-Slim's rule).
    crop_fraction: .01 to 1; means nothing to "stretch".
    interpolation: "bilinear" and "bicubic" are antialiased, as Pillow does it (rounded to whole levels after each of
        the two passes); "sampled" is TensorFlow 1's and TFLite's bilinear, which looks at the nearest four pixels
        however much smaller the picture becomes (rounded to whole levels once, half up).
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
        if self.resize not in get_args(Resize):
            raise UserError(f"resize {self.resize!r} is not known; it can be {_either(Resize)}")
        if self.interpolation not in get_args(Interpolation):
            raise UserError(f"interpolation {self.interpolation!r} is not known; it can be {_either(Interpolation)}")
        if not MIN_CROP_FRACTION <= self.crop_fraction <= 1:
            raise UserError(f"crop fraction {self.crop_fraction!r} is out of range; give {MIN_CROP_FRACTION} to 1")
        if self.resize == "crop" and height != width:
            raise UserError(f"resize 'crop' needs a square input, not {height}x{width}; use 'stretch' or 'central'")
        if len(self.mean_rgb) != 3 or len(self.std_rgb) != 3 or min(self.std_rgb) <= 0:
            raise UserError(f"mean {self.mean_rgb} and standard deviation {self.std_rgb} must be three numbers each")


def _either(kind: Any) -> str:
    *names, last = map(repr, get_args(kind))
    return f"{', '.join(names)} or {last}"


class Geometry(NamedTuple):
    """Where a picture goes.

    source: left, top, right and bottom of what is taken of it, in its pixels; the rest is never looked at.
    resized_hw: what that becomes, of which the input's size is kept from (top, left) on.
    """

    source: tuple[int, int, int, int]
    resized_hw: tuple[int, int]
    top: int = 0
    left: int = 0


def plan_geometry(size_hw: tuple[int, int], preprocessing: Preprocessing) -> Geometry:
    """Sizes and offsets in whole pixels, by torchvision's rounding (`Resize` then `CenterCrop`) or TF-Slim's
    (`tf.image.central_crop`).

    Raises ImageError for a picture so long and narrow that it would not fit into memory while it is resized.
    """
    height, width = size_hw
    geometry = _plan(size_hw, preprocessing)
    _, top, _, bottom = geometry.source
    # On the way it has its new width and its old height.
    tallest = max(geometry.resized_hw[0], bottom - top)
    if max(size_hw) > MAX_LENGTH or tallest * geometry.resized_hw[1] > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels are too long and narrow: crop the picture before")
    return geometry


def _plan(size_hw: tuple[int, int], preprocessing: Preprocessing) -> Geometry:
    height, width = size_hw
    whole = (0, 0, width, height)
    if preprocessing.resize == "stretch":
        return Geometry(whole, preprocessing.size_hw)
    if preprocessing.resize == "central":
        top, left = (int((side - side * preprocessing.crop_fraction) / 2) for side in size_hw)
        return Geometry((left, top, width - left, height - top), preprocessing.size_hw)
    side = preprocessing.size_hw[0]
    shorter = int(side / preprocessing.crop_fraction)
    if height <= width:
        resized = (shorter, max(shorter, shorter * width // height))
    else:
        resized = (max(shorter, shorter * height // width), shorter)
    return Geometry(whole, resized, round((resized[0] - side) / 2), round((resized[1] - side) / 2))


def resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """An RGB picture of any size -> one of `preprocessing.size_hw`."""
    geometry = plan_geometry((image.height, image.width), preprocessing)
    if preprocessing.interpolation == "sampled":
        return _sample(image, geometry, preprocessing.size_hw)
    (height, width), (out_height, out_width) = geometry.resized_hw, preprocessing.size_hw
    interpolation = PILLOW_FILTERS[preprocessing.interpolation]
    if geometry.source != (0, 0, image.width, image.height):
        image = _cut(image, geometry.source)
    # Width first, as Pillow did for every picture until some version of 12 began to take tall ones height
    # first: levels are rounded in between, and the answer must not depend on the version.
    resized = image.resize((width, image.height), interpolation).resize((width, height), interpolation)
    if (height, width) == (out_height, out_width):
        return resized
    left, top = geometry.left, geometry.top
    return resized.crop((left, top, left + out_width, top + out_height))


def _cut(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """`Image.crop` inside the picture, which warns of pictures that are large but allowed here."""
    left, top, right, bottom = box
    piece = Image.new("RGB", (right - left, bottom - top), None)
    piece.paste(image, (-left, -top))
    return piece


def _sample(image: Image.Image, geometry: Geometry, size_hw: tuple[int, int]) -> Image.Image:
    """TensorFlow 1's `resize_bilinear`, its order of operations included."""
    left, top, right, bottom = geometry.source
    rows = _neighbours(top, bottom, geometry.resized_hw[0], geometry.top, size_hw[0])
    columns = _neighbours(left, right, geometry.resized_hw[1], geometry.left, size_hw[1])
    # Copying the rows that are needed inside Pillow is faster than handing a large picture over to NumPy.
    levels = np.asarray(_pick_rows(image, rows.needed))
    here, beside = (
        levels.take(places, axis=1).reshape(len(levels), -1).astype(np.float32)
        for places in (columns.needed[columns.first], columns.needed[columns.second])
    )
    mixed = here + (beside - here) * columns.share.repeat(3)
    above, below = mixed[rows.first], mixed[rows.second]
    values = above + (below - above) * rows.share[:, None]
    return Image.fromarray(np.floor(values + np.float32(0.5)).astype(np.uint8).reshape(*size_hw, 3))


class _Neighbours(NamedTuple):
    """Of each output along an axis the two pixels it lies between, and how much it has of the second, 0..1.

    needed: places of pixels in the picture, each once, in order. first, second: places in `needed`.
    """

    needed: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    share: NDArray[np.float32]


def _neighbours(begin: int, end: int, resized_size: int, offset: int, out_size: int) -> _Neighbours:
    # Positions are rounded to float32, as they are there; in large pictures that decides some levels.
    scale = np.float32(end - begin) / np.float32(resized_size)
    position = np.arange(offset, offset + out_size).astype(np.float32) * scale
    before = np.floor(position)
    first = begin + before.astype(np.int64)
    pairs = np.minimum(np.concatenate([first, first + 1]), end - 1)
    needed, places = np.unique(pairs, return_inverse=True)
    return _Neighbours(needed, places[:out_size], places[out_size:], position - before)


def _pick_rows(image: Image.Image, rows: NDArray[np.int64]) -> Image.Image:
    picked, done = Image.new("RGB", (image.width, len(rows)), None), 0
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
        picked.paste(_cut(image, (0, int(run[0]), image.width, int(run[-1]) + 1)), (0, done))
        done += len(run)
    return picked


def normalize(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """(..., H, W, 3) levels 0..255 -> (..., 3, H, W) float32, as the network takes them."""
    mean = np.array(preprocessing.mean_rgb, np.float32) * 255
    scale = 1 / (np.array(preprocessing.std_rgb, np.float32) * 255)
    scaled = (pixels.astype(np.float32) - mean) * scale
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """An RGB picture of any size -> (3, H, W) float32."""
    return normalize(np.asarray(resize(image, preprocessing)), preprocessing)
