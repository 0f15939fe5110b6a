"""ResNet-101 (He et al., CVPR 2016, arXiv 1512.03385), Table 1, without its classifier: a trunk for DeepLabv3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn

from mobilenetv2.architecture import OUTPUT_STRIDES
from mobilenetv2.networks.layers import ConvNorm, initialize
from mobilenetv2.networks.pooling import MaxPool
from mobilenetv2.numerics import NUMERICS


class ResNetStage(NamedTuple):
    """`repeats` units in a row; their output has four times the channels of their inside."""

    inner_channels: int
    repeats: int


RESNET_101 = (
    ResNetStage(64, 3),  # 56 x 56 at 224
    ResNetStage(128, 4),  # 28 x 28
    ResNetStage(256, 23),  # 14 x 14
    ResNetStage(512, 3),  # 7 x 7
)
UNIT_EXPANSION = 4
LAST_CHANNELS = RESNET_101[-1].inner_channels * UNIT_EXPANSION  # 2048

# Padding is symmetric in every variant, and so is TF-Slim's `conv2d_same`.
RESNET_NUMERICS = NUMERICS["torch"]


class RootConvolution(NamedTuple):
    channels: int
    kernel: int
    stride: int


@dataclass(frozen=True, kw_only=True)
class ResNetVariant:
    """What two libraries build differently under one name.

    root: the convolutions before the pooling.
    strided_unit: which unit of a stage makes the map smaller: the first one of the later stage, or the last
        one of the stage before it. It does so in its 3x3 convolution.
    multi_grid: factors of the dilation of the last stage's units (DeepLabv3, Sec. 3.2.1).
    """

    root: tuple[RootConvolution, ...]
    strided_unit: Literal["first", "last"]
    multi_grid: tuple[int, int, int]


TORCHVISION = ResNetVariant(root=(RootConvolution(64, 7, 2),), strided_unit="first", multi_grid=(1, 1, 1))
# TF DeepLab's `resnet_v1_101_beta`, which Table 7 counts.
DEEPLAB_BETA = ResNetVariant(
    root=(RootConvolution(64, 3, 2), RootConvolution(64, 3, 1), RootConvolution(128, 3, 1)),
    strided_unit="last",
    multi_grid=(1, 2, 4),
)


@dataclass(frozen=True, kw_only=True)
class UnitPlan:
    """One residual unit: channels in and inside, stride and dilation of its 3x3 convolution."""

    in_channels: int
    inner_channels: int
    stride: int
    dilation: int

    @property
    def out_channels(self) -> int:
        return self.inner_channels * UNIT_EXPANSION


def plan_units(variant: ResNetVariant, output_stride: int) -> tuple[tuple[UnitPlan, ...], ...]:
    """Stages of units. A unit that loses its stride keeps its dilation, and those after it take it doubled."""
    planned: list[tuple[UnitPlan, ...]] = []
    in_channels, reached_stride, dilation = variant.root[-1].channels, 4, 1
    last_stage = len(RESNET_101) - 1
    for index, stage in enumerate(RESNET_101):
        units: list[UnitPlan] = []
        for repeat in range(stage.repeats):
            if variant.strided_unit == "first":
                is_strided = index > 0 and repeat == 0
            else:
                is_strided = index < last_stage and repeat == stage.repeats - 1
            wanted = 2 if is_strided else 1
            stride = wanted if reached_stride * wanted <= output_stride else 1
            grid = variant.multi_grid[repeat] if index == last_stage else 1
            unit = UnitPlan(
                in_channels=in_channels, inner_channels=stage.inner_channels, stride=stride, dilation=dilation * grid
            )
            units.append(unit)
            reached_stride *= stride
            dilation *= wanted // stride
            in_channels = unit.out_channels
        planned.append(tuple(units))
    return tuple(planned)


class ResidualUnit(nn.Module):
    """Reduce 1x1, filter 3x3, restore 1x1, and the shortcut between the wide ends (Fig. 5, right).

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)). The shortcut is a 1x1
    convolution where the channels change, and otherwise takes every stride-th pixel.
    """

    def __init__(self, plan: UnitPlan) -> None:
        super().__init__()
        inner, out_channels = plan.inner_channels, plan.out_channels
        self.stride = plan.stride
        self.reduce = ConvNorm(plan.in_channels, inner, activation="relu", numerics=RESNET_NUMERICS)
        self.filter = ConvNorm(
            inner,
            inner,
            kernel=3,
            stride=plan.stride,
            dilation=plan.dilation,
            activation="relu",
            numerics=RESNET_NUMERICS,
        )
        self.restore = ConvNorm(inner, out_channels, activation="linear", numerics=RESNET_NUMERICS)
        self.shortcut: ConvNorm | None = None
        if plan.in_channels != out_channels:
            self.shortcut = ConvNorm(
                plan.in_channels, out_channels, stride=plan.stride, activation="linear", numerics=RESNET_NUMERICS
            )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.shortcut(x) if self.shortcut is not None else x[:, :, :: self.stride, :: self.stride]
        activated: Tensor = self.activation(kept + self.restore(self.filter(self.reduce(x))))
        return activated


class ResNetUnits(nn.Module):
    """One stage."""

    def __init__(self, plans: tuple[UnitPlan, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualUnit(plan) for plan in plans)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class ResNet101(nn.Module):
    """(N, 3, H, W), preprocessed -> (N, 2048, H/32, W/32), rounded up. Any H and W from 1 up.

    variant: `TORCHVISION` or `DEEPLAB_BETA`. output_stride: 32, 16 or 8; once it is reached, strides become
    dilation. Weights are drawn as torchvision draws them.
    """

    def __init__(self, variant: ResNetVariant = TORCHVISION, *, output_stride: int = 32) -> None:
        super().__init__()
        if output_stride not in OUTPUT_STRIDES:
            raise ValueError(f"output stride {output_stride} is not possible; it can be 32, 16 or 8")
        root: list[nn.Module] = []
        in_channels = 3
        for channels, kernel, stride in variant.root:
            root.append(
                ConvNorm(
                    in_channels, channels, kernel=kernel, stride=stride, activation="relu", numerics=RESNET_NUMERICS
                )
            )
            in_channels = channels
        self.root = nn.Sequential(*root)
        self.pool = MaxPool(stride=2, padding=RESNET_NUMERICS.padding)
        self.stages = nn.ModuleList(ResNetUnits(units) for units in plan_units(variant, output_stride))
        initialize(self, "torch")

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.pool(self.root(images))
        for stage in self.stages:
            x = stage(x)
        return x
