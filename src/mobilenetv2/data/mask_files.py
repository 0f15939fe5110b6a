"""One mask, as a file or a list of outlines holds it: numbers, before they are classes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mobilenetv2.data.tree import Tree
from mobilenetv2.errors import DataError
from mobilenetv2.masks import rle_decode
from mobilenetv2.preprocessing import MAX_PIXELS
from mobilenetv2.runtime.images import DECODE_ERRORS, without_warnings

UNKNOWN = 65_535  # of a colour that no class has
CROWD = 65_534  # of many objects of one class that nobody drew one by one
_INDEX_MODES = ("1", "L", "P", "I;16", "I;16B", "I")
_COLOUR_MODES = ("RGB", "RGBA")
# Polygons are painted on so many times finer a grid, some rows at a time.
_FINER, _BAND_ROWS = 4, 256

Raw = NDArray[np.uint16]


class MaskError(DataError):
    """A mask that cannot be taken; `id` is a word for programs."""

    def __init__(self, id_: str, text: str) -> None:
        super().__init__(text)
        self.id = id_


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskFile:
    """A picture of which each pixel is the number of a class, or its colour.

    name: in the tree. colours: (N, 3) uint8, of each class; None where there is no table of colours.
    """

    name: str
    colours: NDArray[np.uint8] | None = None

    def read(self, tree: Tree, size_hw: tuple[int, int]) -> Raw:
        """(H, W) numbers. Raises MaskError; of DataError where the file cannot be read at all."""
        try:
            with without_warnings(), Image.open(io.BytesIO(tree.read(self.name))) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise MaskError("too-large", f"has {image.width}x{image.height} pixels, more than are decoded")
                if (image.height, image.width) != size_hw:
                    said = f"{image.width}x{image.height} pixels, its picture {size_hw[1]}x{size_hw[0]}"
                    raise MaskError("size-mismatch", f"has {said}")
                mode = image.mode
                # A palette is for looking at: its numbers are the classes, as VOC has them.
                values = np.asarray(image.convert("RGB") if mode in _COLOUR_MODES else image)
        except DECODE_ERRORS as error:
            raise MaskError("unreadable-mask", f"cannot be decoded: {error}") from error
        if mode in _INDEX_MODES:
            numbers: Raw = np.clip(values, 0, UNKNOWN).astype(np.uint16)
            return numbers
        if mode not in _COLOUR_MODES:
            raise MaskError("unreadable-mask", f"has pixels of mode {mode}; a mask is made of numbers or RGB colours")
        if self.colours is None:
            raise MaskError(
                "no-class-table",
                "is made of RGB colours, and nothing says which class each is; write class_dict.csv with the header "
                "name,r,g,b, or save masks of class numbers",
            )
        return self._numbers(values)

    def is_wide(self, tree: Tree) -> bool:
        """Whether its numbers have more than 8 bits, by its header alone."""
        with without_warnings(), Image.open(io.BytesIO(tree.read(self.name))) as image:
            return image.mode.startswith("I")

    def _numbers(self, values: NDArray[np.uint8]) -> Raw:
        assert self.colours is not None
        codes, known = _codes(values), _codes(self.colours)
        order = np.argsort(known, kind="stable")
        places = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
        numbers: Raw = order[places].astype(np.uint16)
        numbers[known[numbers] != codes] = UNKNOWN
        if (numbers == UNKNOWN).any():
            odd, counts = np.unique(codes[numbers == UNKNOWN], return_counts=True)
            colour = int(odd[counts.argmax()])
            named = f"({colour >> 16}, {colour >> 8 & 255}, {colour & 255})"
            text = f"{int(counts.sum()):,} pixels are of colours that no class has, most of them {named}"
            raise MaskError("unknown-class", text)
        return numbers


def _codes(rgb: NDArray[np.uint8]) -> NDArray[np.int64]:
    red, green, blue = (rgb[..., channel].astype(np.int64) for channel in range(3))
    return red << 16 | green << 8 | blue


@dataclass(frozen=True, kw_only=True, eq=False)
class OutlinedMask:
    """Objects as COCO describes them, the later ones on top; what none covers is 0.

    objects: number, where, and whether it is a crowd, which becomes `CROWD`. Where is a list of polygons
    (x, y, x, y, ... in pixels), or a run-length code.
    """

    name: str
    objects: tuple[tuple[int, Any, bool], ...]

    def read(self, tree: Tree, size_hw: tuple[int, int]) -> Raw:
        mask = np.zeros(size_hw, np.uint16)
        for number, where, is_crowd in self.objects:
            mask[self._inside(where, size_hw)] = CROWD if is_crowd else number
        return mask

    def _inside(self, where: Any, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
        if isinstance(where, dict):
            try:
                inside = rle_decode(where)
            except ValueError as error:
                raise MaskError("malformed", f"has a run-length code that is damaged: {error}") from error
            if inside.shape != size_hw:
                said = f"{inside.shape[1]}x{inside.shape[0]} pixels, its picture {size_hw[1]}x{size_hw[0]}"
                raise MaskError("size-mismatch", f"has a run-length code of {said}")
            return inside
        inside = np.zeros(size_hw, bool)
        for polygon in where:
            _paint(inside, np.asarray(polygon, np.float64).reshape(-1, 2))
        return inside


def _paint(mask: NDArray[np.bool_], corners_xy: NDArray[np.float64]) -> None:
    """Set the pixels of which a polygon covers half or more. Corners are in pixels; pixel 0 is from 0 to 1."""
    height, width = mask.shape
    left, top = np.clip(np.floor(corners_xy.min(axis=0)), 0, [width, height]).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners_xy.max(axis=0)), 0, [width, height]).astype(int).tolist()
    if right <= left:
        return
    # In bands, so that the finer grid of a large polygon fits into memory.
    for first in range(top, bottom, _BAND_ROWS):
        last = min(first + _BAND_ROWS, bottom)
        canvas = Image.new("L", ((right - left) * _FINER, (last - first) * _FINER))
        # Pillow counts from the centres of pixels.
        finer = (corners_xy - [left, first]) * _FINER - 0.5
        ImageDraw.Draw(canvas).polygon([(x, y) for x, y in finer.tolist()], fill=255)
        mask[first:last, left:right] |= np.asarray(canvas.reduce(_FINER)) >= 128


MaskSource = MaskFile | OutlinedMask
