"""Masks: COCO's run-length codes, and outlines. NumPy only."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.preprocessing import MAX_PIXELS

IGNORED = 255  # in a mask: a pixel that neither trains nor counts


def rle_encode(inside: NDArray[np.bool_]) -> dict[str, Any]:
    """(H, W) -> {"size": [H, W], "counts": text}, as COCO writes it: the same text as pycocotools' `encode`.

    Runs go down the columns, outside first.
    """
    height, width = inside.shape
    pixels = inside.T.reshape(-1)
    ends = np.flatnonzero(np.diff(pixels)) + 1
    runs = np.diff(
        np.concatenate([[0] if pixels.size and pixels[0] else [], [0], ends, [pixels.size]]).astype(np.int64)
    )
    # From the fourth on, what a run has more than the last of its kind.
    values = runs.copy()
    values[3:] -= runs[1:-2]
    letters = bytearray()
    for value in values.tolist():
        # Five bits a letter, lowest first; the sixth says that more follow, the fifth of the last is the sign.
        while True:
            bits = value & 31
            value >>= 5
            is_last = value == (-1 if bits & 16 else 0)
            letters.append(48 + (bits if is_last else bits | 32))
            if is_last:
                break
    return {"size": [height, width], "counts": letters.decode()}


def rle_decode(code: dict[str, Any]) -> NDArray[np.bool_]:
    """The (H, W) mask of a code, with its counts as text or as a list of whole numbers.

    Raises ValueError, which says what is wrong, for a code that is damaged, of more than 178,956,970 pixels, or
    of more runs than its pixels can have, so that its size bounds the memory that is taken.
    """
    size, counts = code.get("size"), code.get("counts")
    if (
        not isinstance(size, list | tuple)
        or len(size) != 2
        or not all(isinstance(side, int) and not isinstance(side, bool) and side >= 0 for side in size)
    ):
        raise ValueError(f"size {reprlib.repr(size)} is not a height and a width")
    height, width = size
    if height * width > MAX_PIXELS:
        raise ValueError(f"size {width}x{height} is more than the {MAX_PIXELS:,} pixels that are decoded")
    # One a pixel, and an empty first one where the first pixel is inside.
    most = height * width + 1
    if isinstance(counts, str):
        counts = _runs(counts, most)
    if isinstance(counts, list) and len(counts) > most:
        raise ValueError(f"its counts are more runs than {width}x{height} pixels can have")
    if not isinstance(counts, list) or not all(type(n) is int and 0 <= n <= MAX_PIXELS for n in counts):
        raise ValueError("its counts are neither text nor whole numbers from 0 up")
    if sum(counts) != height * width:
        raise ValueError(f"its counts are of {sum(counts):,} pixels, but {width}x{height} are {height * width:,}")
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, np.array(counts, np.int64))
    return np.ascontiguousarray(pixels.reshape(width, height).T)


def _runs(text: str, most: int) -> list[int]:
    """No more than one over `most`."""
    runs: list[int] = []
    value = shift = 0
    for letter in text.encode("ascii", "replace"):
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"its counts hold {chr(letter)!r} where none can be")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
        if len(runs) > most:
            return runs
    if shift:
        raise ValueError("its counts end within a number")
    return runs


def outlines(inside: NDArray[np.bool_]) -> list[list[float]]:
    """Closed polygons along the edges between pixels, each [x, y, x, y, ...] by its corners, 0..W and 0..H.

    On the screen an outline runs clockwise around what is inside, and a hole's runs the other way. Pixels that
    only touch at a corner are apart.
    """
    padded = np.pad(inside.astype(np.int8), 1)
    starts: dict[tuple[int, int, str], tuple[int, int]] = {}
    for axis, names in ((0, "EW"), (1, "SN")):
        # Edges between each pixel and the one before it along the axis, walked with the inside on the right.
        change = np.diff(padded, axis=axis)
        change = change[:, 1:-1] if axis == 0 else change[1:-1].T
        for sign, name in zip((1, -1) if axis == 0 else (-1, 1), names, strict=True):
            runs = np.diff(np.pad((change == sign).astype(np.int8), ((0, 0), (1, 1))), axis=1)
            lines, first = np.nonzero(runs == 1)
            last = np.nonzero(runs == -1)[1]
            if name in "WN":
                first, last = last, first
            for line, begin, end in zip(lines.tolist(), first.tolist(), last.tolist(), strict=True):
                if axis == 0:
                    starts[begin, line, name] = (end, line)
                else:
                    starts[line, begin, name] = (line, end)
    polygons = []
    while starts:
        key = next(iter(starts))
        corners: list[float] = []
        while key in starts:
            corners += [float(key[0]), float(key[1])]
            x, y = starts.pop(key)
            # Right where it can be, as where two pixels touch at a corner; left otherwise.
            right = (x, y, "ESWN"["ESWN".index(key[2]) - 3])
            left = (x, y, "ESWN"["ESWN".index(key[2]) - 1])
            key = right if right in starts or left not in starts else left
        polygons.append(corners)
    return polygons
