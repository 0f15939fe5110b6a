"""Sec. 5.1: the same function for every number of parts, and the memory that the formula promises."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mobilenetv2.architecture import Architecture, BlockPlan
from mobilenetv2.networks.memory_split import MemoryMeter, SplitInvertedResidual, measure_split_memory, split_network
from mobilenetv2.networks.mobilenet_v2 import InvertedResidual, MobileNetV2
from mobilenetv2.numerics import NUMERICS


def with_statistics(network: nn.Module) -> nn.Module:
    """As if it had been trained, evaluating."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
    return network.eval()


@pytest.mark.parametrize("splits", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1000])
@pytest.mark.parametrize("numerics", ["torch", "tf"])
@pytest.mark.parametrize(
    "plan",
    [
        BlockPlan(in_channels=16, expanded_channels=16, out_channels=8, stride=1, dilation=1),
        BlockPlan(in_channels=8, expanded_channels=48, out_channels=16, stride=2, dilation=1),
        BlockPlan(in_channels=16, expanded_channels=96, out_channels=16, stride=1, dilation=1),
        BlockPlan(in_channels=24, expanded_channels=144, out_channels=24, stride=1, dilation=2),
    ],
    ids=["t=1", "stride", "shortcut", "dilation"],
)
def test_a_split_block_answers_the_same(plan: BlockPlan, numerics: str, splits: int) -> None:
    torch.manual_seed(0)
    block = with_statistics(InvertedResidual(plan, NUMERICS[numerics]))
    assert isinstance(block, InvertedResidual)
    x = torch.randn(2, plan.in_channels, 12, 9)
    given = x.clone()
    with torch.inference_mode():
        expected, split = block(x), SplitInvertedResidual(block, splits)(x)
    assert (split - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(x, given)


@pytest.mark.parametrize("width", [0.35, 1.4])
def test_a_split_network_answers_the_same_and_keeps_its_names(width: float) -> None:
    torch.manual_seed(0)
    network = with_statistics(MobileNetV2(Architecture(width=width, num_classes=10)))
    assert isinstance(network, MobileNetV2)
    split = split_network(copy.deepcopy(network), 4)
    split.load_state_dict(network.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = network(x)
        assert (split(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_what_cannot_be_split() -> None:
    block = InvertedResidual(
        BlockPlan(in_channels=8, expanded_channels=48, out_channels=8, stride=1, dilation=1), NUMERICS["torch"]
    )
    with pytest.raises(ValueError, match="0 splits"):
        SplitInvertedResidual(block, 0)
    with pytest.raises(RuntimeError, match="eval"):
        SplitInvertedResidual(block, 2)(torch.zeros(1, 8, 4, 4))


def test_the_measured_peak_falls_as_the_formula_says() -> None:
    network = MobileNetV2(Architecture())
    rows = measure_split_memory(network, (224, 224), paths=("stages.0.blocks.0", "stages.1.blocks.0"))
    assert len(rows) == 20
    for row in rows:
        # At t = 1 the output is not there yet while the wide tensors are; uneven parts are one channel more.
        assert 0.92 <= row.measured_bytes / row.formula_bytes <= 1.03, row
    block = [row.measured_bytes for row in rows if row.path == "stages.1.blocks.0"]
    assert block == sorted(block, reverse=True)
    # 96 channels at 112 x 112 and at 56 x 56 between 16 and 24: in ten parts a quarter is left.
    assert block[-1] < 0.28 * block[0]


@pytest.mark.parametrize("splits", [1, 2, 3, 10])
def test_the_meter_agrees_with_the_allocator(splits: int) -> None:
    block = MobileNetV2(Architecture()).eval().get_submodule("stages.1.blocks.0")
    assert isinstance(block, InvertedResidual)
    split = SplitInvertedResidual(block, splits)
    x = torch.zeros(1, 16, 112, 112).to(memory_format=torch.channels_last)
    with torch.inference_mode(), MemoryMeter(x) as meter:
        split(x)
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        split(x)
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    allocated = x.nbytes + max(itertools.accumulate(change for _, change in changes))
    assert meter.peak_bytes == pytest.approx(allocated, rel=0.01)


def test_the_meter_sees_tensors_come_and_go() -> None:
    given = torch.zeros(100)
    with MemoryMeter(given) as meter:
        a = torch.zeros(1000)
        b = a + 1
        assert meter.bytes == 4 * 2100
        b.mul_(2)
        view = a.view(10, 100)
        assert meter.bytes == 4 * 2100
        del a, view
        assert meter.bytes == 4 * 1100
        del b
    assert meter.bytes == 400
    assert meter.peak_bytes == 4 * 2100
