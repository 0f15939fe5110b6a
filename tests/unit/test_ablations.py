"""Figure 6's networks differ from MobileNetV2 in just the one thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilenetv2.architecture import Architecture
from mobilenetv2.networks.ablations import (
    NonlinearBottleneck,
    PlainBottleneck,
    expansion_rate,
    no_shortcuts,
    nonlinear_bottlenecks,
    wide_shortcuts,
)
from mobilenetv2.networks.complexity import trace
from mobilenetv2.networks.layers import ConvNorm
from mobilenetv2.networks.mobilenet_v2 import MobileNetV2

SIZE = (64, 64)


def baseline() -> MobileNetV2:
    torch.manual_seed(0)
    return MobileNetV2(Architecture(width=0.35, num_classes=5)).eval()


@pytest.mark.parametrize(("build", "shortcuts"), [(nonlinear_bottlenecks, 10), (wide_shortcuts, 10), (no_shortcuts, 0)])
def test_cost_and_parameters_are_those_of_the_baseline(build: Callable[[], nn.Module], shortcuts: int) -> None:
    with torch.device("meta"):
        ours, expected = trace(build(), (224, 224)), trace(MobileNetV2(Architecture()), (224, 224))
    assert (ours.madds, ours.parameters) == (expected.madds, expected.parameters)
    assert sum(operator.kind == "add" for operator in ours.operators) == shortcuts
    assert sum(operator.kind == "add" for operator in expected.operators) == 10


@pytest.mark.parametrize("options", [{"width": 0.35}, {"output_stride": 8}])
def test_wide_shortcuts_are_as_many_as_narrow_ones(options: dict[str, Any]) -> None:
    with torch.device("meta"):
        networks = wide_shortcuts(**options), MobileNetV2(Architecture(**options))
    for network in networks:
        # At 1 x 1 pixel every shape agrees, and still only the planned ones are added.
        for size_hw in ((224, 224), (1, 1)):
            assert sum(operator.kind == "add" for operator in trace(network, size_hw).operators) == 10


def test_a_wide_shortcut_goes_around_filter_and_projection() -> None:
    torch.manual_seed(0)
    network = wide_shortcuts(width=0.35, num_classes=5).eval()
    first, second = network.blocks[4:6]
    assert isinstance(first, PlainBottleneck)
    assert isinstance(second, PlainBottleneck)
    assert isinstance(second.expand, ConvNorm)
    seen: dict[str, Tensor] = {}
    # Copies: activations work in place.
    first.filter.register_forward_pre_hook(lambda _, given: seen.update(first=given[0].clone()))
    second.expand.register_forward_hook(lambda _, __, answer: seen.update(branch=answer.clone()))
    second.filter.register_forward_pre_hook(lambda _, given: seen.update(second=given[0].clone()))
    with torch.inference_mode():
        network(torch.randn(1, 3, *SIZE))
    assert torch.equal(seen["second"], seen["branch"] + seen["first"])
    assert seen["first"].any()


def test_the_bottleneck_is_not_linear() -> None:
    network = nonlinear_bottlenecks(width=0.35, num_classes=5).eval()
    network.load_state_dict(baseline().state_dict())
    x = torch.randn(1, 3, *SIZE)
    block = network.get_submodule("stages.0.blocks.0")
    assert isinstance(block, NonlinearBottleneck)
    with torch.inference_mode():
        narrow = network.stages[0](network.stem(x))
        linear = baseline().stages[0](network.stem(x))
    assert torch.equal(narrow, linear.clamp(0, 6))
    assert linear.min() < 0


def test_no_shortcuts_adds_nothing() -> None:
    network = no_shortcuts(width=0.35, num_classes=5).eval()
    network.load_state_dict(baseline().state_dict())
    x = torch.randn(1, 8, 8, 8)
    plain, block = (net.get_submodule("stages.1.blocks.1") for net in (network, baseline()))
    with torch.inference_mode():
        assert torch.allclose(plain(x) + x, block(x), atol=1e-6)


def test_wide_shortcuts_join_the_expansions() -> None:
    network = wide_shortcuts(width=0.35, num_classes=5).eval()
    with torch.device("meta"):
        adds = [o for o in trace(wide_shortcuts(), (224, 224)).operators if o.kind == "add"]
    assert [o.output_shape[1] for o in adds] == [144, 192, 192, 384, 384, 384, 576, 576, 960, 960]
    assert network(torch.zeros(1, 3, *SIZE)).shape == (1, 5)


@pytest.mark.parametrize(("t", "madds"), [(1, 63_689_536), (3, 171_498_944), (6, 300_774_272), (9, 430_049_600)])
def test_the_expansion_rate_is_swept(t: int, madds: int) -> None:
    with torch.device("meta"):
        assert trace(expansion_rate(t), (224, 224)).madds == madds


def test_an_expansion_rate_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="expansion rate 0"):
        expansion_rate(0)
