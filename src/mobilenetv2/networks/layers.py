"""Layers that the networks share: convolution with batch norm, in either framework's numerics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilenetv2.numerics import Numerics, same_padding

Network = TypeVar("Network", bound=nn.Module)
Activation = Literal["relu6", "relu", "leaky_relu", "linear"]

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu6": partial(nn.ReLU6, inplace=True),
    "relu": partial(nn.ReLU, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, 0.1, inplace=True),  # Darknet's slope
    "linear": nn.Identity,
}


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm and activation.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)), for every size and every kind of
    padding but "trailing", where a depthwise convolution rounds down.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activation: Activation = "relu6",
        numerics: Numerics,
    ) -> None:
        super().__init__()
        # At stride 1 both rules pad alike, and the convolution can do it.
        self.rounds_down = numerics.padding == "trailing" and groups > 1 and stride > 1
        self.pads_by_size = numerics.padding != "symmetric" and stride > 1
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=0 if self.pads_by_size else (kernel - 1) // 2 * dilation,
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=numerics.batch_norm_eps, momentum=numerics.batch_norm_momentum)
        self.activation: nn.Module = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        if self.rounds_down:
            x = F.pad(x, (0, self.conv.kernel_size[0] // 2) * 2)
        elif self.pads_by_size:
            x = pad_same(x, self.conv)
        activated: Tensor = self.activation(self.norm(self.conv(x)))
        return activated


def pad_same(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The zeros of TensorFlow's SAME around a map, for a convolution that pads nothing itself."""
    kernel, stride, dilation = conv.kernel_size[0], conv.stride[0], conv.dilation[0]
    top, bottom = same_padding(x.shape[2], kernel, stride, dilation)
    left, right = same_padding(x.shape[3], kernel, stride, dilation)
    return F.pad(x, (left, right, top, bottom))


def initialize(network: nn.Module, numerics_name: str) -> None:
    """Random weights as the framework of the profile draws them.

    "torch": He normal over the outputs, classifier N(0, .01) (torchvision). Others: truncated normal with
    standard deviation .09 (TF-Slim); the paper does not say.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            if numerics_name != "torch":
                nn.init.trunc_normal_(module.weight, std=0.09, a=-0.18, b=0.18)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            if numerics_name != "torch":
                nn.init.trunc_normal_(module.weight, std=0.09, a=-0.18, b=0.18)
            else:
                nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def headless(network: Network) -> Network:
    """Take the classifier and its dropout off a MobileNetV1 or V2, in place: for use through `taps()` only.

    What is left keeps its names, so a classifier's weights load into it once `classifier.*` is left out.
    """
    del network.classifier
    del network.dropout
    return network


def channels_last(network: nn.Module) -> nn.Module:
    """Lay out the weights for NHWC, in which CPUs run these networks about half again as fast."""
    return network.to(memory_format=torch.channels_last)
