"""NASNet-A (4 @ 1056), "mobile" (Zoph et al., CVPR 2018, arXiv 1707.07012), Fig. 4 and Appendix A.

What the paper leaves open is TF-Slim's `nasnet_mobile`. Its auxiliary head, which serves training only and
is not in the published parameters, is left out.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilenetv2.networks.layers import ConvNorm, initialize, pad_same
from mobilenetv2.networks.pooling import AveragePool, MaxPool
from mobilenetv2.numerics import NUMERICS, Numerics

Operation = Literal["separable 3x3", "separable 5x5", "separable 7x7", "average pool 3x3", "max pool 3x3", "identity"]
# "current" is the output of the last cell, "previous" of the one before it; "a" to "e" are blocks of this cell.
State = Literal["current", "previous", "a", "b", "c", "d", "e"]
Branch = tuple[Operation, State]


class Block(NamedTuple):
    """Two operations on two states, whose results are added and make a new state."""

    name: State
    left: Branch
    right: Branch


class CellTable(NamedTuple):
    """One cell of Fig. 4. The stride is that of the operations on the inputs; between blocks there is none."""

    stride: int
    blocks: tuple[Block, ...]
    outputs: tuple[State, ...]  # concatenated


NORMAL_CELL = CellTable(
    stride=1,
    blocks=(
        Block("a", ("separable 5x5", "current"), ("separable 3x3", "previous")),
        Block("b", ("separable 5x5", "previous"), ("separable 3x3", "previous")),
        Block("c", ("average pool 3x3", "current"), ("identity", "previous")),
        Block("d", ("average pool 3x3", "previous"), ("average pool 3x3", "previous")),
        Block("e", ("separable 3x3", "current"), ("identity", "current")),
    ),
    outputs=("previous", "a", "b", "c", "d", "e"),
)
REDUCTION_CELL = CellTable(
    stride=2,
    blocks=(
        Block("a", ("separable 5x5", "current"), ("separable 7x7", "previous")),
        Block("b", ("max pool 3x3", "current"), ("separable 7x7", "previous")),
        Block("c", ("average pool 3x3", "current"), ("separable 5x5", "previous")),
        Block("d", ("identity", "b"), ("average pool 3x3", "a")),
        Block("e", ("separable 3x3", "a"), ("max pool 3x3", "current")),
    ),
    outputs=("b", "c", "d", "e"),
)


class Stage(NamedTuple):
    """A reduction cell and `repeats` normal cells after it, with the filters of each operation."""

    reduction_filters: int
    normal_filters: int
    repeats: int


STEM_CHANNELS = 32
FILTERS = 44  # the name's 1056 channels at the end are 6 states of 4 x 44
NASNET_A_MOBILE = (
    Stage(FILTERS // 4, 0, 0),  # 111 x 111 x 32 at 224 -> 56 x 56 x 44
    Stage(FILTERS // 2, FILTERS, 4),  # -> 28 x 28 x 264
    Stage(FILTERS * 2, FILTERS * 2, 4),  # -> 14 x 14 x 528
    Stage(FILTERS * 4, FILTERS * 4, 4),  # -> 7 x 7 x 1056
)


class Squeeze(nn.Module):
    """ReLU, 1x1 convolution, batch norm: an input of a cell, with the channels that its operations take."""

    def __init__(self, in_channels: int, out_channels: int, *, numerics: Numerics) -> None:
        super().__init__()
        self.mix = ConvNorm(in_channels, out_channels, activation="linear", numerics=numerics)

    def forward(self, x: Tensor) -> Tensor:
        squeezed: Tensor = self.mix(F.relu(x))
        return squeezed


class FactorizedReduction(nn.Module):
    """A squeeze that also halves the map: half the channels read even rows and columns, half read odd ones.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2)); `out_channels` is even.
    """

    def __init__(self, in_channels: int, out_channels: int, *, numerics: Numerics) -> None:
        super().__init__()
        self.even = nn.Conv2d(in_channels, out_channels // 2, 1, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=numerics.batch_norm_eps, momentum=numerics.batch_norm_momentum)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        even = x[:, :, ::2, ::2]
        # An odd size has one odd row less than even ones; zeros stand for it.
        odd = F.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2]
        halved: Tensor = self.norm(torch.cat((self.even(even), self.odd(odd)), dim=1))
        return halved


class SeparableConvolution(nn.Module):
    """ReLU, depthwise, 1x1, batch norm. Nothing stands between the two convolutions.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int, numerics: Numerics) -> None:
        super().__init__()
        self.pads_by_size = numerics.padding == "same" and stride > 1
        padding = 0 if self.pads_by_size else kernel // 2
        self.filter = nn.Conv2d(in_channels, in_channels, kernel, stride, padding, groups=in_channels, bias=False)
        self.mix = ConvNorm(in_channels, out_channels, activation="linear", numerics=numerics)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        if self.pads_by_size:
            x = pad_same(x, self.filter)
        mixed: Tensor = self.mix(self.filter(x))
        return mixed


def make_operation(
    operation: Operation, in_channels: int, filters: int, *, stride: int, numerics: Numerics
) -> nn.Module:
    """(N, in_channels, H, W) -> (N, filters, ceil(H / stride), ceil(W / stride)). A pooling keeps its channels."""
    if operation == "identity":
        return nn.Identity()
    if operation == "average pool 3x3":
        return AveragePool(stride=stride, padding=numerics.padding, counts_padding=False)
    if operation == "max pool 3x3":
        return MaxPool(stride=stride, padding=numerics.padding)
    kernel = {"separable 3x3": 3, "separable 5x5": 5, "separable 7x7": 7}[operation]
    # Every separable convolution is applied twice (Appendix A).
    return nn.Sequential(
        SeparableConvolution(in_channels, filters, kernel=kernel, stride=stride, numerics=numerics),
        SeparableConvolution(filters, filters, kernel=kernel, stride=1, numerics=numerics),
    )


class Cell(nn.Module):
    """The table's blocks on the outputs of the last two cells.

    current, previous: modules that give both inputs the size of the current map, and `filters` channels
        where operations other than separable convolutions read them.
    previous_channels: of `previous`'s output.
    """

    def __init__(
        self,
        table: CellTable,
        filters: int,
        *,
        current: nn.Module,
        previous: nn.Module,
        previous_channels: int,
        numerics: Numerics,
    ) -> None:
        super().__init__()
        self.table = table
        self.current, self.previous = current, previous

        def branch(operation: Operation, source: State) -> nn.Module:
            in_channels = previous_channels if source == "previous" else filters
            stride = table.stride if source in ("current", "previous") else 1
            return make_operation(operation, in_channels, filters, stride=stride, numerics=numerics)

        self.left = nn.ModuleDict({block.name: branch(*block.left) for block in table.blocks})
        self.right = nn.ModuleDict({block.name: branch(*block.right) for block in table.blocks})

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        states: dict[State, Tensor] = {"current": self.current(current), "previous": self.previous(previous)}
        for name, (_, left), (_, right) in self.table.blocks:
            states[name] = self.left[name](states[left]) + self.right[name](states[right])
        return torch.cat([states[name] for name in self.table.outputs], dim=1)


class CellStage(nn.Module):
    """The cells of one row of the table: (current, previous) -> (current, previous), each the output of a cell."""

    def __init__(self, cells: list[Cell]) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)

    def forward(self, current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        for cell in self.cells:
            current, previous = cell(current, previous), current
        return current, previous


class NASNetAMobile(nn.Module):
    """(N, 3, H, W), preprocessed -> (N, num_classes) logits. Any H and W from 3 up.

    numerics: a key of `numerics.NUMERICS`. "tf" is what the network was published with; of its batch norm
        the decay differs (.9997 in TF-Slim).
    dropout: share of the pooled features dropped in training; .5 in TF-Slim.

    By name, at 224: `stem` (32, 111, 111), and the first output of `stages[0]` (44, 56, 56), `stages[1]`
    (264, 28, 28), `stages[2]` (528, 14, 14), `stages[3]` (1056, 7, 7).
    """

    def __init__(self, *, num_classes: int = 1000, numerics: str = "tf", dropout: float = 0.5) -> None:
        super().__init__()
        profile = NUMERICS[numerics]
        # TF-Slim pads this one convolution not at all, and no activation follows: every cell begins with its own.
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, STEM_CHANNELS, 3, stride=2, bias=False),
                norm=nn.BatchNorm2d(STEM_CHANNELS, eps=profile.batch_norm_eps, momentum=profile.batch_norm_momentum),
            )
        )
        self.stages = nn.ModuleList()
        last: CellTable | None = None
        current = previous = STEM_CHANNELS
        for reduction_filters, normal_filters, repeats in NASNET_A_MOBILE:
            rows = [(REDUCTION_CELL, reduction_filters), *[(NORMAL_CELL, normal_filters)] * repeats]
            cells: list[Cell] = []
            for table, filters in rows:
                adapt_previous: nn.Module
                if last is None:  # The first cell reads the stem's map twice, the second time as it is.
                    adapt_previous = nn.Identity()
                elif last is REDUCTION_CELL:  # The map before that cell is twice as large.
                    adapt_previous = FactorizedReduction(previous, filters, numerics=profile)
                else:
                    adapt_previous = Squeeze(previous, filters, numerics=profile)
                cells.append(
                    Cell(
                        table,
                        filters,
                        current=Squeeze(current, filters, numerics=profile),
                        previous=adapt_previous,
                        previous_channels=previous if last is None else filters,
                        numerics=profile,
                    )
                )
                current, previous, last = len(table.outputs) * filters, current, table
            self.stages.append(CellStage(cells))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(current, num_classes)
        initialize(self, "torch")  # TF-Slim, too, draws this network He normal over the outputs.

    def forward(self, images: Tensor) -> Tensor:
        pooled = F.relu(self.features(images)).mean(dim=(2, 3))
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the last cell's map before its activation, (N, 1056, H/32, W/32)."""
        current = previous = self.stem(images)
        for stage in self.stages:
            current, previous = stage(current, previous)
        last: Tensor = current
        return last
