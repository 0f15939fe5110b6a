"""Boxes on a picture, with names and scores that can be read on any ground."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mobilenetv2.predictions import Detection, Detections
from mobilenetv2.runtime.letters import Font, fit, letters_for, plain

Colour = tuple[int, int, int]

# Okabe and Ito's colours, which people who see colours differently can tell apart; then lighter and darker ones.
PALETTE: tuple[Colour, ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)),
)
SHADES = (0.0, 0.5, -0.45, 0.25, -0.25, 0.7, -0.65)
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_MIN_TEXT_PX = 11
_MANY = 40  # boxes


def colour_of(index: int) -> Colour:
    """The colour of a class, always the same; all of the first 49 classes differ."""
    base, shade = PALETTE[index % len(PALETTE)], SHADES[index // len(PALETTE) % len(SHADES)]
    ground = _WHITE if shade > 0 else _BLACK
    red, green, blue = (round(b + (g - b) * abs(shade)) for b, g in zip(base, ground, strict=True))
    return red, green, blue


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever stands out more (WCAG 2, at least 4.5 to 1 on any colour)."""
    return max((_BLACK, _WHITE), key=lambda ink: contrast(ink, colour))


def contrast(first: Colour, second: Colour) -> float:
    """WCAG's contrast ratio of two colours, 1..21."""

    def luminance(colour: Colour) -> float:
        shares = [level / 255 for level in colour]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return sum(weight * level for weight, level in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


class _Chip(NamedTuple):
    """Name and score on a coloured ground; edges in whole pixels, right and lower one outside."""

    left: int
    top: int
    right: int
    bottom: int
    name: str
    name_font: Font
    score: str
    score_font: Font


def text_size(width: int, height: int, count: int) -> int:
    """Height of the letters: they grow with the picture, and are smaller where there are many boxes."""
    shorter = min(width, height * 2)
    crowd = min(1.0, max(0.65, math.pow(12 / max(count, 1), 0.25)))
    return max(_MIN_TEXT_PX, round(shorter / 40 * crowd))


def draw_boxes(page: Image.Image, detections: Detections, *, scale: tuple[float, float], left: int) -> None:
    """Draw on an RGB page, the surest boxes above the others.

    scale: page pixels of a picture's pixel, across and down. left: where the picture begins on the page.
    """
    text_px = text_size(page.width, page.height, len(detections))
    boxes = [(box, _edges(box, scale, left, page.size)) for box in detections.boxes]
    taken = np.empty((len(boxes), 4), np.int64)
    chips: list[_Chip] = []
    for place, (box, edges) in enumerate(boxes):
        chips.append(_place(box, edges, text_px, page.size, taken[:place]))
        taken[place] = chips[-1][:4]
    pen = ImageDraw.Draw(page)
    line = max(2.0, text_px / (6 if len(boxes) <= _MANY else 9))
    for box, edges in reversed(boxes):
        _outline(pen, edges, colour_of(box.index), line)
    for (box, _), chip in zip(reversed(boxes), reversed(chips), strict=True):
        colour = colour_of(box.index)
        pen.rectangle((chip.left, chip.top, chip.right - 1, chip.bottom - 1), colour)
        middle, margin, ink = (chip.top + chip.bottom) / 2, _margin(text_px), ink_on(colour)
        # Each for itself: a name that is written from right to left would take the score along.
        pen.text((chip.left + margin, middle), chip.name, ink, chip.name_font, anchor="lm")
        pen.text((chip.right - margin, middle), chip.score, ink, chip.score_font, anchor="rm")


_Edges = tuple[int, int, int, int]


def _edges(box: Detection, scale: tuple[float, float], left: int, size: tuple[int, int]) -> _Edges:
    """First and last pixel of the box on the page, across and down; at least one pixel."""
    x1, y1, x2, y2 = box.box_xyxy
    first_x, first_y = left + round(x1 * scale[0]), round(y1 * scale[1])
    first_x, first_y = min(first_x, size[0] - 1), min(first_y, size[1] - 1)
    return first_x, first_y, max(first_x, left + round(x2 * scale[0]) - 1), max(first_y, round(y2 * scale[1]) - 1)


def _outline(pen: ImageDraw.ImageDraw, edges: _Edges, colour: Colour, line: float) -> None:
    """A line within the box, cased in black or white so that it shows on its own colour."""
    x1, y1, x2, y2 = edges
    # A small box is not filled by its line, and a thin line not drowned in its casing.
    width = max(1, round(min(line, min(x2 - x1, y2 - y1) / 10)))
    casing = max(1, width // 3)
    inner = casing if width > 2 else 0
    pen.rectangle((x1 - casing, y1 - casing, x2 + casing, y2 + casing), None, ink_on(colour), width + casing + inner)
    pen.rectangle(edges, None, colour, width)


def _margin(text_px: int) -> int:
    return max(2, text_px // 3)


def _place(box: Detection, edges: _Edges, text_px: int, size: tuple[int, int], taken: NDArray[np.int64]) -> _Chip:
    """The chip above its box, or where it hides none of those that are `taken`; always on the page."""
    score, score_font = f"{box.score:.0%}", plain(text_px)
    name, font = letters_for(box.name, box.index, text_px)
    margin, height = _margin(text_px), text_px * 7 // 5
    score_px = score_font.getlength(score) + 2 * margin
    name = fit(name, min(size[0] - score_px - margin, max(edges[2] - edges[0] - score_px, text_px * 10)), font)
    width = math.ceil(score_px + (font.getlength(name) + margin if name else 0))
    places = [(x, y) for x, y in _corners(edges, width, height) if 0 <= y <= size[1] - height]
    # A page lower than two lines may have room for none of them.
    places = places or [(edges[0], max(0, size[1] - height))]
    lefts = [max(0, min(x, size[0] - width)) for x, _ in places]
    chips = [
        _Chip(x, y, x + width, y + height, name, font, score, score_font)
        for x, (_, y) in zip(lefts, places, strict=True)
    ]
    left, top, right, bottom = taken.T
    for chip in chips:
        across = (chip.left < right) & (left < chip.right)
        if not (across & (chip.top < bottom) & (top < chip.bottom)).any():
            return chip
    return chips[0]


def _corners(edges: _Edges, width: int, height: int) -> Iterator[tuple[int, int]]:
    """Where the left upper corner of a chip may be, best place first."""
    x1, y1, x2, y2 = edges
    yield x1, y1 - height
    yield x1, y1
    yield x2 + 1 - width, y1 - height
    yield x1, y2 + 1
    yield x1, y2 + 1 - height
    yield x2 + 1 - width, y2 + 1
