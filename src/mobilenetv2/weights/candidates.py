"""Every network that was published, and those between: what a checkpoint is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from mobilenetv2.architecture import Architecture, Convolution, trunk
from mobilenetv2.numerics import ROUNDINGS

# In steps of .05 and of an eighth; the published ones come first, since at some widths several give the same channels.
_PUBLISHED = (1.0, 0.75, 0.5, 0.35, 0.25, 1.3, 1.4)
_EVEN = {*(round(0.05 * step, 2) for step in range(1, 41)), *(0.125 * step for step in range(1, 17))}
WIDTHS = (*_PUBLISHED, *sorted(_EVEN - set(_PUBLISHED)))
# timm's `110d` and `120d`.
_DEEPER = ((1.1, 1.2), (1.2, 1.4))


class Candidate(NamedTuple):
    """An architecture, whose classes mean nothing, and its convolutions."""

    architecture: Architecture
    convolutions: tuple[Convolution, ...]


@cache
def candidates(network: str, *, numerics: str) -> tuple[Candidate, ...]:
    """Of "mobilenet_v1" or "mobilenet_v2", by width and rounding rule."""
    return tuple(Candidate(each, tuple(trunk(each))) for each in _architectures(network, numerics))


def _architectures(network: str, numerics: str) -> Iterator[Architecture]:
    common: dict[str, Any] = {"name": network, "numerics": numerics, "num_classes": 1}
    if network == "mobilenet_v1":
        yield from (Architecture(width=width, **common) for width in WIDTHS)
        return
    # Those with a layer more come first: the others' layers are among theirs.
    for expands_first, rounding, width in product((True, False), ROUNDINGS, WIDTHS):
        yield Architecture(width=width, rounding=rounding, expands_first=expands_first, **common)
    yield from (Architecture(width=width, depth=depth, scale_ends=False, **common) for width, depth in _DEEPER)
