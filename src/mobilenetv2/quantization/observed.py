"""What goes through each layer of a network while it looks at pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.modelfile import ModelFile
from mobilenetv2.runtime.engine import open_session
from mobilenetv2.runtime.graph import observing_graph

_BATCH = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """Of one layer, for each of its channels: the least and the largest result before its activation.

    input_mean: mean of what each of its input channels reads, over all pixels (padding is left out).
    """

    least: NDArray[np.float64]
    most: NDArray[np.float64]
    input_mean: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """layers: by the names of `folded.rows`. ranges: least and largest value of each activation, as in a card."""

    layers: dict[str, Layer]
    ranges: dict[str, tuple[float, float]]


def observe(model: ModelFile, images: NDArray[np.float32]) -> Observed:
    """images: (N, 3, H, W), preprocessed, N from 1."""
    session = open_session(observing_graph(model), threads=None)
    names = [output.name for output in session.get_outputs()]
    batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    runs = [session.run(None, {"images": batch}) for batch in batches]
    # (N, channels) each.
    found = {
        name: np.concatenate(parts).astype(np.float64)
        for name, parts in zip(names, zip(*runs, strict=True), strict=True)
    }

    def of_kind(end: str) -> dict[str, NDArray[np.float64]]:
        return {name.removesuffix(end): values for name, values in found.items() if name.endswith(end)}

    most, read, high = of_kind(".most"), of_kind(".read"), of_kind(".high")
    return Observed(
        layers={
            name: Layer(least=least.min(axis=0), most=most[name].max(axis=0), input_mean=read[name].mean(axis=0))
            for name, least in of_kind(".least").items()
        },
        # Padding is made of 0, which a range must hold.
        ranges={
            name: (min(float(low.min()), 0.0), max(float(high[name].max()), 0.0))
            for name, low in of_kind(".low").items()
        },
    )
