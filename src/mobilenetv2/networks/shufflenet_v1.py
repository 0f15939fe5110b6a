"""ShuffleNet V1 (Zhang et al., CVPR 2018, arXiv 1707.01083), Fig. 2 and Table 1."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilenetv2.networks.layers import ConvNorm, initialize
from mobilenetv2.networks.pooling import AveragePool, MaxPool
from mobilenetv2.numerics import NUMERICS, Numerics


class Stage(NamedTuple):
    """One stage of Table 1: `units` units, of which the first has stride 2."""

    divisor: int  # of the channels of stage 4
    units: int


SHUFFLENET_V1 = (
    # After a 3x3 convolution and a 3x3 max pooling, both with stride 2: 56 x 56 x 24 at 224.
    Stage(4, 4),  # stage 2, 28 x 28 x 240 with 3 groups
    Stage(2, 8),  # stage 3, 14 x 14 x 480
    Stage(1, 4),  # stage 4, 7 x 7 x 960
)

# Groups of the 1x1 convolutions -> channels of stage 4 that keep the cost near 140 M multiply-adds (Table 1).
STAGE_4_CHANNELS = {1: 576, 2: 800, 3: 960, 4: 1088, 8: 1536}

# Width -> channels of the first convolution. The paper scales "the number of channels" and names 24 for 1x
# only. 24 at 1.5x and 48 at 2x are the authors' own code and alone give the 292 and 524 M multiply-adds of
# the paper's Table 5 (36 and 24 would give 300 and 508). For .25x there is no code; 12 is nearest to the
# 13 M of the paper's Table 2 (6 would give 11).
STEM_CHANNELS = {0.25: 12, 0.5: 12, 1.0: 24, 1.5: 24, 2.0: 48}

BOTTLENECK_DIVISOR = 4  # of a unit's channels (Sec. 3.3)


def round_up(channels: int, groups: int) -> int:
    """The next multiple of `groups`: a grouped convolution takes no other number of channels."""
    return -(-channels // groups) * groups


class ShuffleUnit(nn.Module):
    """Fig. 2 b and c: grouped 1x1, shuffle, 3x3 depthwise, grouped 1x1, beside a shortcut; ReLU after both are joined.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)). At stride 1 the shortcut
    is added. At stride 2 it is averaged 3x3 and its channels stand after those of the branch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        groups: int,
        compress_groups: int,
        numerics: Numerics,
    ) -> None:
        super().__init__()
        self.stride = stride
        inner = round_up(out_channels // BOTTLENECK_DIVISOR, groups)
        self.compress = ConvNorm(in_channels, inner, groups=compress_groups, activation="relu", numerics=numerics)
        # (groups, inner / groups) transposed: every group of `expand` sees every group of `compress`.
        self.shuffle = nn.ChannelShuffle(groups)
        self.filter = ConvNorm(
            inner, inner, kernel=3, stride=stride, groups=inner, activation="linear", numerics=numerics
        )
        branch_channels = out_channels if stride == 1 else out_channels - in_channels
        self.expand = ConvNorm(inner, branch_channels, groups=groups, activation="linear", numerics=numerics)
        self.shortcut = (
            nn.Identity()
            if stride == 1
            else AveragePool(stride=stride, padding=numerics.padding, counts_padding=numerics.padding == "symmetric")
        )

    def forward(self, x: Tensor) -> Tensor:
        branch = self.expand(self.filter(self.shuffle(self.compress(x))))
        shortcut = self.shortcut(x)
        joined = branch + shortcut if self.stride == 1 else torch.cat((branch, shortcut), dim=1)
        return F.relu(joined, inplace=True)


class ShuffleNetV1(nn.Module):
    """(N, 3, H, W), preprocessed -> (N, num_classes) logits. Any H and W from 1 up.

    groups: of the 1x1 convolutions: 1, 2, 3, 4 or 8.
    width: multiplier of the channels: .25, .5, 1, 1.5 or 2 ("ShuffleNet 2x"). Where the paper's channels do
        not split into the groups, the first convolution and the bottlenecks take the next that do. The paper
        does not say; the authors' own code has the same 16 first channels for 8 groups at .5.
    numerics: a key of `numerics.NUMERICS`.
    ValueError: for other groups or another width.

    By name, at 224 with 3 groups and width 2: `stem` (48, 112, 112), `pool` (48, 56, 56), `stages[0]`
    (480, 28, 28), `stages[1]` (960, 14, 14), `stages[2]` (1920, 7, 7).
    """

    def __init__(
        self, *, groups: int = 3, width: float = 1.0, num_classes: int = 1000, numerics: str = "torch"
    ) -> None:
        super().__init__()
        if groups not in STAGE_4_CHANNELS:
            raise ValueError(f"{groups!r} groups are not possible; it can be 1, 2, 3, 4 or 8")
        if width not in STEM_CHANNELS:
            raise ValueError(f"width {width!r} is not possible; it can be 0.25, 0.5, 1.0, 1.5 or 2.0")
        profile = NUMERICS[numerics]
        in_channels = round_up(STEM_CHANNELS[width], groups)
        self.stem = ConvNorm(3, in_channels, kernel=3, stride=2, activation="relu", numerics=profile)
        self.pool = MaxPool(stride=2, padding=profile.padding)
        self.stages = nn.ModuleList()
        for stage in SHUFFLENET_V1:
            out_channels = int(STAGE_4_CHANNELS[groups] // stage.divisor * width)
            units = nn.Sequential()
            for index in range(stage.units):
                # The first 1x1 of stage 2 has too few input channels to split them (caption of Table 1).
                is_first = stage is SHUFFLENET_V1[0] and index == 0
                units.append(
                    ShuffleUnit(
                        in_channels,
                        out_channels,
                        stride=2 if index == 0 else 1,
                        groups=groups,
                        compress_groups=1 if is_first else groups,
                        numerics=profile,
                    )
                )
                in_channels = out_channels
            self.stages.append(units)
        self.classifier = nn.Linear(in_channels, num_classes)
        initialize(self, numerics)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the map of stage 4, (N, 960, H/32, W/32) with 3 groups at width 1."""
        x: Tensor = self.pool(self.stem(images))
        for stage in self.stages:
            x = stage(x)
        return x
