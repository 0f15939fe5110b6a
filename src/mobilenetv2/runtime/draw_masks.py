"""Masks on a picture, in colours that a legend explains, and as files of class numbers."""

from __future__ import annotations

import colorsys
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mobilenetv2.predictions import Segment, Segmentation
from mobilenetv2.runtime.draw_boxes import PALETTE, SHADES, Colour, colour_of
from mobilenetv2.runtime.letters import Font, fit, letters_for, plain

# Names of what is behind everything: it keeps its own colours.
_GROUNDS = frozenset({"background", "ground"})
_OPACITY = 0.65
_DARKEST, _LIGHTEST = 64, 191  # of the grey under the tint: on black or white, one class would look like another
_RIM = 255
_RIM_SHARE = 640  # of the shorter side: a large picture is looked at made smaller
_ROWS = 64  # painted at a time
_SHOWN = 12  # classes in the legend
_PAPER, _INK, _QUIET = (255, 255, 255), (24, 24, 27), (161, 161, 170)


def colours(count: int) -> NDArray[np.uint8]:
    """(count, 3) RGB of the classes, all different up to 255: as their boxes have them, from the 50th on hues."""
    own = len(PALETTE) * len(SHADES)
    table = [colour_of(index) if index < own else _hue(index - own) for index in range(count)]
    return np.array(table, np.uint8).reshape(-1, 3)


def _hue(place: int) -> Colour:
    """The golden ratio keeps hues apart however many there are; seven in a row differ in lightness too."""
    red, green, blue = colorsys.hsv_to_rgb(place * 0.618034 % 1, 0.85, 0.4 + place % 7 * 0.1)
    return round(red * 255), round(green * 255), round(blue * 255)


def paint_masks(picture: Image.Image, segmentation: Segmentation) -> Image.Image:
    """An RGB picture of any size -> a new one: grey, tinted by class, with white lines between classes.

    Beside the two pictures it holds two bytes a pixel, and what 64 rows need.
    """
    width, height = picture.size
    mask = np.asarray(Image.fromarray(segmentation.mask).resize(picture.size, Image.Resampling.NEAREST))
    tints = _tints(colours(len(segmentation.names)))
    grounds = np.array([_is_ground(name) for name in segmentation.names])
    line = max(1, min(picture.size) // _RIM_SHARE)
    painted = picture.copy()
    for top in range(0, height, _ROWS):
        part = picture.crop((0, top, width, min(top + _ROWS, height)))
        rows = mask[top : top + part.height]
        pixels = tints[rows, np.asarray(part.convert("L"))]
        ground = grounds[rows]
        pixels[ground] = np.asarray(part)[ground]
        pixels[_rims(mask[top : top + part.height + line], line)[: part.height]] = _RIM
        painted.paste(Image.fromarray(pixels), (0, top))
    return painted


def _tints(table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(classes, 3) colours -> (classes, 256, 3): each over each level of grey."""
    greys = np.linspace(_DARKEST, _LIGHTEST, 256)[None, :, None]
    return np.rint(_OPACITY * table[:, None] + (1 - _OPACITY) * greys).astype(np.uint8)


def _is_ground(name: str) -> bool:
    return name.casefold() in _GROUNDS


def _rims(mask: NDArray[np.uint8], line: int) -> NDArray[np.bool_]:
    """Where the pixel `line` further to the right or below is of another class."""
    rims = np.zeros(mask.shape, bool)
    rims[:, :-line] = mask[:, :-line] != mask[:, line:]
    rims[:-line] |= mask[:-line] != mask[line:]
    return rims


class _Entry(NamedTuple):
    text: str
    letters: Font
    share: str
    colour: Colour | None


def legend(segmentation: Segmentation, width: int, text_px: int) -> Image.Image:
    """Colour, name and share of each class that is there, largest first, in as many columns as fit into the width.

    A colour is that of the class over middle grey, as it is in the picture; what keeps its own has an empty frame.
    """
    segments = segmentation.segments
    total = max(sum(one.pixels for one in segments), 1)
    tints = _tints(colours(len(segmentation.names)))[:, 128]
    entries = [_entry(one, tints, total, text_px) for one in segments[:_SHOWN]]
    font = plain(text_px)
    if len(segments) > _SHOWN:
        rest = sum(one.pixels for one in segments[_SHOWN:])
        entries.append(_Entry(f"and {len(segments) - _SHOWN} more", font, _percent(rest / total), _PAPER))
    margin, gap, line = text_px * 3 // 4, text_px // 2, text_px * 7 // 4
    share_px = round(font.getlength("100.0 %")) + 1
    name_px = round(max(entry.letters.getlength(entry.text) for entry in entries)) + 1
    cell = text_px + gap + name_px + gap + share_px + 2 * gap
    columns = max(1, min((width - 2 * margin + 2 * gap) // cell, len(entries)))
    rows = -(-len(entries) // columns)
    columns = -(-len(entries) // rows)
    name_px = min(name_px, (width - 2 * margin) // columns - (cell - name_px))
    band = Image.new("RGB", (width, rows * line + 2 * margin), _PAPER)
    pen = ImageDraw.Draw(band)
    step = (width - 2 * margin + 2 * gap) // columns
    for place, entry in enumerate(entries):
        # Down the columns, so that the largest stand together.
        left, middle = margin + place // rows * step, margin + place % rows * line + line // 2
        chip = (left, middle - text_px // 2, left + text_px, middle + text_px // 2)
        pen.rectangle(chip, entry.colour, None if entry.colour else _QUIET)
        pen.text(
            (left + text_px + gap, middle), fit(entry.text, max(name_px, 0), entry.letters), _INK, entry.letters, "lm"
        )
        pen.text((left + step - 2 * gap, middle), entry.share, _INK, font, "rm")
    return band


def _entry(one: Segment, tints: NDArray[np.uint8], total: int, text_px: int) -> _Entry:
    text, letters = letters_for(one.name, one.index, text_px)
    red, green, blue = tints[one.index].tolist()
    return _Entry(text, letters, _percent(one.pixels / total), None if _is_ground(one.name) else (red, green, blue))


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def mask_png(segmentation: Segmentation) -> bytes:
    """The mask as a palette PNG: the numbers are the classes, the palette is for looking at."""
    image = Image.fromarray(segmentation.mask)
    image.putpalette(colours(len(segmentation.names)).tobytes())
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()
