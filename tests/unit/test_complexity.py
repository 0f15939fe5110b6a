"""The counter: against torch's own, against plain Python, and against the memory rules of Sec. 5.1."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mobilenetv2.architecture import Architecture, multiply_adds, parameters
from mobilenetv2.networks.complexity import Shape, trace
from mobilenetv2.networks.mobilenet_v2 import InvertedResidual, MobileNetV2
from mobilenetv2.networks.shufflenet_v1 import ShuffleUnit
from mobilenetv2.networks.zoo import ZOO, build


@pytest.mark.parametrize("name", ZOO)
def test_every_network_is_counted_as_torch_counts_it(name: str) -> None:
    entry = ZOO[name]
    with torch.device("meta"):
        network = build(name)
    complexity = trace(network, (entry.resolution, entry.resolution))
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, entry.resolution, entry.resolution, device="meta"))
    assert complexity.madds == counter.get_total_flops() // 2
    assert complexity.parameters == sum(tensor.numel() for tensor in network.parameters())
    # Every parameter is read by just one operator.
    assert sum(operator.parameters for operator in complexity.operators) == complexity.parameters
    of_norms = sum(operator.batch_norm_parameters for operator in complexity.operators)
    assert complexity.parameters - of_norms == complexity.parameters_without_batch_norm


@pytest.mark.parametrize("width", [1.4, 1.0, 0.35])
@pytest.mark.parametrize("size_hw", [(224, 224), (97, 33), (1, 1)])
@pytest.mark.parametrize(("output_stride", "numerics"), [(32, "torch"), (16, "tf"), (8, "torch")])
def test_the_plan_in_plain_python_agrees(
    width: float, size_hw: tuple[int, int], output_stride: int, numerics: str
) -> None:
    architecture = Architecture(width=width, output_stride=output_stride, numerics=numerics)
    with torch.device("meta"):
        network = MobileNetV2(architecture)
    complexity = trace(network, size_hw)
    assert complexity.parameters == parameters(architecture)
    assert complexity.parameters_without_batch_norm == parameters(architecture, batch_norm=False)
    if output_stride == 32:
        assert complexity.madds == multiply_adds(architecture, size_hw)


class Unusual(nn.Module):
    """What none of our networks has: batch norm of the input, a transposed convolution, a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.enlarge = nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 8, 3, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.enlarge(self.norm(x)).flatten(2)
        return torch.bmm(columns, columns.transpose(1, 2))


def test_the_unusual_and_the_frozen_are_counted_too() -> None:
    network = Unusual().requires_grad_(False)
    complexity = trace(network, (4, 4))
    assert [operator.kind for operator in complexity.operators] == ["batch norm", "transposed 3x3", "matrix product"]
    assert [operator.madds for operator in complexity.operators] == [0, 16 * 3 * 8 * 9, 8 * 81 * 8]
    assert [operator.parameters for operator in complexity.operators] == [6, 3 * 8 * 9, 0]
    assert (complexity.parameters, complexity.parameters_without_batch_norm) == (6 + 3 * 8 * 9, 3 * 8 * 9)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 4, 4))
    assert complexity.madds == counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "width", "groups", "expected"),
    [
        # Channels and 16-bit kilobytes (1000 bytes) of the largest tensor at 112, 56, 28, 14, 7 and 1 pixels.
        ("mobilenet_v1", 1.0, "", "64/1606 128/803 256/401 512/201 1024/100 1024/2"),
        # Every bottleneck as one operator; by Sec. 5.1 the stem with the first, the last convolution with the pooling.
        ("mobilenet_v2", 1.0, "blocks", "16/401 24/151 32/50 96/38 320/31 1280/3"),
        ("shufflenet_v1", 2.0, "units", "48/1204 48/301 480/753 960/376 1920/188 1920/4"),
    ],
)
def test_table_3_as_the_networks_are(name: str, width: float, groups: str, expected: str) -> None:
    with torch.device("meta"):
        network = build(name, width=width)
    paths = [path for path, module in network.named_modules() if isinstance(module, InvertedResidual | ShuffleUnit)]
    ends: dict[str, list[tuple[str, ...]]] = {"": [], "units": [(path,) for path in paths]}
    ends["blocks"] = [("stem", *paths[:1]), *((path,) for path in paths[1:]), ("last", "")]
    largest: dict[Shape, tuple[int, int]] = {}
    for operator in trace(network, (224, 224)).merged(ends[groups]).operators:
        channels, size_hw = operator.output_shape[1], operator.output_shape[2:] or (1, 1)
        largest[size_hw] = max(largest.get(size_hw, (0, 0)), (math.prod(operator.output_shape), channels))
    by_size = (largest[size_hw] for size_hw in sorted(largest, reverse=True))
    assert " ".join(f"{channels}/{elements * 2 / 1000:.0f}" for elements, channels in by_size) == expected


class Fork(nn.Module):
    """A tensor that is needed again later: (1, 3, 4, 4) -> 5 channels -> 7 -> 5, and added."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 7, 1), nn.Conv2d(7, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.third(torch.relu(self.second(x)))
        added: Tensor = y.add_(x)
        return added


def test_what_is_needed_later_stays_alive() -> None:
    complexity = trace(Fork(), (4, 4))
    seen = [(operator.path, operator.kind, operator.activation) for operator in complexity.operators]
    assert seen == [
        ("first", "conv 1x1", ""),
        ("second", "conv 1x1", "ReLU"),
        ("third", "conv 1x1", ""),
        ("", "add", ""),
    ]
    # 3 -> 5; 5 -> 7; the 5 wait while 7 -> 5; the sum lies where one of its addends was.
    assert [operator.live_elements // 16 for operator in complexity.operators] == [8, 12, 17, 10]
    assert complexity.peak.path == "third"
    assert complexity.peak_activation_bytes(bytes_per_element=2) == 17 * 16 * 2


def test_operators_can_be_executed_as_one() -> None:
    complexity = trace(Fork(), (4, 4))
    groups = [("second", "third", "")]
    merged = complexity.merged(groups)
    assert [operator.kind for operator in merged.operators] == ["conv 1x1", "conv 1x1 + conv 1x1 + add"]
    assert [operator.live_elements // 16 for operator in merged.operators] == [8, 10]
    assert merged.madds == complexity.madds
    # Half of the 7 channels is there beside the 5 read and the 5 written.
    assert [operator.live_elements for operator in complexity.merged(groups, splits=2).operators] == [128, 160 + 56]


def test_a_bottleneck_as_one_operator_needs_its_ends() -> None:
    with torch.device("meta"):
        network = MobileNetV2(Architecture())
    complexity = trace(network, (224, 224)).merged([("stages.1.blocks.0",)])
    (operator,) = complexity.under("stages.1.blocks.0")
    assert operator.live_elements == 112 * 112 * 16 + 56 * 56 * 24
    assert operator.output_shape == (1, 24, 56, 56)


def test_tracing_changes_nothing() -> None:
    network = MobileNetV2(Architecture(width=0.35))
    network.stages[0].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trace(network, (32, 32))
    assert network.training
    assert not network.stages[0].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
