"""Equalisation: the channels between two layers are scaled so that 8 bits suit all of them (Nagel et al., ICCV 2019).

What a layer makes of channel c is multiplied by s_c and what the next layer makes of it divided, so the network
answers as before. ReLU6 is not scaled along: a channel that reaches 6 is left as it is, and another is enlarged only
until its largest result on the calibration pictures stands at 6.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.modelfile import ModelFile
from mobilenetv2.quantization.folded import Layer, fold, pairs, unfold
from mobilenetv2.quantization.observed import Observed

Weights = Literal["channel", "tensor"]
CEILING = 6.0
# Channels that hardly speak are not enlarged without end: pictures to come may hold what these did not.
MOST = 100.0
# Scales of per-tensor weights settle within that many rounds.
_ROUNDS = 20


def equalise(model: ModelFile, observed: Observed, *, weights: Weights = "channel") -> ModelFile:
    """A model file that answers as `model` does on pictures like those of `observed`, and bears 8 bits better.

    weights: whether the runtime has a scale for each output channel of a kernel, so that only the activations and the
    input channels of the next layer are to be made equal, or one for the whole "tensor".
    """
    layers = fold(model)
    # Largest results as they are now, scaled along with the channels.
    tops = {name: np.maximum(each.most, 0) for name, each in observed.layers.items()}
    swings = {name: np.maximum(each.most, -each.least) for name, each in observed.layers.items()}

    def apply(first: str, second: str, scales: NDArray[np.float64]) -> None:
        layers[first] = _multiplied(layers[first], scales)
        layers[second] = _divided(layers[second], scales)
        tops[first], swings[first] = tops[first] * scales, swings[first] * scales

    for _ in range(_ROUNDS if weights == "tensor" else 1):
        for first, second in pairs(model.card.architecture):
            here, there = layers[first.name], layers[second.name]
            swing = swings[first.name] if here.activation == "linear" else tops[first.name]
            scales = _scales(here, there, swing, weights)
            if here.activation == "relu6":
                # A channel that never speaks is 0 whatever its scale.
                room = np.maximum(CEILING / np.maximum(tops[first.name], 1e-12), 1)
                if weights == "tensor":
                    scales = scales * min(1, (room / scales).min())
                else:
                    scales = np.where(tops[first.name] >= CEILING, 1, np.minimum(scales, room))
            apply(first.name, second.name, scales)
    return unfold(model, layers)


def _scales(here: Layer, there: Layer, swing: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    """By what each channel between two layers is to be multiplied, were there no ceiling."""
    reach = _by_input(there)
    if weights == "tensor":
        own = np.abs(here.kernel).max(axis=(1, 2, 3))
        wanted = np.sqrt(reach / np.maximum(own, 1e-12))
    elif there.depthwise:
        # Each channel has a weight scale of its own on both sides, so only the result between them counts.
        wanted = swing.max() / np.maximum(swing, 1e-12)
    else:
        wanted = np.sqrt(reach / np.maximum(swing, 1e-12))
        wanted = wanted / wanted[swing.argmax()]
    # A channel that never speaks, or that nobody reads, goes along with the others.
    lives = (reach > 0) & (swing > 0)
    usual = np.exp(np.log(wanted[lives]).mean()) if lives.any() else 1
    scales: NDArray[np.float64] = np.clip(np.where(lives, wanted, usual), 1 / MOST, MOST)
    return scales


def _by_input(layer: Layer) -> NDArray[np.float64]:
    """The largest weight that reads each channel."""
    largest: NDArray[np.float64] = np.abs(layer.kernel).max(axis=(1, 2, 3) if layer.depthwise else (0, 2, 3))
    return largest


def _multiplied(layer: Layer, scales: NDArray[np.float64]) -> Layer:
    return replace(layer, kernel=layer.kernel * scales[:, None, None, None], bias=layer.bias * scales)


def _divided(layer: Layer, scales: NDArray[np.float64]) -> Layer:
    shape = (-1, 1, 1, 1) if layer.depthwise else (1, -1, 1, 1)
    return replace(layer, kernel=layer.kernel / scales.reshape(shape))
