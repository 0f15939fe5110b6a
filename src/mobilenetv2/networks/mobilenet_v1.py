"""MobileNetV1 (Howard et al., 2017, arXiv 1704.04861), Table 1: depthwise separable convolutions in a row."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from mobilenetv2.architecture import STRIDE_16_BLOCKS, Architecture, SeparablePlan, plan_mobilenet_v1
from mobilenetv2.networks.layers import Activation, ConvNorm, initialize
from mobilenetv2.numerics import NUMERICS, Numerics


class SeparableConvolution(nn.Module):
    """Filter 3x3 depthwise, then mix 1x1, both with batch norm and activation (Fig. 3)."""

    def __init__(self, plan: SeparablePlan, activation: Activation, numerics: Numerics) -> None:
        super().__init__()
        self.filter = ConvNorm(
            plan.in_channels,
            plan.in_channels,
            kernel=3,
            stride=plan.stride,
            dilation=plan.dilation,
            groups=plan.in_channels,
            activation=activation,
            numerics=numerics,
        )
        self.mix = ConvNorm(plan.in_channels, plan.out_channels, activation=activation, numerics=numerics)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(self.filter(x))
        return mixed


class V1Taps(NamedTuple):
    """Feature maps that the other tasks build on, for input (N, 3, H, W) at output stride 32."""

    stride_16: Tensor  # (N, 512, H/16, W/16) at width 1: where SSDLite begins
    last: Tensor  # (N, 1024, H/32, W/32): where the rest of SSDLite, and DeepLabv3, stand


class MobileNetV1(nn.Module):
    """(N, 3, H, W), preprocessed -> (N, num_classes) logits. Any H and W from 1 up.

    activation: "relu6" as in TF-Slim, which model files have, or "relu" as in the paper.
    dropout: share of the pooled features dropped in training; .001 in TF-Slim.
    """

    def __init__(self, architecture: Architecture, *, activation: Activation = "relu6", dropout: float = 0.001) -> None:
        super().__init__()
        self.architecture = architecture
        plan, numerics = plan_mobilenet_v1(architecture), NUMERICS[architecture.numerics]
        self.stem = ConvNorm(3, plan[0].in_channels, kernel=3, stride=2, activation=activation, numerics=numerics)
        self.blocks = nn.ModuleList(SeparableConvolution(block, activation, numerics) for block in plan)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(plan[-1].out_channels, architecture.num_classes)
        initialize(self, architecture.numerics)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.taps(images).last.mean(dim=(2, 3))
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits

    def taps(self, images: Tensor) -> V1Taps:
        """The two maps that detection reads."""
        rows = self.rows(images)
        return V1Taps(rows[STRIDE_16_BLOCKS - 1], rows[-1])

    def rows(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> what each block makes of it."""
        x, found = self.stem(images), []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found
