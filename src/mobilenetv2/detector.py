"""SSD and SSDLite as a record and a table: what stands where, before any tensor exists.

Sources: Liu et al., "SSD", ECCV 2016; Sandler et al., "MobileNetV2", Sec. 6.2; maps, extra layers and anchors from
the TF Object Detection API, since the paper gives none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Literal, NamedTuple

from mobilenetv2.anchors import MAPS, AnchorSizes, map_sizes, tf_anchor_sizes
from mobilenetv2.architecture import (
    TAPS,
    Architecture,
    Convolution,
    ParameterShape,
    count_multiply_adds,
    count_parameters,
    tap_channels,
    trunk,
)
from mobilenetv2.errors import UserError, did_you_mean
from mobilenetv2.numerics import check_task_numerics

BackboneName = Literal["mobilenet_v2", "mobilenet_v1"]
DetectorName = Literal["ssdlite", "ssd"]

DETECTORS = ("ssdlite", "ssd")
EXTRA_CHANNELS = (512, 256, 256, 128)
LEAST_EXTRA_CHANNELS = 16
BACKBONE = "backbone"  # the module that holds the trunk
LARGEST_ANCHOR = 10  # in shares of the input's shorter side


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Everything that decides the shape and the arithmetic of a detector; part of the model card.

    name: "ssdlite", or "ssd" with full 3x3 convolutions in the added layers.
    backbone: "mobilenet_v2" or "mobilenet_v1". width: of the backbone and of the extra layers.
    num_classes: without the background. numerics: a key of `numerics.NUMERICS`.
    anchors: for each of the six maps, width and height of each anchor of a cell, in shares of the input's shorter side.
    """

    name: DetectorName = "ssdlite"
    backbone: BackboneName = "mobilenet_v2"
    width: float = 1.0
    num_classes: int = 80
    numerics: str = "torch"
    anchors: AnchorSizes = field(default_factory=tf_anchor_sizes)

    def __post_init__(self) -> None:
        if self.name not in DETECTORS:
            raise UserError(f"detector {self.name!r} is not known; it can be {' or '.join(map(repr, DETECTORS))}")
        if self.backbone not in TAPS:
            raise UserError(
                f"backbone {self.backbone!r} is not known{did_you_mean(str(self.backbone), TAPS)}; "
                f"it can be {' or '.join(map(repr, TAPS))}"
            )
        self.trunk  # noqa: B018  raises for width and numerics
        check_task_numerics(self.numerics)
        if not isinstance(self.num_classes, int) or not 1 <= self.num_classes <= 100_000:
            raise UserError(f"number of classes {self.num_classes!r} is out of range; give 1 to 100000")
        if not _are_anchors(self.anchors):
            raise UserError(
                f"anchors must be pairs of width and height above 0, at most {LARGEST_ANCHOR}, "
                f"at least one for each of the {MAPS} maps"
            )

    @property
    def trunk(self) -> Architecture:
        """The backbone; its classifier is not there, so its classes do not count."""
        return Architecture(name=self.backbone, width=self.width, num_classes=1, numerics=self.numerics)

    @property
    def anchors_per_cell(self) -> tuple[int, ...]:
        """On each of the six maps."""
        return tuple(len(cell) for cell in self.anchors)


def _are_anchors(anchors: object) -> bool:
    """Whether it is a tuple of pairs for each map; a model card can hold anything there."""

    def is_pair(sides: object) -> bool:
        return (
            isinstance(sides, tuple)
            and len(sides) == 2
            and all(isinstance(side, int | float) and 0 < side <= LARGEST_ANCHOR for side in sides)
        )

    return (
        isinstance(anchors, tuple)
        and len(anchors) == MAPS
        and all(isinstance(cell, tuple) and len(cell) > 0 and all(map(is_pair, cell)) for cell in anchors)
    )


class ExtraPlan(NamedTuple):
    """An extra layer: reduce 1x1, filter 3x3 at stride 2 (depthwise, then mix 1x1, in SSDLite)."""

    in_channels: int
    reduced: int
    out_channels: int


def extra_channels(width: float) -> tuple[int, ...]:
    """Channels of the four extra maps: cut down to whole numbers, and at least 16 (TF Object Detection API)."""
    return tuple(max(LEAST_EXTRA_CHANNELS, int(channels * width)) for channels in EXTRA_CHANNELS)


def map_channels(detector: Detector) -> tuple[int, ...]:
    """Channels of the six maps that are predicted from: two of the backbone, and those of the extra layers."""
    return *tap_channels(detector.trunk), *extra_channels(detector.width)


def plan_extras(detector: Detector) -> list[ExtraPlan]:
    """The four extra layers, the first of them on the backbone's last map."""
    channels = map_channels(detector)[1:]
    return [
        ExtraPlan(in_channels, max(LEAST_EXTRA_CHANNELS, out_channels // 2), out_channels)
        for in_channels, out_channels in pairwise(channels)
    ]


class DetectorLayers(NamedTuple):
    """Every convolution. Those of the backbone, of one extra layer and of one head are in a row.

    extras: each on the map before it. class_heads, box_heads: one for each of the six maps.
    """

    backbone: list[Convolution]
    extras: list[list[Convolution]]
    class_heads: list[list[Convolution]]
    box_heads: list[list[Convolution]]


def detector_layers(detector: Detector) -> DetectorLayers:
    """The convolutions under the names of the torch module."""
    lite = detector.name == "ssdlite"

    def extra(index: int, plan: ExtraPlan) -> list[Convolution]:
        prefix, inner = f"extras.{index}", plan.reduced
        reduce = Convolution(f"{prefix}.reduce", plan.in_channels, inner)
        if not lite:
            return [reduce, Convolution(f"{prefix}.filter", inner, plan.out_channels, kernel=3, stride=2)]
        return [
            reduce,
            Convolution(f"{prefix}.filter", inner, inner, kernel=3, stride=2, depthwise=True),
            Convolution(f"{prefix}.mix", inner, plan.out_channels),
        ]

    def head(name: str, channels: int, predicted: int) -> list[Convolution]:
        plain = Convolution(name, channels, predicted, has_norm=False, activation="linear")
        if not lite:
            return [plain._replace(kernel=3)]
        depthwise = Convolution(f"{name}.filter", channels, channels, kernel=3, depthwise=True)
        return [depthwise, plain._replace(name=f"{name}.predict")]

    def heads(name: str, values: int) -> list[list[Convolution]]:
        cells = zip(map_channels(detector), detector.anchors_per_cell, strict=True)
        return [head(f"{name}.{index}", channels, count * values) for index, (channels, count) in enumerate(cells)]

    return DetectorLayers(
        backbone=[each.under(BACKBONE) for each in trunk(detector.trunk)],
        extras=[extra(index, plan) for index, plan in enumerate(plan_extras(detector))],
        class_heads=heads("class_heads", detector.num_classes + 1),
        box_heads=heads("box_heads", 4),
    )


def detector_shapes(detector: Detector) -> list[ParameterShape]:
    """Name and shape of every tensor of a detector's model file, in the order of the torch module."""
    layers = detector_layers(detector)
    rows = chain([layers.backbone], layers.extras, layers.class_heads, layers.box_heads)
    return [shape for row in rows for convolution in row for shape in convolution.shapes]


def detector_parameters(detector: Detector, *, batch_norm: bool = True) -> int:
    """`architecture.count_parameters` of a whole detector."""
    return count_parameters(detector_shapes(detector), batch_norm=batch_norm)


def detector_multiply_adds(detector: Detector, size_hw: tuple[int, int]) -> int:
    """`architecture.count_multiply_adds` of a whole detector for one picture of that height and width in pixels."""
    layers, sizes = detector_layers(detector), map_sizes(size_hw)
    total = count_multiply_adds(layers.backbone, size_hw)
    total += sum(count_multiply_adds(*one) for one in zip(layers.extras, sizes[1:], strict=False))
    for heads in (layers.class_heads, layers.box_heads):
        total += sum(count_multiply_adds(*one) for one in zip(heads, sizes, strict=True))
    return total
