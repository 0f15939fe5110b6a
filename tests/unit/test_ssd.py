"""SSD and SSDLite on the MobileNets: the published counts, the maps, and the order of the anchors."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mobilenetv2.architecture import Architecture
from mobilenetv2.detector import BackboneName
from mobilenetv2.errors import UserError
from mobilenetv2.networks import ssd as module
from mobilenetv2.networks.mobilenets import build_mobilenet
from mobilenetv2.networks.ssd import SSD, ssd, ssdlite

BACKBONES: tuple[BackboneName, ...] = ("mobilenet_v1", "mobilenet_v2")


@cache
def on_meta(network: BackboneName, *, lite: bool, **options: float) -> SSD:
    with torch.device("meta"):
        built = (ssdlite if lite else ssd)(network, **options)  # type: ignore[arg-type]
    return built.eval()


def parameters(network: nn.Module, *, batch_norm: bool) -> int:
    return sum(
        parameter.numel()
        for part in network.modules()
        if batch_norm or not isinstance(part, nn.BatchNorm2d)
        for parameter in part.parameters(recurse=False)
    )


def multiply_adds(network: SSD, size: int) -> tuple[int, int]:
    """Of the whole network, and of its backbone."""
    images = torch.empty(1, 3, size, size, device="meta")
    with FlopCounterMode(display=False) as whole:
        network(images)
    with FlopCounterMode(display=False) as backbone:
        network.backbone.taps(images)
    return whole.get_total_flops() // 2, backbone.get_total_flops() // 2


@pytest.mark.parametrize(
    ("lite", "head_parameters", "head_norms", "head_madds"),
    [(False, 14_773_173, 3_456, 1_259_068_672), (True, 2_096_501, 16_640, 177_617_344)],
    ids=["ssd", "ssdlite"],
)
def test_table_5(lite: bool, head_parameters: int, head_norms: int, head_madds: int) -> None:
    network = on_meta("mobilenet_v2", lite=lite)
    plain, whole = (
        parameters(network, batch_norm=norms) - parameters(network.backbone, batch_norm=norms)
        for norms in (False, True)
    )
    assert (plain, whole - plain) == (head_parameters, head_norms)
    total, backbone = multiply_adds(network, 320)
    assert total - backbone == head_madds


@pytest.mark.parametrize(
    ("backbone", "plain", "with_norms", "madds"),
    [
        ("mobilenet_v2", 4_286_261, 4_337_013, 788_830_144),  # the paper: 4.3 M, 0.8 B
        ("mobilenet_v1", 5_063_413, 5_100_661, 1_309_162_944),  # the paper: 5.1 M, 1.3 B
    ],
)
def test_table_6(backbone: BackboneName, plain: int, with_norms: int, madds: int) -> None:
    network = on_meta(backbone, lite=True)
    assert parameters(network, batch_norm=False) == plain
    assert parameters(network, batch_norm=True) == with_norms
    assert multiply_adds(network, 320)[0] == madds


@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize(
    ("size", "sides", "anchors"), [(300, [19, 10, 5, 3, 2, 1], 1917), (320, [20, 10, 5, 3, 2, 1], 2034)]
)
def test_maps_and_anchors(lite: bool, size: int, sides: list[int], anchors: int) -> None:
    network = on_meta("mobilenet_v2", lite=lite)
    images = torch.empty(2, 3, size, size, device="meta")
    channels = [576, 1280, 512, 256, 256, 128]
    assert [tuple(x.shape) for x in network.maps(images)] == [
        (2, width, side, side) for width, side in zip(channels, sides, strict=True)
    ]
    output = network(images)
    assert output.class_logits.shape == (2, anchors, 81)
    assert output.box_codes.shape == (2, anchors, 4)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("numerics", ["torch", "tf"])
def test_any_size_and_width(backbone: BackboneName, numerics: str) -> None:
    torch.manual_seed(0)
    for width, size_hw in ((0.25, (65, 33)), (0.35, (1, 1)), (1.4, (31, 64))):
        network = ssdlite(backbone, width=width, num_classes=2, numerics=numerics).eval()
        with torch.inference_mode():
            output = network(torch.randn(1, 3, *size_hw))
        cells = [math.ceil(size_hw[0] / 2**s) * math.ceil(size_hw[1] / 2**s) for s in range(4, 10)]
        anchors = 3 * cells[0] + 6 * sum(cells[1:])
        assert output.class_logits.shape == (1, anchors, 3)
        assert output.box_codes.shape == (1, anchors, 4)
        assert output.class_logits.isfinite().all()


def test_width_reaches_the_extra_layers() -> None:
    images = torch.empty(1, 3, 320, 320, device="meta")
    narrow = on_meta("mobilenet_v2", lite=True, width=0.35).maps(images)
    assert [x.shape[1] for x in narrow] == [32 * 6, 1280, 179, 89, 89, 44]
    assert [x.shape[1] for x in on_meta("mobilenet_v1", lite=True, width=0.5).maps(images)] == [
        256,
        512,
        256,
        128,
        128,
        64,
    ]
    assert on_meta("mobilenet_v1", lite=True, width=0.05).maps(images)[-1].shape[1] == 16


def test_lite_means_that_every_3x3_is_depthwise() -> None:
    for lite in (False, True):
        network = on_meta("mobilenet_v2", lite=lite)
        added = [part for name in ("extras", "class_heads", "box_heads") for part in getattr(network, name).modules()]
        filters = [part for part in added if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)]
        assert len(filters) == 4 + 6 + 6
        assert all((part.groups == part.in_channels) is lite for part in filters)
        biased = [part for part in added if isinstance(part, nn.Conv2d) and part.bias is not None]
        assert len(biased) == 6 + 6


def test_anchors_are_row_by_row_and_their_values_together() -> None:
    anchors, values, height, width = 3, 5, 2, 4
    predicted = torch.arange(2 * anchors * values * height * width).reshape(2, anchors * values, height, width)
    rows = module.by_anchor(predicted, values)
    assert rows.shape == (2, height * width * anchors, values)
    for y in range(height):
        for x in range(width):
            for anchor in range(anchors):
                expected = predicted[:, anchor * values : (anchor + 1) * values, y, x]
                assert torch.equal(rows[:, (y * width + x) * anchors + anchor], expected)


@pytest.mark.parametrize("lite", [False, True])
def test_every_head_answers_for_its_own_map(lite: bool) -> None:
    network = (ssdlite if lite else ssd)(width=0.35, num_classes=2).eval()

    def mark(heads: nn.ModuleList, start: int) -> None:
        for number, head in enumerate(heads):
            last = [part for part in head.modules() if isinstance(part, nn.Conv2d)][-1]
            nn.init.zeros_(last.weight)
            assert last.bias is not None
            last.bias.data = start + 100.0 * number + torch.arange(last.out_channels)

    mark(network.class_heads, 0)
    mark(network.box_heads, 10_000)
    with torch.inference_mode():
        output = network(torch.randn(1, 3, 40, 64))

    def expected(start: int, values: int) -> Tensor:
        cells = [3 * 4, 2 * 2, 1, 1, 1, 1]
        rows = [
            (start + 100.0 * number + torch.arange((6 if number else 3) * values)).reshape(-1, values).repeat(count, 1)
            for number, count in enumerate(cells)
        ]
        return torch.cat(rows)

    assert torch.equal(output.class_logits[0], expected(0, 3))
    assert torch.equal(output.box_codes[0], expected(10_000, 4))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_backbone_is_the_classifier_without_its_head(backbone: BackboneName) -> None:
    classifier = build_mobilenet(Architecture(name=backbone, width=0.35, num_classes=7))
    network = ssdlite(backbone, width=0.35, num_classes=2)
    state = classifier.state_dict()
    trunk = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    assert len(trunk) == len(state) - 2
    network.backbone.load_state_dict(trunk, strict=True)
    images = torch.randn(1, 3, 64, 48)
    with torch.inference_mode():
        taps, maps = classifier.eval().taps(images), network.eval().maps(images)
    assert torch.equal(maps[0], taps[0])
    assert torch.equal(maps[1], taps.last)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("lite", [False, True])
def test_a_loss_reaches_every_parameter(backbone: BackboneName, lite: bool) -> None:
    torch.manual_seed(0)
    network = (ssdlite if lite else ssd)(backbone, width=0.25, num_classes=2).train()
    output = network(torch.randn(2, 3, 64, 64))
    (output.class_logits.square().sum() + output.box_codes.square().sum()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_a_wrong_backbone_is_named() -> None:
    with pytest.raises(UserError, match="'vgg'"):
        ssdlite("vgg")  # type: ignore[arg-type]
