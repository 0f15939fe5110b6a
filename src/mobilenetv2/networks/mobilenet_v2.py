"""MobileNetV2 (Sandler et al., CVPR 2018), Tables 1 and 2."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor, nn

from mobilenetv2.architecture import Architecture, BlockPlan, plan_network
from mobilenetv2.networks.layers import ConvNorm, initialize
from mobilenetv2.numerics import NUMERICS, Numerics


class InvertedResidual(nn.Module):
    """The bottleneck block (Table 1): expand 1x1, filter 3x3 depthwise, project 1x1 without activation.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)). The shortcut joins
    the narrow ends, wherever their shapes agree (Sec. 3.3).
    """

    def __init__(self, plan: BlockPlan, numerics: Numerics) -> None:
        super().__init__()
        inner = plan.expanded_channels
        self.has_shortcut = plan.has_shortcut
        self.expand = ConvNorm(plan.in_channels, inner, numerics=numerics) if plan.expands else nn.Identity()
        self.filter = ConvNorm(
            inner, inner, kernel=3, stride=plan.stride, dilation=plan.dilation, groups=inner, numerics=numerics
        )
        self.project = ConvNorm(inner, plan.out_channels, activation="linear", numerics=numerics)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(x, self.expand(x))

    def contract(self, x: Tensor, expansion: Tensor) -> Tensor:
        """The rest of the block, for whoever wants its expansion too."""
        y: Tensor = self.project(self.filter(expansion))
        return x + y if self.has_shortcut else y


class BottleneckStage(nn.Module):
    """One row of Table 2."""

    def __init__(self, plans: tuple[BlockPlan, ...], numerics: Numerics) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(InvertedResidual(plan, numerics) for plan in plans)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Taps(NamedTuple):
    """Feature maps that the other tasks build on, for input (N, 3, H, W) at output stride 32."""

    stride_16_expansion: Tensor  # (N, 576, H/16, W/16) at width 1: where SSDLite begins (Sec. 6.2)
    bottleneck: Tensor  # (N, 320, H/32, W/32) at width 1: where DeepLabv3 stands (Sec. 6.3)
    last: Tensor  # (N, 1280, H/32, W/32)


class MobileNetV2(nn.Module):
    """(N, 3, H, W), preprocessed -> (N, num_classes) logits. Any H and W from 1 up.

    dropout: share of the pooled features dropped in training; .2 in TF-Slim and torchvision.
    """

    def __init__(self, architecture: Architecture, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.architecture = architecture
        plan, numerics = plan_network(architecture), NUMERICS[architecture.numerics]
        self.stem = ConvNorm(3, plan.stem_channels, kernel=3, stride=2, numerics=numerics)
        self.stages = nn.ModuleList(BottleneckStage(blocks, numerics) for blocks in plan.stages)
        self.last = ConvNorm(plan.stages[-1][-1].out_channels, plan.last_channels, numerics=numerics)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(plan.last_channels, architecture.num_classes)
        initialize(self, architecture.numerics)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.features(images).mean(dim=(2, 3))
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the last convolution's map, (N, 1280, H/32, W/32) at width 1."""
        last: Tensor = self.last(self.bottleneck(images))
        return last

    def bottleneck(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the second-last map, (N, 320, H/32, W/32) at width 1, without the last convolution."""
        return self.rows(images)[-1]

    def rows(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> what each row of Table 2's bottlenecks makes of it, the second-last map of all at the end."""
        x, found = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def taps(self, images: Tensor) -> Taps:
        """The three maps that detection and segmentation read, in one pass."""
        x = self.stem(images)
        for stage in self.stages[:5]:
            x = stage(x)
        stage = cast(BottleneckStage, self.stages[5])
        first = cast(InvertedResidual, stage.blocks[0])
        expansion = first.expand(x)
        x = first.contract(x, expansion)
        for block in stage.blocks[1:]:
            x = block(x)
        bottleneck = self.stages[6](x)
        return Taps(expansion, bottleneck, self.last(bottleneck))
