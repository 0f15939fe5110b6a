"""YOLOv2: the layers of the released network, the counts of Table 6, and the passthrough."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mobilenetv2.networks.yolo_v2 import ANCHORS_WH, Darknet19, YOLOv2

# Of the authors' yolov2.cfg, in its order: channels and kernel.
RELEASED = (
    *((32, 3), (64, 3), (128, 3), (64, 1), (128, 3), (256, 3), (128, 1), (256, 3)),
    *((512, 3), (256, 1), (512, 3), (256, 1), (512, 3)),
    *((1024, 3), (512, 1), (1024, 3), (512, 1), (1024, 3)),
    *((1024, 3), (1024, 3), (64, 1), (1024, 3), (425, 1)),
)


@cache
def on_meta(num_classes: int = 80, passthrough_channels: int | None = 64) -> YOLOv2:
    with torch.device("meta"):
        return YOLOv2(num_classes=num_classes, passthrough_channels=passthrough_channels).eval()


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, size, size, device="meta"))
    return int(counter.get_total_flops()) // 2


def test_layers_are_those_of_the_released_network() -> None:
    network = on_meta()
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert [(layer.out_channels, layer.kernel_size[0]) for layer in layers] == list(RELEASED)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == len(RELEASED) - 1
    assert sum(isinstance(layer, nn.LeakyReLU) for layer in network.modules()) == len(RELEASED) - 1
    assert [layer.bias is not None for layer in layers] == [False] * 22 + [True]


def test_counts_for_coco() -> None:
    network = on_meta()
    assert parameters(network) == 50_962_889
    assert parameters(network) == pytest.approx(50.7e6, rel=0.01)
    assert multiply_adds(network, 416) == 14_732_084_224
    assert multiply_adds(network, 608) == 31_469_126_656


def test_where_the_paper_has_its_numbers_from() -> None:
    # 50.7 M: the released network for Pascal VOC's 20 classes.
    assert parameters(on_meta(num_classes=20)) == 50_655_389
    # 17.5 B: all 512 channels passed through, as Redmon and Farhadi write, at 416; those would be 67.4 M parameters.
    whole = on_meta(passthrough_channels=None)
    assert multiply_adds(whole, 416) == 17_500_980_224
    assert parameters(whole) == 67_445_065


@pytest.mark.parametrize("passthrough_channels", [64, None])
def test_shapes(passthrough_channels: int | None) -> None:
    network = on_meta(num_classes=3, passthrough_channels=passthrough_channels)
    assert len(ANCHORS_WH) == 5
    assert network(torch.empty(2, 3, 64, 96, device="meta")).shape == (2, 5 * 8, 2, 3)
    fine, coarse = network.backbone(torch.empty(1, 3, 416, 416, device="meta"))
    assert (fine.shape, coarse.shape) == ((1, 512, 26, 26), (1, 1024, 13, 13))


@pytest.mark.parametrize("size_hw", [(416, 400), (33, 64), (16, 16)])
def test_sizes_that_are_no_multiple_of_32_are_named(size_hw: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{size_hw[0]}, {size_hw[1]}"):
        on_meta()(torch.empty(1, 3, *size_hw, device="meta"))


class FixedMaps(Darknet19):
    """A backbone whose fine map numbers its pixels, and whose coarse map is zero."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine = torch.arange(4.0 * 4).reshape(1, 1, 4, 4).expand(1, 512, 4, 4)
        return fine, torch.zeros(1, 1024, 2, 2)


def test_passthrough_lays_four_neighbours_into_one_cell() -> None:
    with torch.device("meta"):
        network = YOLOv2(num_classes=1, passthrough_channels=None).eval()
    seen: list[torch.Tensor] = []

    class Record(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x[:, :1]

    network.backbone = FixedMaps()
    network.coarse = nn.Sequential(nn.Identity())
    network.joined, network.predict = Record(), nn.Identity()  # type: ignore[assignment]
    network(torch.empty(1, 3, 64, 64))
    (joined,) = seen
    assert joined.shape == (1, 4 * 512 + 1024, 2, 2)
    assert not joined[:, 4 * 512 :].any()
    for y in range(2):
        for x in range(2):
            corner = 8 * y + 2 * x
            neighbours = sorted(joined[0, :4, y, x].tolist())
            assert neighbours == [corner, corner + 1, corner + 4, corner + 5]


def test_a_loss_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    network = YOLOv2(num_classes=1).train()
    network(torch.rand(2, 3, 32, 32)).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
