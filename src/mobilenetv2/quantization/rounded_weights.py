"""Weights on the levels that 8 bits have, and biases that make up for what rounding moved (Nagel et al., ICCV 2019).

A kernel that is rounded moves the mean of its results by (rounded - exact) x the mean of what it reads. The first
depthwise layers suffer most: their kernels are large differences of a large mean. The mean is that of the calibration
pictures, so the bias takes it back. Every runtime's own tool finds the same levels again, as the largest weight of
each scale stays what it was.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.modelfile import ModelFile
from mobilenetv2.quantization.folded import fold, unfold
from mobilenetv2.quantization.observed import Observed
from mobilenetv2.runtime.graph_network import WEIGHT_LEVELS, quantise_kernel


def round_weights(
    model: ModelFile,
    observed: Observed,
    *,
    levels: int = WEIGHT_LEVELS,
    per_tensor: bool = False,
    correct: bool = True,
) -> ModelFile:
    """A model file whose kernels hold `levels` steps to each side, scaled by output channel, or one `per_tensor`.

    observed: of the same model. correct: whether biases make up for what rounding moved.
    """
    layers = fold(model)
    for name, layer in layers.items():
        kernel = rounded(layer.kernel, levels, per_tensor=per_tensor)
        bias = layer.bias
        if correct:
            moved, mean = (kernel - layer.kernel).sum(axis=(2, 3)), observed.layers[name].input_mean
            bias = bias - (moved[:, 0] * mean if layer.depthwise else moved @ mean)
        layers[name] = replace(layer, kernel=kernel, bias=bias)
    return unfold(model, layers)


def rounded(
    kernel: NDArray[np.float64], levels: int = WEIGHT_LEVELS, *, per_tensor: bool = False
) -> NDArray[np.float64]:
    """The nearest of these values for every weight, (out, in / groups, k, k)."""
    steps, scales = quantise_kernel(kernel.reshape(1, -1) if per_tensor else kernel, levels)
    return (steps.astype(np.float64) * scales.reshape(-1, *(1,) * (steps.ndim - 1))).reshape(kernel.shape)
