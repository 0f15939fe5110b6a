"""Masks on a picture, in colours that a legend explains, and as files of class numbers."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mobilenetv2.predictions import Segment, Segmentation
from mobilenetv2.runtime.draw_boxes import Colour, colour_of
from mobilenetv2.runtime.letters import Font, fit, letters_for, plain

# Names of what is behind everything: it keeps its own colours.
_GROUNDS = frozenset({"background", "ground"})
_OPACITY = 0.55
_RIM = (255, 255, 255)
_SHOWN = 12  # classes in the legend
_PAPER, _INK, _QUIET = (255, 255, 255), (24, 24, 27), (161, 161, 170)


def colours(count: int) -> NDArray[np.uint8]:
    """(count, 3) RGB of the classes, the same as their boxes have."""
    return np.array([colour_of(index) for index in range(count)], np.uint8).reshape(-1, 3)


def paint_masks(picture: Image.Image, segmentation: Segmentation) -> Image.Image:
    """An RGB picture of any size -> a new one, tinted by class, with fine white lines between classes.

    Beside the two pictures it holds five bytes a pixel.
    """
    size = picture.size
    mask = np.asarray(Image.fromarray(segmentation.mask).resize(size, Image.Resampling.NEAREST))
    names = segmentation.names
    tint = Image.fromarray(mask)
    tint.putpalette(colours(len(names)).tobytes())
    opacity = np.full(256, round(255 * _OPACITY), np.uint8)
    opacity[[index for index, name in enumerate(names) if name.casefold() in _GROUNDS]] = 0
    cover = Image.fromarray(opacity[mask])
    painted = Image.composite(tint.convert("RGB"), picture, cover)
    painted.paste(_RIM, (0, 0), Image.fromarray(_rims(mask)))
    return painted


def _rims(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """255 where a pixel's right or lower neighbour is of another class."""
    rims = np.zeros(mask.shape, np.uint8)
    rims[:, :-1][mask[:, :-1] != mask[:, 1:]] = 255
    rims[:-1][mask[:-1] != mask[1:]] = 255
    return rims


class _Entry(NamedTuple):
    text: str
    letters: Font
    share: str
    colour: Colour | None


def legend(segmentation: Segmentation, width: int, text_px: int) -> Image.Image:
    """Colour, name and share of each class that is there, largest first, in as many columns as fit into the width."""
    segments = segmentation.segments
    total = max(sum(one.pixels for one in segments), 1)
    entries = [_entry(segmentation, one, total, text_px) for one in segments[:_SHOWN]]
    font = plain(text_px)
    if len(segments) > _SHOWN:
        rest = sum(one.pixels for one in segments[_SHOWN:])
        entries.append(_Entry(f"{len(segments) - _SHOWN} more", font, _percent(rest / total), None))
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


def _entry(segmentation: Segmentation, one: Segment, total: int, text_px: int) -> _Entry:
    text, letters = letters_for(one.name, one.index, text_px)
    colour = None if one.name.casefold() in _GROUNDS else colour_of(one.index)
    return _Entry(text, letters, _percent(one.pixels / total), colour)


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def mask_png(segmentation: Segmentation) -> bytes:
    """The mask as a palette PNG: the numbers are the classes, the palette is for looking at."""
    image = Image.fromarray(segmentation.mask)
    image.putpalette(colours(len(segmentation.names)).tobytes())
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()
