"""What the bounds of int8_kernels.cpp cost: a model's metric with weights and activations on the levels they allow.

    python benchmarks/int8_accuracy.py cifar10 cifar10-train.zip

Prepared as for an export in 8 bits, calibrated with training pictures, measured on the validation pictures. Layers are
computed in float32 from weights and activations on their levels, which is what integers give but for rounding. The
stem's weights stay as they are, as its input does. Bounds are kept by output channel: each has as many levels, 127 at
most, as leave the sum of weights of one sign within the bound in every group that is summed in 16 bits.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from calibrated import subject
from numpy.typing import NDArray

from mobilenetv2.evaluation import evaluate
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.quantization.equalise import equalise
from mobilenetv2.quantization.folded import fold, unfold
from mobilenetv2.quantization.observed import Observed, observe
from mobilenetv2.quantization.prepare import last_layers
from mobilenetv2.runtime.predictor import predictor_of


class Bounds(NamedTuple):
    """together: input channels of a 1x1 convolution whose products are summed in 16 bits, 1 for none.

    levels: of weights, to each side of 0. activations: their levels.
    """

    levels: int = 127
    together: int = 1
    activations: int = 256


CASES = {
    "`wide`: 8 bits": Bounds(),
    "weights of 7 bits": Bounds(levels=63),
    "weights and activations of 7 bits": Bounds(levels=63, activations=128),
    "`pairs`": Bounds(together=2),
    "`sums2`": Bounds(together=4),
    "`sums4`": Bounds(together=8),
    "`sums4`, activations of 7 bits": Bounds(together=8, activations=128),
}


def groups_of(kernel: NDArray[np.float64], together: int, *, depthwise: bool) -> NDArray[np.float64]:
    """Of each output channel the weights that are summed together, (out, groups, weights); zeros fill up."""
    if depthwise:
        taps = kernel.reshape(-1, 9)
        # Rows 0 and 1, and row 2.
        return np.stack([taps[:, :6], np.pad(taps[:, 6:], ((0, 0), (0, 3)))], axis=1)
    flat = kernel.reshape(len(kernel), -1)
    padded = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 16)))
    # (out, four, pair of a four, channel of a pair): fours are one register's lane, pairs are summed with their like.
    pairs = padded.reshape(len(flat), -1, together // 2, 2, 2)
    return pairs.transpose(0, 1, 3, 2, 4).reshape(len(flat), -1, together)


def levels_of(kernel: NDArray[np.float64], bounds: Bounds, *, depthwise: bool) -> NDArray[np.int64]:
    """Of each output channel as many as the bound allows."""
    levels = np.full(len(kernel), bounds.levels)
    if bounds.together == 1:
        return levels
    most = 32767 // (bounds.activations - 1)
    shares = kernel / np.abs(kernel).reshape(len(kernel), -1).max(axis=1).clip(1e-30).reshape(-1, 1, 1, 1)
    groups = groups_of(shares, bounds.together, depthwise=depthwise)
    while True:
        steps = np.rint(groups * levels[:, None, None])
        sums = np.maximum(steps.clip(min=0).sum(axis=2), (-steps).clip(min=0).sum(axis=2)).max(axis=1)
        if (sums <= most).all():
            return levels
        # A guess from above, as rounding moves sums.
        fewer = (levels * most / sums.clip(1)).astype(np.int64) + 1
        levels = np.where(sums > most, np.minimum(levels - 1, fewer), levels)


def rounded(model: ModelFile, observed: Observed, bounds: Bounds) -> tuple[ModelFile, NDArray[np.int64]]:
    """As `rounded_weights.round_weights`, with levels by channel, which are returned too."""
    layers, found = fold(model), []
    for name, layer in layers.items():
        if layer.kernel.shape[1:] == (3, 3, 3):
            continue
        levels = levels_of(layer.kernel, bounds, depthwise=layer.depthwise)
        found.append(levels)
        most = np.abs(layer.kernel).reshape(len(layer.kernel), -1).max(axis=1)
        scales = (np.where(most > 0, most, 1) / levels).reshape(-1, 1, 1, 1)
        kernel = np.rint(layer.kernel / scales) * scales
        moved, mean = (kernel - layer.kernel).sum(axis=(2, 3)), observed.layers[name].input_mean
        bias = layer.bias - (moved[:, 0] * mean if layer.depthwise else moved @ mean)
        layers[name] = replace(layer, kernel=kernel, bias=bias)
    return unfold(model, layers), np.concatenate(found)


def main() -> None:
    name, data = sys.argv[1], Path(sys.argv[2])
    model, images, metric, exact = subject(name, data)
    print(f"| {name} | {metric} | points lost | levels of weights: least, median |\n|-|-|-|-|")
    print(f"| float32 | {exact:.4f} | | |")
    equalised = equalise(model, observe(model, images))
    observed = observe(equalised, images)
    last = {plan.name for plan in last_layers(model.card)}
    for case, bounds in CASES.items():
        prepared, levels = rounded(equalised, observed, bounds)
        # A card knows 256 levels; fewer are those of a wider range.
        wider = 255 / (bounds.activations - 1)
        ranges = {
            point: (low * wider, high * wider)
            for point, (low, high) in observe(prepared, images).ranges.items()
            if point not in last and low < high
        }
        card = replace(prepared.card, activation_ranges=ranges, activation_levels=256)
        found = evaluate(predictor_of(replace(prepared, card=card)), data).card_metrics()[metric]
        middle = int(np.median(levels))
        print(f"| {case} | {found:.4f} | {100 * (exact - found):.2f} | {levels.min()}, {middle} |", flush=True)


if __name__ == "__main__":
    main()
