"""MobileNetV1 (Howard et al., 2017, arXiv 1704.04861), Table 1: depthwise separable convolutions in a row."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from mobilenetv2.architecture import NUMERICS, OUTPUT_STRIDES, Numerics
from mobilenetv2.networks.layers import Activation, ConvNorm, initialize


class Separable(NamedTuple):
    """One depthwise separable convolution."""

    channels: int  # before the width multiplier
    stride: int


STEM_CHANNELS = 32
MOBILENET_V1 = (
    Separable(64, 1),  # 112 x 112 x 32 at 224
    Separable(128, 2),
    Separable(128, 1),  # 56 x 56 x 128
    Separable(256, 2),
    Separable(256, 1),  # 28 x 28 x 256
    Separable(512, 2),
    *(Separable(512, 1),) * 5,  # 14 x 14 x 512
    Separable(1024, 2),
    Separable(1024, 1),  # 7 x 7 x 1024
)
STRIDE_16_BLOCKS = 11  # the blocks up to the last one before the fifth stride


class SeparableConvolution(nn.Module):
    """Filter 3x3 depthwise, then mix 1x1, both with batch norm and activation (Fig. 3)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        dilation: int,
        activation: Activation,
        numerics: Numerics,
    ) -> None:
        super().__init__()
        self.filter = ConvNorm(
            in_channels,
            in_channels,
            kernel=3,
            stride=stride,
            dilation=dilation,
            groups=in_channels,
            activation=activation,
            numerics=numerics,
        )
        self.mix = ConvNorm(in_channels, out_channels, activation=activation, numerics=numerics)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(self.filter(x))
        return mixed


class V1Taps(NamedTuple):
    """Feature maps that the other tasks build on, for input (N, 3, H, W) at output stride 32."""

    stride_16: Tensor  # (N, 512, H/16, W/16) at width 1: where SSDLite begins
    last: Tensor  # (N, 1024, H/32, W/32): where the rest of SSDLite, and DeepLabv3, stand


class MobileNetV1(nn.Module):
    """(N, 3, H, W), preprocessed -> (N, num_classes) logits. Any H and W from 1 up.

    width: multiplier of every layer's channels, cut down to a whole number and at least 8 (TF-Slim).
    output_stride: 32, 16 or 8; once it is reached, strides become dilation of the blocks after (TF-Slim).
    activation: "relu6" as in TF-Slim, "relu" as in the paper.
    numerics: a key of `architecture.NUMERICS`.
    dropout: share of the pooled features dropped in training; .001 in TF-Slim.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        num_classes: int = 1000,
        output_stride: int = 32,
        activation: Activation = "relu6",
        numerics: str = "torch",
        dropout: float = 0.001,
    ) -> None:
        super().__init__()
        if output_stride not in OUTPUT_STRIDES:
            raise ValueError(f"output stride {output_stride} is not possible; it can be 32, 16 or 8")
        profile = NUMERICS[numerics]
        in_channels, reached_stride, dilation = max(8, int(STEM_CHANNELS * width)), 2, 1
        self.stem = ConvNorm(3, in_channels, kernel=3, stride=2, activation=activation, numerics=profile)
        self.blocks = nn.ModuleList()
        for separable in MOBILENET_V1:
            out_channels = max(8, int(separable.channels * width))
            stride = separable.stride if reached_stride * separable.stride <= output_stride else 1
            self.blocks.append(
                SeparableConvolution(
                    in_channels,
                    out_channels,
                    stride=stride,
                    dilation=dilation,
                    activation=activation,
                    numerics=profile,
                )
            )
            reached_stride *= stride
            dilation *= separable.stride // stride
            in_channels = out_channels
        self.last_channels = in_channels
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)
        initialize(self, numerics)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.taps(images).last.mean(dim=(2, 3))
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits

    def taps(self, images: Tensor) -> V1Taps:
        """The two maps that detection and segmentation read."""
        x = self.stem(images)
        for block in self.blocks[:STRIDE_16_BLOCKS]:
            x = block(x)
        stride_16 = x
        for block in self.blocks[STRIDE_16_BLOCKS:]:
            x = block(x)
        return V1Taps(stride_16, x)
