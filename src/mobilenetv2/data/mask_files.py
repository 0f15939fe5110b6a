"""One mask, as a file or a list of outlines holds it: numbers, before they are classes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, UnidentifiedImageError

from mobilenetv2.data.annotations import ROUNDING_PX
from mobilenetv2.data.tree import Tree
from mobilenetv2.errors import DataError
from mobilenetv2.masks import IGNORED, rle_decode
from mobilenetv2.preprocessing import MAX_PIXELS
from mobilenetv2.runtime.images import DECODE_ERRORS, without_warnings

UNKNOWN = 65_535  # of a colour that no class has
_INDEX_MODES = ("1", "L", "P", "I;16", "I;16B", "I")
_COLOUR_MODES = ("RGB", "RGBA")
_PNG_DEPTH = 24  # the byte of a PNG that says how many bits a level has
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

    name: in the tree. colours: (N, 3) uint8, of each class; None where there is no table of colours. With one, a
    palette's colours are looked up, as many programs save few colours that way, and grey levels where all its colours
    are grey. Otherwise a palette is for looking at: its numbers are the classes, as VOC has them.
    """

    name: str
    colours: NDArray[np.uint8] | None = None

    def read(self, tree: Tree, size_hw: tuple[int, int]) -> Raw:
        """(H, W) numbers. Raises MaskError; of DataError where the file cannot be read at all."""
        content = tree.read(self.name)
        if not content:
            raise MaskError("unreadable-mask", "is empty (0 bytes)")
        try:
            with without_warnings():
                # Behind the same ending other formats are inexact, as JPEG, or programs, as PostScript.
                image = Image.open(io.BytesIO(content), formats=("PNG",))
            with image:
                if image.width * image.height > MAX_PIXELS:
                    raise MaskError("too-large", f"has {image.width}x{image.height} pixels, more than are decoded")
                if (image.height, image.width) != size_hw:
                    said = f"{image.width}x{image.height} pixels, its picture {size_hw[1]}x{size_hw[0]}"
                    is_turned = (image.width, image.height) == size_hw
                    hint = "; a mask is of the picture as it is shown, turned where EXIF says so" if is_turned else ""
                    raise MaskError("size-mismatch", f"has {said}{hint}")
                mode = image.mode
                values = np.asarray(image)
                palette = image.getpalette("RGB") or []
        except UnidentifiedImageError as error:
            raise MaskError("unreadable-mask", "is not a PNG, whatever its ending; save it as one") from error
        except Image.DecompressionBombError as error:
            raise MaskError("too-large", f"has more than the {MAX_PIXELS:,} pixels that are decoded") from error
        except DECODE_ERRORS as error:
            raise MaskError("unreadable-mask", f"cannot be decoded: {error}") from error
        if mode in _COLOUR_MODES:
            return self._of_colours(values[..., :3])
        if mode not in _INDEX_MODES:
            raise MaskError("unreadable-mask", f"has pixels of mode {mode}; a mask is made of numbers or RGB colours")
        if mode == "P" and self.colours is not None:
            levels = np.zeros((256, 3), np.uint8)
            levels.reshape(-1)[: len(palette)] = palette
            return self._of_palette(values, levels, self.colours)
        if mode in ("1", "L") and self.colours is not None and (self.colours == self.colours[:, :1]).all():
            values = values * np.uint8(255) if mode == "1" else values
            return self._of_palette(values, np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1), self.colours)
        if mode == "L" and (bits := content[_PNG_DEPTH]) in (2, 4):
            # Pillow spreads what few bits can say over 0 to 255.
            values = values // np.uint8(255 // (2**bits - 1))
        return values.astype(np.uint16)

    def is_wide(self, tree: Tree) -> bool:
        """Whether its numbers have more than 8 bits, by its header alone."""
        with without_warnings(), Image.open(io.BytesIO(tree.read(self.name))) as image:
            return image.mode.startswith("I")

    def _of_colours(self, values: NDArray[np.uint8]) -> Raw:
        if self.colours is None:
            raise MaskError(
                "no-class-table",
                "is made of RGB colours, and nothing says which class each is; write class_dict.csv with the header "
                "name,r,g,b, or save masks of class numbers",
            )
        numbers: Raw = np.empty(values.shape[:2], np.uint16)
        for first in range(0, len(values), _BAND_ROWS):
            numbers[first : first + _BAND_ROWS] = _look_up(values[first : first + _BAND_ROWS], self.colours)
        if (is_odd := numbers == UNKNOWN).any():
            raise _unknown(values[is_odd])
        return numbers

    def _of_palette(self, values: NDArray[np.uint8], palette: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Raw:
        """values: (H, W), places in palette. 255 is to be ignored where its colour is of no class."""
        numbers = _look_up(palette, colours)
        if numbers[IGNORED] == UNKNOWN:
            numbers[IGNORED] = IGNORED
        found: Raw = numbers[values]
        if (is_odd := found == UNKNOWN).any():
            raise _unknown(palette[values[is_odd]])
        return found


def _look_up(rgb: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Raw:
    """(..., 3) -> (...) numbers of colours, or `UNKNOWN`."""
    codes, known = _codes(rgb), _codes(colours)
    order = np.argsort(known, kind="stable")
    places = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    numbers: Raw = order[places].astype(np.uint16)
    numbers[known[numbers] != codes] = UNKNOWN
    return numbers


def _unknown(rgb: NDArray[np.uint8]) -> MaskError:
    odd, counts = np.unique(_codes(rgb), return_counts=True)
    colour = int(odd[counts.argmax()])
    named = f"({colour >> 16}, {colour >> 8 & 255}, {colour & 255})"
    text = f"{len(rgb):,} pixels are of colours that no class has, most of them {named}"
    return MaskError("unknown-class", text)


def _codes(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


@dataclass(frozen=True, kw_only=True, eq=False)
class OutlinedMask:
    """Objects as COCO describes them, the later ones on top; what none covers is 0.

    said_hw: the height and width that the outlines were drawn for, 0 where nothing says so.
    objects: number, where, and whether it is a crowd, which becomes `IGNORED`. Where is a list of polygons
    (x, y, x, y, ... in pixels), or a run-length code.
    """

    name: str
    objects: tuple[tuple[int, Any, bool], ...]
    said_hw: tuple[float, float] = (0, 0)

    def read(self, tree: Tree, size_hw: tuple[int, int]) -> Raw:
        """(H, W) numbers. Raises MaskError."""
        if min(self.said_hw) > 0 and self.said_hw != size_hw:
            said = f"{self.said_hw[1]:g}x{self.said_hw[0]:g} pixels, but its picture has {size_hw[1]}x{size_hw[0]}"
            raise MaskError("size-mismatch", f"says {said}")
        mask = np.zeros(size_hw, np.uint16)
        for number, where, is_crowd in self.objects:
            mask[self._inside(where, size_hw)] = IGNORED if is_crowd else number
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
            corners_xy = np.asarray(polygon, np.float64).reshape(-1, 2)
            (left, top), (right, bottom) = corners_xy.min(axis=0).tolist(), corners_xy.max(axis=0).tolist()
            if max(-right, -bottom, left - size_hw[1], top - size_hw[0]) > ROUNDING_PX:
                said = f"from {left:g}, {top:g} to {right:g}, {bottom:g}"
                text = f"has a polygon {said}, outside its picture of {size_hw[1]}x{size_hw[0]} pixels"
                raise MaskError("outside-picture", text)
            _paint(inside, corners_xy)
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
