"""Pictures to try a model on where there are no others."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

# (height, width): tiny, long, odd, small and photographs' sizes.
_DRAWN_SIZES_HW = ((1, 1), (1, 50), (300, 7), (32, 32), (97, 225), (375, 500), (640, 480), (224, 224), (1200, 1600))


@cache
def draw_pictures() -> tuple[NDArray[np.uint8], ...]:
    """Nine pictures of many sizes: colour gradients with discs and noise, the same on every machine."""
    random = np.random.default_rng(0)
    pictures = []
    for height, width in _DRAWN_SIZES_HW:
        y, x = np.mgrid[:height, :width].astype(np.float64) / max(height, width)
        levels = sum(random.uniform(-1, 1, 3) * wave[..., None] for wave in (x, y, np.sin(9 * x), np.cos(7 * y)))
        for _ in range(4):
            center_y, center_x, radius = random.uniform(0, 1, 3)
            inside = np.hypot(y - center_y, x - center_x) < radius / 3
            levels = np.where(inside[..., None], random.uniform(-1, 1, 3), levels)
        noisy = 128 + 90 * levels + random.normal(0, 12, (height, width, 3))
        pictures.append(np.clip(noisy, 0, 255).astype(np.uint8))
    for picture in pictures:
        picture.flags.writeable = False
    return tuple(pictures)
