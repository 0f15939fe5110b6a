"""A network that answers as its int8 export would, and learns to bear it (`train --qat`).

Weights and activations are rounded in the forward pass, and gradients go straight through the rounding (Jacob et al.,
CVPR 2018; Krishnamoorthi, 2018, arXiv 1806.08342). Batch norm keeps its statistics. It is not folded: with a scale for
each output channel, rounding w x gamma / sqrt(var + eps) and rounding w are the same, because the factor of a channel
goes into its scale.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mobilenetv2.networks.deeplab_v3 import DeepLabv3
from mobilenetv2.networks.layers import ConvNorm
from mobilenetv2.networks.mobilenet_v2 import InvertedResidual
from mobilenetv2.runtime.graph_network import WEIGHT_LEVELS

ACTIVATION_LEVELS = 256
# Weight of a new batch in the ranges; the first batches weigh alike.
MOMENTUM = 0.01


class Point(NamedTuple):
    """A value that 8 bits round: what a module reads, or what it makes. name: as in `Card.activation_ranges`."""

    name: str
    module: nn.Module
    side: Literal["reads", "makes"]


def points(network: nn.Module) -> list[Point]:
    """Of a classifier, detector or segmenter all that `graph_network` rounds, but the raw outputs: those stay float."""
    trunk = network.get_submodule("backbone") if hasattr(network, "backbone") else network
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, ConvNorm)}
    in_trunk = set(trunk.modules())
    last = [name for name, module in convolutions.items() if module in in_trunk][-1]
    found = [Point("images", network, "reads")]
    found += [Point(name, module, "makes") for name, module in convolutions.items()]
    found += [
        Point(f"{name}.project.add", module, "makes")
        for name, module in network.named_modules()
        if isinstance(module, InvertedResidual) and module.has_shortcut
    ]
    if isinstance(network, DeepLabv3):
        head = network.head
        found += [Point(f"{last}.pool", head.image, "reads"), Point("head.joined", head.project, "reads")]
        if network.decoder is not None:
            found.append(Point("decoder.joined", network.decoder.blocks, "reads"))
    elif hasattr(network, "classifier"):
        # Before dropout, which in training enlarges what it keeps.
        found.append(Point(f"{last}.pool", network.get_submodule("dropout"), "reads"))
    return found


def round_weight(weight: Tensor) -> Tensor:
    """(out, ...) -> the nearest of even steps to both sides of 0, up to the largest weight of each output channel."""
    most = weight.detach().flatten(1).abs().amax(dim=1).float()
    # A channel of zeros may have any scale.
    scales = torch.where(most > 0, most / WEIGHT_LEVELS, torch.ones_like(most))
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -WEIGHT_LEVELS, WEIGHT_LEVELS)


def round_activation(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """To the nearest of 256 even steps from `low` to `high` (scalars), one of which is 0; the gradient outside is 0.

    A range without extent, as of a layer that gives zeros alone, becomes 0 to 255.
    """
    scale = (high - low) / (ACTIVATION_LEVELS - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = (-low / scale).round().to(torch.int32)
    # In float32 whatever the precision of the training: bfloat16 has no 256 even steps.
    return torch.fake_quantize_per_tensor_affine(values.float(), scale, zero, 0, ACTIVATION_LEVELS - 1).to(values.dtype)


class FakeQuantised(nn.Module):
    """Wraps a network, which stays as it is: (N, 3, H, W), preprocessed -> what the network gives, in 8 bits inside.

    In training the ranges of the activations follow the batches: moving means of their least and largest values, which
    hold 0. The network itself, called without this, knows nothing of it.

    ranges: (points, 2) least and largest values. batches: how many were seen.
    """

    ranges: Tensor
    batches: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._points = points(network)
        self._weights = [
            f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
        ]
        self.register_buffer("ranges", torch.zeros(len(self._points), 2))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.train()

    def forward(self, images: Tensor) -> Any:
        weights = {name: round_weight(self.network.get_parameter(name)) for name in self._weights}
        if self.training:
            self.batches += 1
        with ExitStack() as hooks:
            for index, point in enumerate(self._points):
                hooks.callback(self._hook(index, point).remove)
            return functional_call(self.network, weights, (images,))

    def train(self, mode: bool = True) -> FakeQuantised:
        """As every module's, but that batch norm keeps its statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def activation_ranges(self) -> dict[str, tuple[float, float]]:
        """For a model's card; of layers that give zeros alone there is none."""
        pairs = zip(self._points, self.ranges.tolist(), strict=True)
        return {point.name: (low, high) for point, (low, high) in pairs if low < high}

    def _hook(self, index: int, point: Point) -> torch.utils.hooks.RemovableHandle:
        if point.side == "makes":
            return point.module.register_forward_hook(lambda _, __, made: self._rounded(index, made))
        return point.module.register_forward_pre_hook(lambda _, read: (self._rounded(index, read[0]),))

    def _rounded(self, index: int, values: Tensor) -> Tensor:
        if self.training:
            least, most = torch.aminmax(values.detach().float())
            # Padding is made of 0, which a range must hold.
            new = torch.stack([least.clamp(max=0), most.clamp(min=0)])
            share = (1 / self.batches).clamp(min=MOMENTUM)
            self.ranges[index] += share * (new - self.ranges[index])
        return round_activation(values, *self.ranges[index])
