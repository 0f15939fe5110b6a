"""SSD300 and SSD512 on VGG-16: the original's counts, and torchvision's SSD300 as the peer."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg16
from torchvision.models.detection import SSD300_VGG16_Weights, ssd300_vgg16

from mobilenetv2.networks.ssd_vgg import SSD300, SSD512, SSDVGG, L2Norm, SSDPlan


@cache
def on_meta(plan: SSDPlan, num_classes: int = 80) -> SSDVGG:
    with torch.device("meta"):
        return SSDVGG(plan, num_classes=num_classes).eval()


def multiply_adds(network: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, size, size, device="meta"))
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize(
    ("plan", "size", "parameters", "madds"),
    [(SSD300, 300, 34_305_206, 34_360_351_232), (SSD512, 512, 36_038_196, 98_628_936_704)],
    ids=["ssd300", "ssd512"],
)
def test_counts_for_coco(plan: SSDPlan, size: int, parameters: int, madds: int) -> None:
    network = on_meta(plan)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert multiply_adds(network, size) == madds


def test_ssd512_is_within_a_hundredth_of_table_6() -> None:
    network = on_meta(SSD512)
    assert multiply_adds(network, 512) == pytest.approx(99.5e9, rel=0.01)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(36.1e6, rel=0.01)


def test_ssd300_has_the_counts_that_torchvision_publishes() -> None:
    published = SSD300_VGG16_Weights.COCO_V1.meta
    network = on_meta(SSD300, num_classes=90)
    assert sum(parameter.numel() for parameter in network.parameters()) == published["num_params"]
    assert f"{multiply_adds(network, 300) / 1e9:.3f}" == f"{published['_ops']:.3f}"


@pytest.mark.parametrize(
    ("plan", "size", "sides", "anchors"),
    [(SSD300, 300, [38, 19, 10, 5, 3, 1], 8732), (SSD512, 512, [64, 32, 16, 8, 4, 2, 1], 24564)],
    ids=["ssd300", "ssd512"],
)
def test_maps_and_anchors(plan: SSDPlan, size: int, sides: list[int], anchors: int) -> None:
    network, images = on_meta(plan), torch.empty(1, 3, size, size, device="meta")
    channels = [512, 1024, 512] + [256] * (len(sides) - 3)
    assert [tuple(x.shape) for x in network.maps(images)] == [
        (1, width, side, side) for width, side in zip(channels, sides, strict=True)
    ]
    output = network(images)
    assert output.class_logits.shape == (1, anchors, 81)
    assert output.box_codes.shape == (1, anchors, 4)


@pytest.mark.parametrize("plan", [SSD300, SSD512], ids=["ssd300", "ssd512"])
def test_257_pixels_is_the_least(plan: SSDPlan) -> None:
    network = on_meta(plan)
    assert network.maps(torch.empty(1, 3, 257, 257, device="meta"))[-1].shape[2:] == (1, 1)
    with pytest.raises(RuntimeError):
        network(torch.empty(1, 3, 256, 300, device="meta"))


def test_backbone_has_the_names_of_torchvision() -> None:
    with torch.device("meta"):
        theirs = vgg16(weights=None).features
    network = on_meta(SSD300)
    assert {name: x.shape for name, x in network.backbone.state_dict().items()} == {
        name: x.shape for name, x in theirs.state_dict().items()
    }


def test_l2_norm_has_the_learned_length_everywhere() -> None:
    norm = L2Norm(7, scale=20.0)
    x = torch.randn(2, 7, 3, 5)
    assert torch.allclose(norm(x).norm(dim=1), torch.tensor(20.0))
    norm.scale.data = torch.arange(7.0)
    assert torch.allclose(norm(x), x / x.norm(dim=1, keepdim=True) * torch.arange(7.0).reshape(1, 7, 1, 1), atol=1e-6)


def convolutions(*parts: nn.Module) -> list[nn.Conv2d]:
    return [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Conv2d)]


def test_outputs_are_those_of_torchvision() -> None:
    torch.manual_seed(0)
    network = SSDVGG(SSD300, num_classes=2).eval()
    with torch.device("meta"):
        theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=3).eval()
    mine = convolutions(
        network.backbone, network.fc6, network.fc7, network.extras, network.class_heads, network.box_heads
    )
    peers = convolutions(theirs.backbone, theirs.head.classification_head, theirs.head.regression_head)
    network.conv4_3_norm.scale.data.uniform_(10, 30)
    theirs.backbone.scale_weight = network.conv4_3_norm.scale
    for layer, peer in zip(mine, peers, strict=True):
        assert layer.weight.shape == peer.weight.shape
        assert layer.bias is not None
        layer.bias.data.normal_(0, 0.1)
        peer.weight, peer.bias = layer.weight, layer.bias
    # Sizes of which torchvision, which rounds up in one pooling only, makes the same maps.
    images = torch.randn(1, 3, 268, 272)
    with torch.inference_mode():
        found = network(images)
        expected = theirs.head(list(theirs.backbone(images).values()))
    for ours, other in ((found.class_logits, expected["cls_logits"]), (found.box_codes, expected["bbox_regression"])):
        assert ours.shape == other.shape
        assert (ours - other).abs().max() <= 1e-5 * other.abs().max()
        assert other.std() > 1e-3
