"""From a segmenter's raw outputs to a class for each pixel of the picture, without torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Rows are worked on a few at a time, so that all they need stays in the cache and little is held at once.
_STRIP_PIXELS = 1 << 14


def decode(logits: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(num_classes, h, w) -> (H, W) the class of the largest logit, enlarged bilinearly with corners on corners.

    Of equal logits the earlier class wins. Beside the answer it holds a few MB, however large the picture is.
    """
    height, width = size_hw
    mask = np.empty(size_hw, np.uint8)
    rows, columns = _between(logits.shape[1], height), _matrix(logits.shape[2], width)
    count = max(1, _STRIP_PIXELS // width)
    for start in range(0, height, count):
        strip = slice(start, start + count)
        mask[strip] = _classes(logits, rows.part(strip), columns)
    return mask


class _Between(NamedTuple):
    """For each pixel along an axis: the places before and behind it, and its distance from the first, 0..1."""

    before: NDArray[np.int64]
    behind: NDArray[np.int64]
    share: NDArray[np.float32]

    def part(self, some: slice) -> _Between:
        return _Between(self.before[some], self.behind[some], self.share[some])


def _between(size: int, enlarged: int) -> _Between:
    # A single pixel lies on the first corner.
    positions = np.arange(enlarged) * ((size - 1) / max(enlarged - 1, 1))
    before = np.minimum(positions.astype(np.int64), size - 1)
    return _Between(before, np.minimum(before + 1, size - 1), (positions - before).astype(np.float32))


def _matrix(size: int, enlarged: int) -> NDArray[np.float32]:
    """(size, enlarged): what enlarges a line when it is multiplied by it, faster than any picking of its places."""
    between = _between(size, enlarged)
    matrix = np.zeros((size, enlarged), np.float32)
    pixels = np.arange(enlarged)
    matrix[between.before, pixels] = 1 - between.share
    matrix[between.behind, pixels] += between.share
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
