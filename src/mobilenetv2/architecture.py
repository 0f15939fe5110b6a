"""The networks as tables: what stands where, before any tensor exists.

Everything here is plain Python. The torch modules, the graph builder of the runtime and the check of a
model file all read the same plan, so they cannot disagree about a shape.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, Table 2;
rounding and dilation rules from TF-Slim, since the paper gives none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mobilenetv2.errors import UserError, did_you_mean


class Stage(NamedTuple):
    """One row of Table 2: `repeats` blocks, of which only the first has the stride."""

    expansion: int  # t
    channels: int  # c, before the width multiplier
    repeats: int  # n
    stride: int  # s


STEM_CHANNELS = 32
MOBILENET_V2 = (
    #     t    c   n  s     input at 224
    Stage(1, 16, 1, 1),  # 112 x 112 x 32
    Stage(6, 24, 2, 2),  # 112 x 112 x 16
    Stage(6, 32, 3, 2),  # 56 x 56 x 24
    Stage(6, 64, 4, 2),  # 28 x 28 x 32
    Stage(6, 96, 3, 1),  # 14 x 14 x 64
    Stage(6, 160, 3, 2),  # 14 x 14 x 96
    Stage(6, 320, 1, 1),  # 7 x 7 x 160
)
LAST_CHANNELS = 1280

OUTPUT_STRIDES = (32, 16, 8)

Padding = Literal["symmetric", "same"]


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """What two frameworks do differently with the same weights.

    `padding`: "symmetric" pads (k - 1) / 2 on every side; "same" is TensorFlow's SAME, which at stride 2
    with an even input pads only below and to the right.
    `batch_norm_momentum` is torch's: the weight of the new batch, not of the running value.
    """

    padding: Padding
    batch_norm_eps: float
    batch_norm_momentum: float


NUMERICS = {
    "torch": Numerics(padding="symmetric", batch_norm_eps=1e-5, batch_norm_momentum=0.1),
    # TF-Slim: epsilon .001, decay .997.
    "tf": Numerics(padding="same", batch_norm_eps=1e-3, batch_norm_momentum=0.003),
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that decides the shape and the arithmetic of a classifier; part of the model card.

    width: multiplier of every layer's channels, except that the last convolution never falls below 1280
        (Sec. 4).
    depth: multiplier of the repeats `n` (1.0 in the paper; timm's `110d` and `120d` use 1.2 and 1.4).
    scale_ends: whether `width` reaches the stem and the last convolution, and `depth` the first and the
        last stage. False only for timm's `110d` and `120d`.
    output_stride: input pixels per output pixel; below 32 the later blocks are dilated.
    num_classes: size of the output.
    numerics: a key of `NUMERICS`.
    """

    name: str = "mobilenet_v2"
    width: float = 1.0
    depth: float = 1.0
    scale_ends: bool = True
    output_stride: int = 32
    num_classes: int = 1000
    numerics: str = "torch"

    def __post_init__(self) -> None:
        if self.name != "mobilenet_v2":
            raise UserError(f"architecture {self.name!r} is not known; it can be 'mobilenet_v2'")
        for option in ("width", "depth"):
            value = getattr(self, option)
            if not isinstance(value, int | float) or not 0 < value <= 16:
                raise UserError(f"{option} {value!r} is out of range; give a number above 0, at most 16, such as 1.0")
        if self.output_stride not in OUTPUT_STRIDES:
            raise UserError(f"output stride {self.output_stride!r} is not possible; it can be 32, 16 or 8")
        if not isinstance(self.num_classes, int) or not 1 <= self.num_classes <= 1_000_000:
            raise UserError(f"number of classes {self.num_classes!r} is out of range; give 1 to 1000000")
        if self.numerics not in NUMERICS:
            raise UserError(
                f"numerics profile {self.numerics!r} is not known{did_you_mean(self.numerics, NUMERICS)}; "
                f"it can be {' or '.join(map(repr, NUMERICS))}"
            )


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """One inverted residual (Table 1): k -> tk -> k' channels, stride s, depthwise dilation."""

    in_channels: int
    expanded_channels: int
    out_channels: int
    stride: int
    dilation: int

    @property
    def expands(self) -> bool:
        """Whether there is a 1x1 expansion; with t = 1 it would be the identity's shape and is left out."""
        return self.expanded_channels != self.in_channels

    @property
    def has_shortcut(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole network: stem, stages of blocks (one per row of Table 2), last convolution."""

    stem_channels: int
    stages: tuple[tuple[BlockPlan, ...], ...]
    last_channels: int

    @property
    def blocks(self) -> Iterator[BlockPlan]:
        return (block for stage in self.stages for block in stage)


def round_channels(channels: float, divisor: int = 8) -> int:
    """TF-Slim's rule: the nearest multiple of `divisor`, but never more than 10 % below `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def plan_network(architecture: Architecture, stages: tuple[Stage, ...] = MOBILENET_V2) -> Plan:
    """Work out every block's channels, stride and dilation.

    Dilation follows TF-Slim: once the output stride is reached, a block that loses its stride keeps the
    rate of those before it, and the blocks after it take the rate multiplied by the lost stride.
    """
    width, depth = architecture.width, architecture.depth
    stem = round_channels(STEM_CHANNELS * width) if architecture.scale_ends else STEM_CHANNELS
    planned: list[tuple[BlockPlan, ...]] = []
    in_channels, reached_stride, dilation = stem, 2, 1
    for index, stage in enumerate(stages):
        is_end = index in (0, len(stages) - 1)
        repeats = stage.repeats if is_end and not architecture.scale_ends else math.ceil(stage.repeats * depth)
        out_channels = round_channels(stage.channels * width)
        blocks: list[BlockPlan] = []
        for repeat in range(repeats):
            wanted = stage.stride if repeat == 0 else 1
            stride = wanted if reached_stride * wanted <= architecture.output_stride else 1
            blocks.append(
                BlockPlan(
                    in_channels=in_channels,
                    # Multiples of 8 stay multiples of 8, so Slim's rounding of the expansion changes nothing.
                    expanded_channels=in_channels * stage.expansion,
                    out_channels=out_channels,
                    stride=stride,
                    dilation=dilation,
                )
            )
            reached_stride *= stride
            dilation *= wanted // stride
            in_channels = out_channels
        planned.append(tuple(blocks))
    last = LAST_CHANNELS
    if width > 1 and architecture.scale_ends:
        last = round_channels(LAST_CHANNELS * width)
    return Plan(stem_channels=stem, stages=tuple(planned), last_channels=last)


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of one axis as (before, after); the odd pixel goes after."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


class ParameterShape(NamedTuple):
    name: str
    shape: tuple[int, ...]


def parameter_shapes(architecture: Architecture) -> list[ParameterShape]:
    """Name and shape of every tensor of a model file, in the order of computation.

    Convolutions are (out, in / groups, height, width); the classifier is (classes, features).
    """
    plan = plan_network(architecture)
    shapes: list[ParameterShape] = []

    def conv_norm(name: str, out_channels: int, in_channels: int, kernel: int) -> None:
        shapes.append(ParameterShape(f"{name}.conv.weight", (out_channels, in_channels, kernel, kernel)))
        shapes.extend(
            ParameterShape(f"{name}.norm.{part}", (out_channels,))
            for part in ("weight", "bias", "running_mean", "running_var")
        )

    conv_norm("stem", plan.stem_channels, 3, 3)
    for s, stage in enumerate(plan.stages):
        for b, block in enumerate(stage):
            prefix = f"stages.{s}.blocks.{b}"
            if block.expands:
                conv_norm(f"{prefix}.expand", block.expanded_channels, block.in_channels, 1)
            conv_norm(f"{prefix}.filter", block.expanded_channels, 1, 3)
            conv_norm(f"{prefix}.project", block.out_channels, block.expanded_channels, 1)
    conv_norm("last", plan.last_channels, plan.stages[-1][-1].out_channels, 1)
    shapes.append(ParameterShape("classifier.weight", (architecture.num_classes, plan.last_channels)))
    shapes.append(ParameterShape("classifier.bias", (architecture.num_classes,)))
    return shapes


def parameters(architecture: Architecture, *, batch_norm: bool = True) -> int:
    """Trained numbers: kernels, the classifier and, with `batch_norm`, gamma and beta (not the running statistics)."""
    return sum(
        math.prod(shape)
        for name, shape in parameter_shapes(architecture)
        if ".running_" not in name and (batch_norm or ".norm." not in name)
    )


def multiply_adds(architecture: Architecture, size_hw: tuple[int, int]) -> int:
    """Multiplications of all convolutions and the classifier for one picture; batch norm is not counted.

    size_hw: height and width of the input in pixels; a stride halves them, rounding up.
    """
    plan = plan_network(architecture)

    def strided(size_hw: tuple[int, int], stride: int) -> tuple[int, int]:
        return -(-size_hw[0] // stride), -(-size_hw[1] // stride)

    size_hw = strided(size_hw, 2)
    total = math.prod(size_hw) * 3 * 9 * plan.stem_channels
    for block in plan.blocks:
        inner = block.expanded_channels
        if block.expands:
            total += math.prod(size_hw) * block.in_channels * inner
        size_hw = strided(size_hw, block.stride)
        total += math.prod(size_hw) * inner * (9 + block.out_channels)
    total += math.prod(size_hw) * plan.stages[-1][-1].out_channels * plan.last_channels
    return total + plan.last_channels * architecture.num_classes
