"""NASNet-A mobile against its published numbers; counted without memory, on "meta"."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mobilenetv2.networks.nasnet_a import (
    NORMAL_CELL,
    REDUCTION_CELL,
    Cell,
    CellTable,
    FactorizedReduction,
    NASNetAMobile,
    Squeeze,
)
from mobilenetv2.numerics import NUMERICS


@cache
def build(numerics: str = "tf") -> NASNetAMobile:
    with torch.device("meta"):
        return NASNetAMobile(numerics=numerics).eval()


@pytest.mark.parametrize("numerics", ["tf", "torch"])
def test_multiply_adds_and_parameters(numerics: str) -> None:
    network = build(numerics)
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() // 2 == 563_638_816
    assert sum(parameter.numel() for parameter in network.parameters()) == 5_289_978


def test_shapes_by_name() -> None:
    network = build.__wrapped__()  # its own, for the hooks
    shapes: list[tuple[int, ...]] = []
    network.stem.register_forward_hook(lambda _module, _input, output: shapes.append(tuple(output.shape)))
    for stage in network.stages:
        stage.register_forward_hook(lambda _module, _input, output: shapes.append(tuple(output[0].shape)))
    assert network(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)
    assert shapes == [
        (1, 32, 111, 111),
        (1, 44, 56, 56),
        (1, 264, 28, 28),
        (1, 528, 14, 14),
        (1, 1056, 7, 7),
    ]


def test_it_is_4_at_1056() -> None:
    network = build()
    cells = [module for module in network.modules() if isinstance(module, Cell)]
    kinds = "".join("R" if cell.table is REDUCTION_CELL else "N" for cell in cells)
    assert kinds == "RR" + "NNNN" + "R" + "NNNN" + "R" + "NNNN"
    assert network.classifier.in_features == 1056
    # The map before the last one is twice as large after every reduction, and only there.
    halved = "".join("h" if isinstance(cell.previous, FactorizedReduction) else "-" for cell in cells)
    assert halved == "-h" + "h---" + "-" + "h---" + "-" + "h---"
    assert isinstance(cells[0].previous, nn.Identity)


@pytest.mark.parametrize("table", [NORMAL_CELL, REDUCTION_CELL])
def test_a_cell_joins_the_states_that_no_block_reads(table: CellTable) -> None:
    read = {source for block in table.blocks for _, source in (block.left, block.right)}
    unread = [block.name for block in table.blocks if block.name not in read]
    # Fig. 4: beside them the normal cell passes its older input on, and the reduction cell "b", which it also reads.
    kept = ["previous"] if table is NORMAL_CELL else ["b"]
    assert list(table.outputs) == kept + unread
    assert len(table.blocks) == 5


@pytest.mark.parametrize("size_hw", [(6, 6), (7, 5), (1, 4)], ids=str)
def test_factorized_reduction(size_hw: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size_hw)
    reduction = FactorizedReduction(3, 6, numerics=NUMERICS["tf"])
    reduction.norm = nn.Identity()  # type: ignore[assignment]
    shifted = F.pad(F.relu(x), (0, 1, 0, 1))[:, :, 1:, 1:]
    with torch.inference_mode():
        found = reduction(x)
        even = F.conv2d(F.relu(x), reduction.even.weight, stride=2)
        odd = F.conv2d(shifted, reduction.odd.weight, stride=2)
        torch.testing.assert_close(found, torch.cat((even, odd), dim=1))


def test_a_cell_leaves_its_inputs_as_they_are() -> None:
    numerics = NUMERICS["tf"]
    current, previous = torch.randn(1, 6, 8, 8), torch.randn(1, 4, 8, 8)
    kept = current.clone(), previous.clone()
    cell = Cell(
        NORMAL_CELL,
        2,
        current=Squeeze(6, 2, numerics=numerics),
        previous=Squeeze(4, 2, numerics=numerics),
        previous_channels=2,
        numerics=numerics,
    ).eval()
    with torch.inference_mode():
        assert cell(current, previous).shape == (1, 12, 8, 8)
        # Nor may a block change a state that a later block reads.
        again = cell(current, previous)
        assert torch.equal(again[:, :2], cell.previous(previous))
    assert torch.equal(current, kept[0])
    assert torch.equal(previous, kept[1])


@pytest.mark.parametrize("numerics", ["torch", "tf"])
@pytest.mark.parametrize("size_hw", [(3, 3), (33, 64), (97, 30)], ids=str)
def test_every_size_from_3_is_possible(size_hw: tuple[int, int], numerics: str) -> None:
    features = build(numerics).features(torch.empty(2, 3, *size_hw, device="meta"))
    assert features.shape[:2] == (2, 1056)
    # Nothing is padded at first; each of the four halvings after rounds up.
    assert features.shape[2:] == tuple(-(-((side - 1) // 2) // 16) for side in size_hw)


def test_a_step_trains_every_weight() -> None:
    network = NASNetAMobile(num_classes=3)
    logits = network(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
