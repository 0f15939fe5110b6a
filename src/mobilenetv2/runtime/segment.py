"""From a segmenter's raw outputs to a class for each pixel of the picture, without torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Pieces are worked on one by one, so that all they need stays in the cache and little is held at once. Narrow ones
# lie between few columns of logits.
_PIECE_WIDTH = 256
_PIECE_PIXELS = 1 << 14


def decode(logits: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(num_classes, h, w) -> (H, W) the class of the largest logit, enlarged bilinearly with corners on corners.

    Of equal logits the earlier class wins. Beside the answer it holds a few MB, however large the picture is.
    """
    height, width = size_hw
    mask = np.empty(size_hw, np.uint8)
    for left in range(0, width, _PIECE_WIDTH):
        columns = _between(logits.shape[2], width, range(left, min(left + _PIECE_WIDTH, width)))
        first, matrix = columns.before[0], _matrix(columns)
        part = logits[:, :, first : first + len(matrix)]
        count = _PIECE_PIXELS // max(matrix.shape)
        for top in range(0, height, count):
            rows = _between(logits.shape[1], height, range(top, min(top + count, height)))
            mask[rows.pixels, columns.pixels] = _classes(part, rows, matrix)
    return mask


class _Between(NamedTuple):
    """Some pixels along an axis; of each the places before and behind it, and its distance from the first, 0..1."""

    pixels: slice
    before: NDArray[np.int64]
    behind: NDArray[np.int64]
    share: NDArray[np.float32]


def _between(size: int, enlarged: int, pixels: range) -> _Between:
    # A single pixel lies on the first corner.
    positions = np.arange(pixels.start, pixels.stop) * ((size - 1) / max(enlarged - 1, 1))
    before = np.minimum(positions.astype(np.int64), size - 1)
    behind = np.minimum(before + 1, size - 1)
    return _Between(slice(pixels.start, pixels.stop), before, behind, (positions - before).astype(np.float32))


def _matrix(columns: _Between) -> NDArray[np.float32]:
    """(places from the first to the last, pixels): what enlarges a line when it is multiplied by it.

    That is faster than any picking of places.
    """
    first = columns.before[0]
    matrix = np.zeros((columns.behind[-1] - first + 1, len(columns.share)), np.float32)
    pixels = np.arange(len(columns.share))
    matrix[columns.before - first, pixels] = 1 - columns.share
    matrix[columns.behind - first, pixels] += columns.share
    return matrix


def _classes(logits: NDArray[np.float32], rows: _Between, columns: NDArray[np.float32]) -> NDArray[np.uint8]:
    top, bottom = logits[:, rows.before], logits[:, rows.behind]
    lines = top + (bottom - top) * rows.share[:, None]
    values = (lines.reshape(-1, len(columns)) @ columns).reshape(len(logits), len(rows.share), -1)
    best = values[0]
    classes = np.zeros(best.shape, np.uint8)
    for index in range(1, len(values)):
        np.putmask(classes, values[index] > best, np.uint8(index))
        np.maximum(best, values[index], out=best)
    return classes
