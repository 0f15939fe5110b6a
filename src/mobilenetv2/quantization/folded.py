"""A network as its layers' weights alone, and as a model file again: what preparations work on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.architecture import TAPS, Convolution, trunk
from mobilenetv2.detector import BACKBONE, Detector, detector_layers
from mobilenetv2.modelfile import ModelFile, Network
from mobilenetv2.numerics import NUMERICS
from mobilenetv2.runtime.graph_network import layer_weights
from mobilenetv2.segmenter import BACKBONE as SEGMENTER_BACKBONE
from mobilenetv2.segmenter import SKIPS, Segmenter, segmenter_layers

CLASSIFIER = "classifier"


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """Kernel (out, in / groups, k, k) and bias (out,) of a convolution, batch norm folded in; a dense layer has k = 1.

    activation: what follows it: "relu6", "relu" or "linear".
    """

    kernel: NDArray[np.float64]
    bias: NDArray[np.float64]
    activation: str
    depthwise: bool = False


def rows(architecture: Network) -> list[list[Convolution]]:
    """Every convolution in the order of computation; within a row each reads the result of the one before it.

    A classifier's dense layer stands at the end of its row, as a 1x1 convolution: the mean over the map that lies
    between commutes with whatever scales channels.
    """
    if isinstance(architecture, Detector):
        parts = detector_layers(architecture)
        return [parts.backbone, *parts.extras, *parts.class_heads, *parts.box_heads]
    if isinstance(architecture, Segmenter):
        found = segmenter_layers(architecture)
        branches = [[each] for each in (found.image, found.point, *found.atrous)]
        if not found.deep:
            return [found.backbone, *branches, [found.project, found.classifier]]
        # The sum of `deep` and `skip` is rectified, so neither may be scaled alone.
        joined = [[found.project, *found.deep], found.skip, [*found.blocks, found.classifier]]
        return [found.backbone, *branches, *joined]
    convolutions = trunk(architecture)
    dense = Convolution(
        CLASSIFIER, convolutions[-1].out_channels, architecture.num_classes, has_norm=False, activation="linear"
    )
    return [[*convolutions, dense]]


def pairs(architecture: Network) -> Iterator[tuple[Convolution, Convolution]]:
    """Two convolutions of which the second alone reads the first: what lies between can be scaled."""
    everything = rows(architecture)
    shared = {each.shortcut for row in everything for each in row}
    if isinstance(architecture, Detector):
        shared.add(f"{BACKBONE}.{TAPS[architecture.backbone]}")
    if isinstance(architecture, Segmenter) and architecture.decoder == "light":
        shared.add(f"{SEGMENTER_BACKBONE}.{SKIPS[architecture.backbone]}")
    for row in everything:
        for first, second in pairwise(row):
            if first.shortcut is None and first.name not in shared:
                yield first, second


def fold(model: ModelFile) -> dict[str, Layer]:
    """The layers of a model by the names of `rows`."""
    layers = {}
    for plan in (each for row in rows(model.card.architecture) for each in row):
        kernel, bias = layer_weights(model, plan)
        layers[plan.name] = Layer(
            kernel=kernel.astype(np.float64).reshape(plan.out_channels, -1, plan.kernel, plan.kernel),
            bias=bias.astype(np.float64),
            activation=plan.activation,
            depthwise=plan.depthwise,
        )
    return layers


def unfold(model: ModelFile, layers: Mapping[str, Layer]) -> ModelFile:
    """The model with these weights: where it has a batch norm, one that only adds the bias.

    Ranges of activations that the card held are no longer theirs, so they are dropped.
    """
    eps_of_profile = NUMERICS[model.card.architecture.numerics].batch_norm_eps
    tensors = dict(model.tensors)
    for plan in (each for row in rows(model.card.architecture) for each in row):
        layer, name = layers[plan.name], plan.name
        if not plan.has_norm:
            tensors[f"{name}.weight"] = layer.kernel.reshape(tensors[f"{name}.weight"].shape).astype(np.float32)
            tensors[f"{name}.bias"] = layer.bias.astype(np.float32)
            continue
        ones = np.ones(plan.out_channels, np.float32)
        eps = eps_of_profile if plan.norm_eps is None else plan.norm_eps
        tensors[f"{name}.conv.weight"] = layer.kernel.astype(np.float32)
        tensors[f"{name}.norm.weight"] = ones * np.float32(np.sqrt(1 + eps))
        tensors[f"{name}.norm.bias"] = layer.bias.astype(np.float32)
        tensors[f"{name}.norm.running_mean"] = 0 * ones
        tensors[f"{name}.norm.running_var"] = ones
    card = replace(model.card, activation_ranges={}, activation_levels=0)
    return replace(model, card=card, tensors=tensors)
