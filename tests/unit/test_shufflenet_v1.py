"""ShuffleNet V1 against the numbers of its paper and of the authors' code; counted without memory, on "meta"."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mobilenetv2.networks.shufflenet_v1 import ShuffleNetV1, ShuffleUnit
from mobilenetv2.numerics import NUMERICS

GROUPS = (1, 2, 3, 4, 8)


def build(**options: Any) -> ShuffleNetV1:
    with torch.device("meta"):
        return ShuffleNetV1(**options).eval()


def multiply_adds(network: ShuffleNetV1) -> int:
    """Of convolutions and classifier, at 224."""
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 224, 224, device="meta"))
    return int(counter.get_total_flops()) // 2


def parameters(network: nn.Module, *, batch_norm: bool) -> int:
    return sum(p.numel() for name, p in network.named_parameters() if batch_norm or ".norm." not in name)


@pytest.mark.parametrize(("groups", "table_1_m"), list(zip(GROUPS, (143, 140, 137, 133, 137), strict=True)))
def test_multiply_adds_of_table_1(groups: int, table_1_m: int) -> None:
    network = build(groups=groups)
    # Table 1 leaves the classifier out.
    convolutions = multiply_adds(network) - network.classifier.weight.numel()
    assert round(convolutions / 1e6) == table_1_m


@pytest.mark.parametrize(
    ("groups", "width", "madds", "published_m"),
    [
        (3, 2.0, 524_045_184, 524),
        (3, 1.5, 292_443_552, 292),
        (8, 2.0, 521_942_016, 522),
        (8, 1.5, 290_188_800, 290),
        (3, 0.5, 37_589_856, 38),
        (8, 0.5, 40_469_760, 40),
    ],
)
def test_multiply_adds_of_the_other_widths(groups: int, width: float, madds: int, published_m: int) -> None:
    assert multiply_adds(build(groups=groups, width=width)) == madds
    assert round(madds / 1e6) == published_m


@pytest.mark.parametrize(
    ("width", "plain", "with_batch_norm", "published_m"),
    [(2.0, 5_401_816, 5_450_776, "5.4"), (1.5, 3_405_448, 3_442_168, "3.4")],
)
def test_parameters(width: float, plain: int, with_batch_norm: int, published_m: str) -> None:
    network = build(width=width)
    assert parameters(network, batch_norm=False) == plain
    assert parameters(network, batch_norm=True) == with_batch_norm
    assert f"{plain / 1e6:.1f}" == published_m


@pytest.mark.parametrize(("groups", "stage_4"), list(zip(GROUPS, (576, 800, 960, 1088, 1536), strict=True)))
def test_stage_widths(groups: int, stage_4: int) -> None:
    for width in (0.25, 0.5, 1.0, 1.5, 2.0):
        network = build(groups=groups, width=width, num_classes=7)
        ends = [[module for module in stage.modules() if isinstance(module, ShuffleUnit)] for stage in network.stages]
        added = [units[-1].expand.conv.out_channels for units in ends]
        assert added == [stage_4 * width / 4, stage_4 * width / 2, stage_4 * width]
        assert network.classifier.in_features == stage_4 * width
        assert [len(units) for units in ends] == [4, 8, 4]


def named_shapes(network: ShuffleNetV1) -> list[tuple[int, ...]]:
    """Of the first convolution, the pooling and the three stages, at 224."""
    shapes: list[tuple[int, ...]] = []
    for part in (network.stem, network.pool, *network.stages):
        part.register_forward_hook(lambda _module, _input, output: shapes.append(tuple(output.shape)))
    assert network(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, network.classifier.out_features)
    return shapes


def test_shapes_of_2x() -> None:
    assert named_shapes(build(width=2.0)) == [
        (1, 48, 112, 112),
        (1, 48, 56, 56),
        (1, 480, 28, 28),
        (1, 960, 14, 14),
        (1, 1920, 7, 7),
    ]


def test_only_the_first_1x1_is_not_grouped() -> None:
    units = [module for module in build(groups=4).modules() if isinstance(module, ShuffleUnit)]
    assert [unit.compress.conv.groups for unit in units] == [1] + [4] * 15
    assert {unit.expand.conv.groups for unit in units} == {4}
    assert [unit.filter.conv.stride[0] for unit in units] == [2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]


def unit(*, stride: int, out_channels: int) -> ShuffleUnit:
    return ShuffleUnit(12, out_channels, stride=stride, groups=3, compress_groups=3, numerics=NUMERICS["torch"]).eval()


def test_the_shuffle_lets_every_group_see_all_others() -> None:
    assert unit(stride=1, out_channels=12).shuffle(torch.arange(6.0).view(1, 6, 1, 1)).flatten().tolist() == [
        *(0, 2, 4),
        *(1, 3, 5),
    ]
    # 36 inner channels split 12 a group, of which the shuffle sends 4 to each.
    wide = ShuffleUnit(12, 144, stride=2, groups=3, compress_groups=3, numerics=NUMERICS["torch"]).eval()
    for parameter in wide.parameters():
        nn.init.ones_(parameter)
    x = torch.ones(1, 12, 4, 4, requires_grad=True)
    wide.expand(wide.filter(wide.shuffle(wide.compress(x))))[0, 0].sum().backward()
    assert x.grad is not None
    assert (x.grad.sum(dim=(0, 2, 3)) > 0).all()


def silence(branch: ShuffleUnit) -> None:
    nn.init.zeros_(branch.expand.norm.weight)
    nn.init.constant_(branch.expand.norm.bias, -0.5)


def test_the_shortcut_is_added_before_relu() -> None:
    x = torch.randn(2, 12, 5, 6)
    network = unit(stride=1, out_channels=12)
    silence(network)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), F.relu(x - 0.5))


def test_at_stride_2_the_averaged_shortcut_is_appended() -> None:
    x = torch.randn(2, 12, 5, 6)
    network = unit(stride=2, out_channels=24)
    silence(network)
    with torch.inference_mode():
        joined: Tensor = network(x)
    assert joined.shape == (2, 24, 3, 3)
    assert not joined[:, :12].any()
    torch.testing.assert_close(joined[:, 12:], F.relu(F.avg_pool2d(x, 3, 2, 1)))


@pytest.mark.parametrize("numerics", ["torch", "tf"])
@pytest.mark.parametrize("size_hw", [(1, 1), (33, 64), (97, 31)], ids=str)
def test_every_size_is_possible(size_hw: tuple[int, int], numerics: str) -> None:
    network = build(width=0.25, num_classes=5, numerics=numerics)
    x = torch.empty(2, 3, *size_hw, device="meta")
    assert network(x).shape == (2, 5)
    assert network.features(x).shape == (2, 240, -(-size_hw[0] // 32), -(-size_hw[1] // 32))


def test_what_is_not_possible_is_said() -> None:
    with pytest.raises(ValueError, match="5 groups are not possible; it can be 1, 2, 3, 4 or 8"):
        build(groups=5)
    with pytest.raises(ValueError, match=r"width 0\.7 is not possible; it can be 0\.25, 0\.5, 1\.0, 1\.5 or 2\.0"):
        build(width=0.7)
