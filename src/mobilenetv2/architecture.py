"""The networks as tables: what stands where, before any tensor exists.

Everything here is plain Python. The torch modules, the graph builder of the runtime and the check of a
model file all read the same plan, so they cannot disagree about a shape.

Sources: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, Table 2;
Howard et al., "MobileNets", 2017, arXiv 1704.04861, Table 1; rounding and dilation rules from TF-Slim, since the
papers give none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mobilenetv2.errors import UserError, did_you_mean
from mobilenetv2.numerics import DILATIONS, NUMERICS, ROUNDINGS, Dilation, Rounding, plan_strides


class Stage(NamedTuple):
    """One row of Table 2: `repeats` blocks, of which only the first has the stride."""

    expansion: int  # t
    channels: int  # c, before the width multiplier
    repeats: int  # n
    stride: int  # s


class Separable(NamedTuple):
    """Two rows of MobileNetV1's Table 1: a depthwise convolution and the 1x1 that mixes its channels."""

    channels: int  # before the width multiplier
    stride: int


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
# Of MobileNetV1: the blocks up to the last one before the third stride, and before the fifth.
STRIDE_4_BLOCKS, STRIDE_16_BLOCKS = 3, 11

# The convolution at stride 16 that detection reads: the expansion of TF-Slim's layer 15 (Sec. 6.2).
TAPS = {"mobilenet_v2": "stages.5.blocks.0.expand", "mobilenet_v1": f"blocks.{STRIDE_16_BLOCKS - 1}.mix"}

OUTPUT_STRIDES = (32, 16, 8)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that decides the shape and the arithmetic of a classifier; part of the model card.

    name: "mobilenet_v2" or "mobilenet_v1"; the latter has neither `depth` nor `scale_ends` to choose.
    width: multiplier of every layer's channels, except that MobileNetV2's last convolution never falls below 1280
        (Sec. 4).
    depth: multiplier of the repeats `n` (1.0 in the paper; timm's `110d` and `120d` use 1.2 and 1.4).
    scale_ends: whether `width` reaches the stem and the last convolution, and `depth` the first and the
        last stage. False only for timm's `110d` and `120d`.
    output_stride: input pixels per output pixel; below 32 the later blocks are dilated.
    num_classes: size of the output.
    numerics: a key of `NUMERICS`.
    rounding: a key of `ROUNDINGS`, of MobileNetV2's channels.
    dilation: a key of `DILATIONS`; it matters below output stride 32.
    expands_first: whether MobileNetV2's first block has an expansion too, from t = 1 times its channels to as many
        (pytorchcv, PaddleClas); the paper's and most others' has none.
    """

    name: str = "mobilenet_v2"
    width: float = 1.0
    depth: float = 1.0
    scale_ends: bool = True
    output_stride: int = 32
    num_classes: int = 1000
    numerics: str = "torch"
    rounding: Rounding = "slim"
    dilation: Dilation = "slim"
    expands_first: bool = False

    def __post_init__(self) -> None:
        if self.name not in TAPS:
            raise UserError(f"architecture {self.name!r} is not known; it can be {' or '.join(map(repr, TAPS))}")
        for option in ("width", "depth"):
            value = getattr(self, option)
            if not isinstance(value, int | float) or not 0 < value <= 16:
                raise UserError(f"{option} {value!r} is out of range; give a number above 0, at most 16, such as 1.0")
        only_v2 = (self.depth, self.scale_ends, self.rounding, self.expands_first)
        if self.name == "mobilenet_v1" and only_v2 != (1, True, "slim", False):
            raise UserError(
                "depth, scale_ends, rounding and expands_first are options of mobilenet_v2 alone; "
                "leave them out for mobilenet_v1"
            )
        for option, known in (("rounding", ROUNDINGS), ("dilation", DILATIONS)):
            value = getattr(self, option)
            if value not in known:
                raise UserError(f"{option} {value!r} is not known; it can be {', '.join(map(repr, known))}")
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
    always_expands: bool = False

    @property
    def expands(self) -> bool:
        """Whether there is a 1x1 expansion; with t = 1 it is of the identity's shape, and mostly left out."""
        return self.always_expands or self.expanded_channels != self.in_channels

    @property
    def has_shortcut(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole MobileNetV2: stem, stages of blocks (one per row of Table 2), last convolution."""

    stem_channels: int
    stages: tuple[tuple[BlockPlan, ...], ...]
    last_channels: int

    @property
    def blocks(self) -> Iterator[BlockPlan]:
        return (block for stage in self.stages for block in stage)


class SeparablePlan(NamedTuple):
    """One block of MobileNetV1: a depthwise 3x3 with that stride and dilation, then a 1x1."""

    in_channels: int
    out_channels: int
    stride: int
    dilation: int


def plan_network(architecture: Architecture, stages: tuple[Stage, ...] = MOBILENET_V2) -> Plan:
    """Every block's channels, stride and dilation of a MobileNetV2. Raises ValueError for another network."""
    if architecture.name != "mobilenet_v2":
        raise ValueError(f"this is the plan of mobilenet_v2, not of {architecture.name}")
    width, depth = architecture.width, architecture.depth
    rule = ROUNDINGS[architecture.rounding]
    stem = rule.round(STEM_CHANNELS * width) if architecture.scale_ends and rule.scales_start else STEM_CHANNELS
    repeats = [
        stage.repeats
        if index in (0, len(stages) - 1) and not architecture.scale_ends
        else math.ceil(stage.repeats * depth)
        for index, stage in enumerate(stages)
    ]
    wanted = ((row.stride, *(1,) * (count - 1)) for row, count in zip(stages, repeats, strict=True))
    strides = plan_strides(wanted, architecture.output_stride, architecture.dilation)
    planned: list[tuple[BlockPlan, ...]] = []
    in_channels = stem
    for stage, count in zip(stages, repeats, strict=True):
        out_channels = stage.channels if planned == [] and not rule.scales_start else rule.round(stage.channels * width)
        blocks: list[BlockPlan] = []
        for _ in range(count):
            stride, dilation = next(strides)
            blocks.append(
                BlockPlan(
                    in_channels=in_channels,
                    # Multiples of 8 stay multiples of 8, so Slim's rounding of the expansion changes nothing.
                    expanded_channels=in_channels * stage.expansion,
                    out_channels=out_channels,
                    stride=stride,
                    dilation=dilation,
                    always_expands=architecture.expands_first,
                )
            )
            in_channels = out_channels
        planned.append(tuple(blocks))
    last = LAST_CHANNELS
    if width > 1 and architecture.scale_ends:
        last = rule.round(LAST_CHANNELS * width)
    return Plan(stem_channels=stem, stages=tuple(planned), last_channels=last)


def plan_mobilenet_v1(architecture: Architecture) -> tuple[SeparablePlan, ...]:
    """Every block of a MobileNetV1; the stem has the first one's input channels. Raises ValueError for another network.

    Channels are cut down to whole numbers, and at least 8 (TF-Slim).
    """
    if architecture.name != "mobilenet_v1":
        raise ValueError(f"this is the plan of mobilenet_v1, not of {architecture.name}")
    channels = [max(8, int(c * architecture.width)) for c in (STEM_CHANNELS, *(row.channels for row in MOBILENET_V1))]
    rows = ((row.stride,) for row in MOBILENET_V1)
    strides = plan_strides(rows, architecture.output_stride, architecture.dilation)
    return tuple(
        SeparablePlan(in_channels, out_channels, stride, dilation)
        for in_channels, out_channels, (stride, dilation) in zip(channels, channels[1:], strides, strict=False)
    )


class ParameterShape(NamedTuple):
    name: str
    shape: tuple[int, ...]


class Convolution(NamedTuple):
    """A convolution with what follows it: batch norm or a bias, perhaps a shortcut, perhaps an activation.

    name: of the torch module. shortcut: the convolution whose result is added to this one's.
    norm_eps: of its batch norm; None for the numerics profile's own.
    rounds_down: whether it pads only below and to the right ("trailing" in `Numerics`), so that odd sides are rounded
        down where it has a stride.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    depthwise: bool = False
    has_norm: bool = True
    norm_eps: float | None = None
    activation: Literal["relu6", "relu", "linear"] = "relu6"
    shortcut: str | None = None
    rounds_down: bool = False

    @property
    def shapes(self) -> list[ParameterShape]:
        """Name and shape of its tensors; the kernel is (out, in / groups, height, width)."""
        kernel = (self.out_channels, 1 if self.depthwise else self.in_channels, self.kernel, self.kernel)
        if not self.has_norm:
            return [ParameterShape(f"{self.name}.weight", kernel), ParameterShape(f"{self.name}.bias", kernel[:1])]
        norm = (f"{self.name}.norm.{part}" for part in ("weight", "bias", "running_mean", "running_var"))
        return [
            ParameterShape(f"{self.name}.conv.weight", kernel),
            *(ParameterShape(name, kernel[:1]) for name in norm),
        ]

    def under(self, module: str) -> Convolution:
        """The same as a part of that module."""
        shortcut = f"{module}.{self.shortcut}" if self.shortcut else None
        return self._replace(name=f"{module}.{self.name}", shortcut=shortcut)

    def out_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the result; a stride halves them, rounding up but where it `rounds_down`."""
        if self.rounds_down:
            return size_hw[0] // self.stride, size_hw[1] // self.stride
        return -(-size_hw[0] // self.stride), -(-size_hw[1] // self.stride)

    def multiply_adds(self, size_hw: tuple[int, int]) -> int:
        """For one map of that height and width."""
        per_pixel = self.kernel**2 * self.out_channels * (1 if self.depthwise else self.in_channels)
        return math.prod(self.out_size(size_hw)) * per_pixel


def trunk(architecture: Architecture) -> list[Convolution]:
    """Every convolution in the order of computation, each on the result of the one before it."""
    if architecture.name == "mobilenet_v1":
        convolutions = _mobilenet_v1(plan_mobilenet_v1(architecture))
    else:
        convolutions = _mobilenet_v2(plan_network(architecture))
    if NUMERICS[architecture.numerics].padding != "trailing":
        return convolutions
    return [each._replace(rounds_down=each.depthwise and each.stride > 1) for each in convolutions]


def _mobilenet_v2(plan: Plan) -> list[Convolution]:
    convolutions = [Convolution("stem", 3, plan.stem_channels, kernel=3, stride=2)]
    for s, stage in enumerate(plan.stages):
        for b, block in enumerate(stage):
            prefix, inner, before = f"stages.{s}.blocks.{b}", block.expanded_channels, convolutions[-1].name
            if block.expands:
                convolutions.append(Convolution(f"{prefix}.expand", block.in_channels, inner))
            convolutions.append(_depthwise(f"{prefix}.filter", inner, block.stride, block.dilation))
            convolutions.append(
                Convolution(
                    f"{prefix}.project",
                    inner,
                    block.out_channels,
                    activation="linear",
                    shortcut=before if block.has_shortcut else None,
                )
            )
    return [*convolutions, Convolution("last", convolutions[-1].out_channels, plan.last_channels)]


def _mobilenet_v1(plan: tuple[SeparablePlan, ...]) -> list[Convolution]:
    convolutions = [Convolution("stem", 3, plan[0].in_channels, kernel=3, stride=2)]
    for index, block in enumerate(plan):
        convolutions.append(_depthwise(f"blocks.{index}.filter", block.in_channels, block.stride, block.dilation))
        convolutions.append(Convolution(f"blocks.{index}.mix", block.in_channels, block.out_channels))
    return convolutions


def _depthwise(name: str, channels: int, stride: int, dilation: int) -> Convolution:
    return Convolution(name, channels, channels, kernel=3, stride=stride, dilation=dilation, depthwise=True)


def tap_channels(architecture: Architecture) -> tuple[int, int]:
    """Channels of the two maps that detection reads: the one of `TAPS` at stride 16, and the last."""
    convolutions = trunk(architecture)
    at_stride_16 = next(each for each in convolutions if each.name == TAPS[architecture.name])
    return at_stride_16.out_channels, convolutions[-1].out_channels


def trunk_shapes(architecture: Architecture) -> list[ParameterShape]:
    """`parameter_shapes` without the classifier: what other tasks build on."""
    return [shape for convolution in trunk(architecture) for shape in convolution.shapes]


def parameter_shapes(architecture: Architecture) -> list[ParameterShape]:
    """Name and shape of every tensor of a classifier's model file, in the order of computation.

    Convolutions are (out, in / groups, height, width); the classifier is (classes, features).
    """
    classes, features = architecture.num_classes, trunk(architecture)[-1].out_channels
    return [
        *trunk_shapes(architecture),
        ParameterShape("classifier.weight", (classes, features)),
        ParameterShape("classifier.bias", (classes,)),
    ]


def count_parameters(shapes: Iterable[ParameterShape], *, batch_norm: bool = True) -> int:
    """Trained numbers: kernels, biases and, with `batch_norm`, gamma and beta (not the running statistics)."""
    return sum(
        math.prod(shape) for name, shape in shapes if ".running_" not in name and (batch_norm or ".norm." not in name)
    )


def parameters(architecture: Architecture, *, batch_norm: bool = True) -> int:
    """`count_parameters` of a whole classifier."""
    return count_parameters(parameter_shapes(architecture), batch_norm=batch_norm)


def count_multiply_adds(convolutions: Iterable[Convolution], size_hw: tuple[int, int]) -> int:
    """Multiplications of convolutions in a row for one map of that height and width; batch norm is not counted."""
    total = 0
    for convolution in convolutions:
        total += convolution.multiply_adds(size_hw)
        size_hw = convolution.out_size(size_hw)
    return total


def multiply_adds(architecture: Architecture, size_hw: tuple[int, int]) -> int:
    """`count_multiply_adds` of a whole classifier for one picture of that height and width in pixels."""
    convolutions = trunk(architecture)
    return count_multiply_adds(convolutions, size_hw) + convolutions[-1].out_channels * architecture.num_classes
