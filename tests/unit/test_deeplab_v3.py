"""DeepLabv3: Table 7's counts, what dilation keeps equal, and the multi-scale evaluation."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mobilenetv2.architecture import Architecture
from mobilenetv2.errors import UserError
from mobilenetv2.networks.complexity import trace
from mobilenetv2.networks.deeplab_v3 import (
    EVALUATION_SCALES,
    BackboneName,
    DeepLabv3,
    deeplab_v3,
    evaluation_madds,
    multi_scale_cost,
    multi_scale_probabilities,
    scaled_size_hw,
    space_to_batch_madds,
    upsample,
)
from mobilenetv2.networks.layers import ConvNorm
from mobilenetv2.networks.mobilenet_v1 import MobileNetV1
from mobilenetv2.networks.mobilenet_v2 import MobileNetV2

SIZE_HW = (513, 513)

# Table 7: backbone, output stride, ASPP, multi-scale + flip, parameters in millions, MAdds in billions.
Row = tuple[BackboneName, int, bool, bool, str, float]
TABLE_7: list[Row] = [
    ("mobilenet_v1", 16, True, False, "11.15", 14.25),
    ("mobilenet_v1", 8, True, True, "11.15", 941.9),
    ("mobilenet_v2", 16, True, False, "4.52", 5.8),
    ("mobilenet_v2", 8, True, True, "4.52", 387),
    ("mobilenet_v2", 16, False, False, "2.11", 2.75),
    ("mobilenet_v2", 8, False, True, "2.11", 152.6),
    ("resnet_101", 16, True, False, "58.16", 81.0),
    ("resnet_101", 8, True, True, "58.16", 4870.6),
]
UNREACHED = TABLE_7[1]  # 5.2 % from what this network costs under the rule that fits all the others


@cache
def on_meta(backbone: BackboneName, output_stride: int, aspp: bool, width: float = 1.0) -> DeepLabv3:
    with torch.device("meta"):
        return deeplab_v3(backbone, output_stride=output_stride, aspp=aspp, width=width)


@pytest.mark.parametrize(
    ("backbone", "aspp", "whole", "without_norms"),
    [
        ("mobilenet_v1", True, 11_145_301, 11_120_341),
        ("mobilenet_v2", True, 4_523_541, 4_488_917),
        ("mobilenet_v2", False, 2_113_557, 2_080_469),
        ("resnet_101", True, 58_164_437, 58_055_637),
    ],
)
def test_parameters_of_table_7_are_those_with_batch_norm(
    backbone: BackboneName, aspp: bool, whole: int, without_norms: int
) -> None:
    printed = {row[4] for row in TABLE_7 if (row[0], row[2]) == (backbone, aspp)}
    for output_stride in (16, 8):
        network = on_meta(backbone, output_stride, aspp)
        assert sum(parameter.numel() for parameter in network.parameters()) == whole
        norms = sum(p.numel() for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
        assert whole - norms == without_norms
    assert {f"{whole / 1e6:.2f}"} == printed
    # Without batch norm, none of the four would round to what the paper prints.
    assert f"{without_norms / 1e6:.2f}" not in printed


@pytest.mark.parametrize("row", [row for row in TABLE_7 if row != UNREACHED], ids=str)
def test_madds_of_table_7(row: Row) -> None:
    backbone, output_stride, aspp, multi_scale, _, printed_b = row
    network = on_meta(backbone, output_stride, aspp)
    scales = EVALUATION_SCALES if multi_scale else (1.0,)
    assert evaluation_madds(network, SIZE_HW, scales=scales, flip=multi_scale) == pytest.approx(
        printed_b * 1e9, rel=0.005
    )


def test_the_row_of_table_7_that_cannot_be_reached() -> None:
    backbone, output_stride, aspp, _, _, printed_b = UNREACHED
    network = on_meta(backbone, output_stride, aspp)
    by_our_rates, by_others = 0, 0
    other_rates = {f"head.atrous.{index}.conv": rate for index, rate in enumerate((12, 18, 24))}
    for scale in EVALUATION_SCALES:
        complexity = trace(network, scaled_size_hw(SIZE_HW, scale))
        operators = [replace(o, dilation=other_rates.get(o.path, o.dilation)) for o in complexity.operators]
        by_our_rates += 2 * space_to_batch_madds(complexity)
        by_others += 2 * space_to_batch_madds(replace(complexity, operators=tuple(operators)))
    assert by_our_rates == 990_785_564_928
    assert by_others == pytest.approx(printed_b * 1e9, rel=0.002)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet_101"])
def test_the_plain_count_is_torchs(backbone: BackboneName) -> None:
    network = on_meta(backbone, 16, True).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = network(torch.empty(1, 3, *SIZE_HW, device="meta"))
    assert logits.shape == (1, 21, 33, 33)
    complexity = trace(network, SIZE_HW)
    assert complexity.madds == counter.get_total_flops() // 2
    # What TensorFlow pads is the difference: 33 x 33 -> 36 x 36 in the pyramid alone is more than 5 % of the whole.
    assert space_to_batch_madds(complexity) > 1.05 * complexity.madds


def by_space_to_batch(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """TensorFlow's dilated convolution: r x r smaller maps, each filtered without dilation."""
    rate = conv.dilation[0]
    height, width = x.shape[2:]
    x = F.pad(x, (rate, rate + -width % rate, rate, rate + -height % rate))
    answer = torch.zeros(x.shape[0], conv.out_channels, x.shape[2] - 2 * rate, x.shape[3] - 2 * rate)
    for row in range(rate):
        for column in range(rate):
            part = F.conv2d(x[:, :, row::rate, column::rate], conv.weight)
            answer[:, :, row::rate, column::rate] = part
    return answer[:, :, :height, :width]


@pytest.mark.parametrize(("size_hw", "rate"), [((7, 8), 3), ((6, 9), 3), ((5, 5), 6)])
def test_space_to_batch_costs_what_it_performs(size_hw: tuple[int, int], rate: int) -> None:
    conv = nn.Conv2d(3, 4, 3, padding=rate, dilation=rate, bias=False)
    x = torch.randn(1, 3, *size_hw)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        found = by_space_to_batch(conv, x)
    with torch.no_grad():
        torch.testing.assert_close(found, conv(x))
    assert space_to_batch_madds(trace(conv, size_hw)) == counter.get_total_flops() // 2


def test_what_lies_behind_the_feature_map_is_gone_and_the_rest_keeps_its_names() -> None:
    with torch.device("meta"):
        classifiers: dict[BackboneName, nn.Module] = {
            "mobilenet_v1": MobileNetV1(Architecture(name="mobilenet_v1")),
            "mobilenet_v2": MobileNetV2(Architecture()),
        }
    for name, classifier in classifiers.items():
        kept = {key for key in classifier.state_dict() if not key.startswith(("classifier.", "last."))}
        backbone = on_meta(name, 16, False).backbone
        assert set(backbone.state_dict()) == kept
        assert not any(isinstance(module, nn.Dropout | nn.Linear) for module in backbone.modules())


@pytest.mark.parametrize(
    ("backbone", "width", "channels"),
    [
        ("mobilenet_v1", 1.0, 1024),
        ("mobilenet_v1", 0.5, 512),
        ("mobilenet_v2", 1.0, 320),
        ("mobilenet_v2", 1.4, 448),
        ("resnet_101", 1.0, 2048),
    ],
)
def test_shapes(backbone: BackboneName, width: float, channels: int) -> None:
    images = torch.empty(2, 3, 65, 130, device="meta")
    for output_stride in (32, 16, 8):
        network = on_meta(backbone, output_stride, True, width)
        size_hw = -(-65 // output_stride), -(-130 // output_stride)
        with torch.no_grad():
            features = network.eval().maps(images)[-1]
            assert features.shape == (2, channels, *size_hw)
            assert network.head(features).shape == (2, 256, *size_hw)
            assert network(images).shape == (2, 21, *size_hw)
        rates = [rate * 16 // output_stride for rate in (6, 12, 18)]
        assert [cast(ConvNorm, atrous).conv.dilation[0] for atrous in network.head.atrous] == rates


def test_the_head_normalises_with_its_own_epsilon() -> None:
    with torch.device("meta"):
        network = deeplab_v3(numerics="tf", aspp=True)
    assert {m.eps for m in network.head.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}
    assert {m.eps for m in network.backbone.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize("backbone", ["mobilenet_v1", "mobilenet_v2", "resnet_101"])
def test_impossible_options(backbone: BackboneName) -> None:
    with torch.device("meta"), pytest.raises((ValueError, UserError), match="output stride 4"):
        deeplab_v3(backbone, output_stride=4)


def test_unknown_backbones_and_widths() -> None:
    with pytest.raises(ValueError, match="'vgg_16' is not known"):
        deeplab_v3("vgg_16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no width multiplier"):
        deeplab_v3("resnet_101", width=0.5)


def calibrated(network: DeepLabv3, size_hw: tuple[int, int], images: int = 2) -> DeepLabv3:
    """Batch norm's statistics from random pictures, so that no map dies on its way."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(images, 3, *size_hw, dtype=network.classifier.weight.dtype))
    return network.eval()


def with_output_stride(network: DeepLabv3, output_stride: int, backbone: BackboneName, **options: object) -> DeepLabv3:
    """The same weights under another plan."""
    with torch.device("meta"):
        twin = deeplab_v3(backbone, output_stride=output_stride, aspp=True, **options)  # type: ignore[arg-type]
    twin.load_state_dict(network.state_dict(), assign=True)
    return twin.eval()


def worst(found: Tensor, expected: Tensor) -> float:
    """Largest difference by the largest value."""
    assert found.shape == expected.shape
    assert expected.std() > 0.01
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("backbone", "width", "numerics", "sizes_hw"),
    [
        # With symmetric padding every strided filter stands on the even pixels, whatever the size.
        ("mobilenet_v1", 0.5, "torch", [(65, 65), (64, 96), (75, 50)]),
        ("mobilenet_v2", 0.5, "torch", [(65, 65), (64, 96), (75, 50)]),
        ("resnet_101", 1.0, "torch", [(38, 33)]),
        # TensorFlow's SAME does so on odd maps only, which is why its pictures have 513 pixels.
        ("mobilenet_v1", 0.5, "tf", [(65, 97)]),
        ("mobilenet_v2", 0.5, "tf", [(65, 97)]),
    ],
)
def test_dilation_answers_as_the_stride_did_and_between(
    backbone: BackboneName, width: float, numerics: str, sizes_hw: list[tuple[int, int]]
) -> None:
    torch.manual_seed(0)
    network = deeplab_v3(backbone, width=width, output_stride=32, aspp=True, numerics=numerics)
    # In double precision, because float32 alone is 3e-5 off after a hundred layers.
    calibrated(network.double(), (65, 65))
    twins = [with_output_stride(network, stride, backbone, width=width, numerics=numerics) for stride in (16, 8)]
    for size_hw in sizes_hw:
        images = torch.randn(1, 3, *size_hw, dtype=torch.float64)
        with torch.inference_mode():
            at_32, at_16, at_8 = (net.maps(images)[-1] for net in (network, *twins))
            assert worst(at_16[:, :, ::2, ::2], at_32) <= 1e-9
            assert worst(at_8[:, :, ::4, ::4], at_32) <= 1e-9
            assert worst(at_8[:, :, ::2, ::2], at_16) <= 1e-9
            # The pyramid too, because its rates follow the stride. Image pooling averages over other pixels.
            for coarse, fine in zip(twins[0].head.atrous, twins[1].head.atrous, strict=True):
                assert worst(fine(at_8)[:, :, ::2, ::2], coarse(at_16)) <= 1e-9


def test_without_dilation_the_answers_differ() -> None:
    torch.manual_seed(0)
    network = calibrated(deeplab_v3(width=0.5, output_stride=32, aspp=True), (65, 65))
    undilated = with_output_stride(network, 16, "mobilenet_v2", width=0.5)
    for module in undilated.backbone.modules():
        if isinstance(module, nn.Conv2d) and module.dilation != (1, 1):
            module.dilation, module.padding = (1, 1), (1, 1)
    images = torch.randn(1, 3, 65, 65)
    with torch.inference_mode():
        assert worst(undilated.maps(images)[-1][:, :, ::2, ::2], network.maps(images)[-1]) > 0.01


def test_same_padding_of_even_maps_moves_the_filters() -> None:
    torch.manual_seed(0)
    network = calibrated(deeplab_v3(width=0.5, output_stride=32, aspp=True, numerics="tf"), (65, 65))
    twin = with_output_stride(network, 16, "mobilenet_v2", width=0.5, numerics="tf")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert worst(twin.maps(images)[-1][:, :, ::2, ::2], network.maps(images)[-1]) > 0.01


@pytest.fixture(scope="module")
def small() -> DeepLabv3:
    torch.manual_seed(0)
    network = deeplab_v3(width=0.35, num_classes=3)
    nn.init.normal_(network.classifier.weight, std=0.1)  # so that it is sure of something
    return calibrated(network, (33, 33), images=4)


def test_table_7s_scales() -> None:
    assert multi_scale_cost() == 17.375
    assert multi_scale_cost((1.0,), flip=False) == 1
    sizes = [scaled_size_hw(SIZE_HW, scale)[0] for scale in EVALUATION_SCALES]
    assert sizes == [257, 385, 513, 641, 769, 897]
    assert scaled_size_hw((1, 2), 0.5) == (1, 1)


def test_multi_scale_is_the_average_of_softmaxes(small: DeepLabv3) -> None:
    images = torch.randn(2, 3, 33, 49)
    with torch.inference_mode():
        found = multi_scale_probabilities(small, images, scales=(0.5, 1.0))
        expected = []
        for resized in (upsample(images, (17, 25)), images):
            straight = upsample(small(resized), (33, 49))
            mirrored = upsample(small(resized.flip(-1)), (33, 49)).flip(-1)
            expected += [straight.softmax(1), mirrored.softmax(1)]
    assert found.shape == (2, 3, 33, 49)
    torch.testing.assert_close(found, torch.stack(expected).mean(0))
    torch.testing.assert_close(found.sum(1), torch.ones(2, 33, 49))


def test_the_flip_makes_the_answer_even_handed(small: DeepLabv3) -> None:
    images = torch.randn(1, 3, 40, 56)
    with torch.inference_mode():
        for flip in (True, False):
            straight = multi_scale_probabilities(small, images, scales=(1.0, 1.25), flip=flip)
            mirrored = multi_scale_probabilities(small, images.flip(3), scales=(1.0, 1.25), flip=flip).flip(3)
            difference = float((straight - mirrored).abs().max())
            assert difference < 1e-3 if flip else difference > 0.1


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 20), (31, 7)], ids=str)
def test_every_size_has_an_answer(small: DeepLabv3, size_hw: tuple[int, int]) -> None:
    with torch.inference_mode():
        found = multi_scale_probabilities(small, torch.randn(1, 3, *size_hw))
    assert found.shape == (1, 3, *size_hw)
    assert found.isfinite().all()


def test_no_scales_are_refused(small: DeepLabv3) -> None:
    with pytest.raises(ValueError, match="at least one scale"):
        multi_scale_probabilities(small, torch.zeros(1, 3, 8, 8), scales=())
