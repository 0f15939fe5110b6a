"""From a segmenter's raw outputs to a class for each pixel of the picture, without torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Rows are worked on a few at a time, so that all they need stays in the cache and little is held at once.
_STRIP_PIXELS = 1 << 16


def decode(logits: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(num_classes, h, w) -> (H, W) the class of the largest logit, enlarged bilinearly with corners on corners.

    Of equal logits the earlier class wins. Beside the answer it holds a few MB, however large the picture is.
    """
    height, width = size_hw
    mask = np.empty(size_hw, np.uint8)
    rows, columns = _between(logits.shape[1], height), _between(logits.shape[2], width)
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


def _classes(logits: NDArray[np.float32], rows: _Between, columns: _Between) -> NDArray[np.uint8]:
    top, bottom = logits[:, rows.before], logits[:, rows.behind]
    lines = top + (bottom - top) * rows.share[:, None]
    best = np.full((lines.shape[1], len(columns.share)), -np.inf, np.float32)
    classes = np.zeros(best.shape, np.uint8)
    for index, line in enumerate(lines):
        left = line[:, columns.before]
        values = line[:, columns.behind]
        values -= left
        values *= columns.share
        values += left
        np.putmask(classes, values > best, np.uint8(index))
        np.maximum(best, values, out=best)
    return classes
