"""The choices that the paper tests by undoing them (Sec. 6.4, Figure 6), each a class of its own on Table 2."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

from torch import Tensor, nn

from mobilenetv2.architecture import MOBILENET_V2, Architecture, BlockPlan, Stage, plan_network
from mobilenetv2.networks.layers import ConvNorm, initialize
from mobilenetv2.networks.mobilenet_v2 import BottleneckStage, InvertedResidual, MobileNetV2
from mobilenetv2.numerics import NUMERICS, Numerics


class NonlinearBottleneck(InvertedResidual):
    """Figure 6a: ReLU6 after the projection too, so that the bottleneck loses what is below zero."""

    def __init__(self, plan: BlockPlan, numerics: Numerics) -> None:
        super().__init__(plan, numerics)
        self.project = ConvNorm(plan.expanded_channels, plan.out_channels, activation="relu6", numerics=numerics)


class PlainBottleneck(InvertedResidual):
    """Figure 6b, "no residual": never a shortcut."""

    def __init__(self, plan: BlockPlan, numerics: Numerics) -> None:
        super().__init__(plan, numerics)
        self.has_shortcut = False


class WideShortcuts(nn.Module):
    """Figure 6b, "shortcut between expansions": MobileNetV2 with its shortcuts around the narrow ends.

    (N, 3, H, W) -> (N, num_classes) logits. The expansion of a block is added to the expansion of the next, so
    that the branch is filter, project, expand: a whole block begun one layer later. Their shapes agree around
    just those blocks that have a shortcut in MobileNetV2, and there are as many: 10 at every width of the paper.
    """

    def __init__(self, architecture: Architecture, *, dropout: float = 0.2) -> None:
        super().__init__()
        plan, numerics = plan_network(architecture), NUMERICS[architecture.numerics]
        self.stem = ConvNorm(3, plan.stem_channels, kernel=3, stride=2, numerics=numerics)
        self.blocks = nn.ModuleList(PlainBottleneck(block, numerics) for block in plan.blocks)
        # A shortcut around the filter and the projection of each block but the last, to the next expansion.
        self.has_shortcut = tuple(
            block.has_shortcut and block.expanded_channels == after.expanded_channels
            for block, after in pairwise(plan.blocks)
        )
        self.last = ConvNorm(plan.stages[-1][-1].out_channels, plan.last_channels, numerics=numerics)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(plan.last_channels, architecture.num_classes)
        initialize(self, architecture.numerics)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        wide: Tensor | None = None
        for module, has_shortcut in zip(self.blocks, (*self.has_shortcut, False), strict=True):
            block = cast(PlainBottleneck, module)
            expansion = block.expand(x)
            if wide is not None:
                expansion = expansion + wide
            wide = expansion if has_shortcut else None
            x = block.project(block.filter(expansion))
        pooled = self.last(x).mean(dim=(2, 3))
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


def nonlinear_bottlenecks(**options: Any) -> MobileNetV2:
    """`options` are those of `Architecture`, here and below."""
    return _rebuilt(Architecture(**options), block=NonlinearBottleneck)


def no_shortcuts(**options: Any) -> MobileNetV2:
    return _rebuilt(Architecture(**options), block=PlainBottleneck)


def wide_shortcuts(**options: Any) -> WideShortcuts:
    return WideShortcuts(Architecture(**options))


def expansion_rate(expansion: int, **options: Any) -> MobileNetV2:
    """Table 2 with another t (Sec. 6.1: 5 to 10 do alike); the first block keeps its 1. ValueError: below 1."""
    if expansion < 1:
        raise ValueError(f"expansion rate {expansion} is not possible; give 1 or more")
    stages = tuple(stage._replace(expansion=expansion) if stage.expansion > 1 else stage for stage in MOBILENET_V2)
    return _rebuilt(Architecture(**options), stages=stages)


def _rebuilt(
    architecture: Architecture,
    *,
    stages: tuple[Stage, ...] = MOBILENET_V2,
    block: type[InvertedResidual] = InvertedResidual,
) -> MobileNetV2:
    """MobileNetV2 with other blocks between its stem and its last convolution."""
    network, numerics = MobileNetV2(architecture), NUMERICS[architecture.numerics]
    network.stages = nn.ModuleList()
    for plans in plan_network(architecture, stages).stages:
        stage = BottleneckStage((), numerics)
        stage.blocks.extend(block(plan, numerics) for plan in plans)
        network.stages.append(stage)
    initialize(network, architecture.numerics)
    return network
