"""The plan against the published numbers of every checkpoint of TF-Slim, and against the torch network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mobilenetv2.architecture import (
    Architecture,
    BlockPlan,
    multiply_adds,
    parameter_shapes,
    parameters,
    plan_network,
    tap_channels,
    trunk_shapes,
)
from mobilenetv2.errors import UserError
from mobilenetv2.networks.mobilenet_v1 import MobileNetV1
from mobilenetv2.networks.mobilenet_v2 import MobileNetV2
from mobilenetv2.networks.mobilenets import build_mobilenet
from mobilenetv2.numerics import round_channels

# width -> millions of multiply-adds by resolution: convolutions and classifier, without batch norm.
MULTIPLY_ADDS_M = {
    1.4: {224: "582.20"},
    1.3: {224: "509.37"},
    1.0: {224: "300.77", 192: "221.32", 160: "154.08", 128: "99.07", 96: "56.29"},
    0.75: {224: "209.07", 192: "153.94", 160: "107.30", 128: "69.13", 96: "39.45"},
    0.5: {224: "97.13", 192: "71.70", 160: "50.18", 128: "32.58", 96: "18.89"},
    0.35: {224: "59.29", 192: "43.90", 160: "30.87", 128: "20.22", 96: "11.93"},
}
ROWS = [(width, size, madds) for width, sizes in MULTIPLY_ADDS_M.items() for size, madds in sizes.items()]

# width -> (without batch norm, with its gamma and beta)
PARAMETERS = {
    1.4: (6_060_840, 6_108_776),
    1.3: (5_342_536, 5_386_792),
    1.0: (3_470_760, 3_504_872),
    0.75: (2_609_784, 2_636_424),
    0.5: (1_950_136, 1_968_680),
    0.35: (1_663_048, 1_677_128),
}

# width -> (stem, and one for each row of Table 2, last)
CHANNELS = {
    1.4: (48, 24, 32, 48, 88, 136, 224, 448, 1792),
    1.3: (40, 24, 32, 40, 80, 128, 208, 416, 1664),
    1.0: (32, 16, 24, 32, 64, 96, 160, 320, 1280),
    0.75: (24, 16, 24, 24, 48, 72, 120, 240, 1280),
    0.5: (16, 8, 16, 16, 32, 48, 80, 160, 1280),
    0.35: (16, 8, 8, 16, 24, 32, 56, 112, 1280),
}


def test_there_are_22_published_rows() -> None:
    assert len(ROWS) == 22


@pytest.mark.parametrize(("width", "size", "published_m"), ROWS)
def test_multiply_adds_to_a_hundredth_of_a_million(width: float, size: int, published_m: str) -> None:
    assert f"{multiply_adds(Architecture(width=width), (size, size)) / 1e6:.2f}" == published_m


def test_multiply_adds_follow_the_output_stride_and_odd_sizes() -> None:
    plain = multiply_adds(Architecture(), (224, 224))
    assert multiply_adds(Architecture(output_stride=16), (224, 224)) > plain
    # Strides round up: 97 -> 49 -> 25 -> 13 -> 7 -> 4, as 98 does.
    assert multiply_adds(Architecture(), (97, 97)) == multiply_adds(Architecture(), (98, 98))
    # Stem and one bottleneck by hand, for a 2x2 picture of which every map is one pixel.
    blocks = sum(
        (b.in_channels * b.expanded_channels if b.expands else 0) + b.expanded_channels * (9 + b.out_channels)
        for b in plan_network(Architecture()).blocks
    )
    assert multiply_adds(Architecture(num_classes=7), (2, 2)) == 27 * 32 + blocks + 320 * 1280 + 1280 * 7


@pytest.mark.parametrize(("width", "counts"), PARAMETERS.items())
def test_parameters_are_exact(width: float, counts: tuple[int, int]) -> None:
    architecture = Architecture(width=width)
    assert (parameters(architecture, batch_norm=False), parameters(architecture)) == counts


@pytest.mark.parametrize(("width", "channels"), CHANNELS.items())
def test_channels_are_exact(width: float, channels: tuple[int, ...]) -> None:
    plan = plan_network(Architecture(width=width))
    planned = (plan.stem_channels, *(stage[-1].out_channels for stage in plan.stages), plan.last_channels)
    assert planned == channels
    assert all(block.out_channels == stage[-1].out_channels for stage in plan.stages for block in stage)


def test_table_2() -> None:
    stages = plan_network(Architecture()).stages
    assert [len(stage) for stage in stages] == [1, 2, 3, 4, 3, 3, 1]
    assert [stage[0].stride for stage in stages] == [1, 2, 2, 2, 1, 2, 1]
    assert all(block.stride == 1 for stage in stages for block in stage[1:])
    assert [block.expanded_channels // block.in_channels for stage in stages for block in stage] == [1] + [6] * 16
    assert not stages[0][0].expands
    assert sum(block.has_shortcut for stage in stages for block in stage) == 10


def layers(output_stride: int) -> dict[int, BlockPlan]:
    """TF-Slim's numbers: layer 1 is the stem, 2 the first bottleneck."""
    return dict(enumerate(plan_network(Architecture(output_stride=output_stride)).blocks, start=2))


def test_dilation_follows_slim_at_output_stride_16() -> None:
    found = {number: (block.stride, block.dilation) for number, block in layers(16).items()}
    usual = {number: (block.stride, 1) for number, block in layers(32).items()}
    assert found == usual | {15: (1, 1), 16: (1, 2), 17: (1, 2), 18: (1, 2)}


def test_dilation_follows_slim_at_output_stride_8() -> None:
    found = {number: (block.stride, block.dilation) for number, block in layers(8).items()}
    usual = {number: (block.stride, 1) for number, block in layers(32).items()}
    later = dict.fromkeys(range(9, 16), (1, 2)) | dict.fromkeys((16, 17, 18), (1, 4))
    assert found == usual | {8: (1, 1)} | later


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({}, (576, 1280)),
        ({"width": 1.4}, (816, 1792)),
        ({"width": 0.35}, (192, 1280)),
        ({"depth": 2.0}, (576, 1280)),
        ({"name": "mobilenet_v1"}, (512, 1024)),
        ({"name": "mobilenet_v1", "width": 0.3}, (153, 307)),
    ],
)
@pytest.mark.parametrize("size_hw", [(64, 64), (33, 97)])
def test_what_detection_taps_is_at_stride_16(
    options: dict[str, Any], channels: tuple[int, int], size_hw: tuple[int, int]
) -> None:
    architecture = Architecture(**options)
    assert tap_channels(architecture) == channels
    with torch.device("meta"):
        taps = build_mobilenet(architecture).eval().taps(torch.empty(1, 3, *size_hw))
    sizes = [[-(-side // stride) for side in size_hw] for stride in (16, 32)]
    assert list(taps[0].shape) == [1, channels[0], *sizes[0]]
    assert list(taps.last.shape) == [1, channels[1], *sizes[1]]


def test_rounding_never_loses_more_than_a_tenth() -> None:
    for channels in range(1, 2000):
        rounded = round_channels(channels)
        assert rounded % 8 == 0, channels
        assert rounded >= 0.9 * channels, channels
        assert rounded == 8 or rounded <= channels + 8, channels


@pytest.mark.parametrize(
    "architecture",
    [
        *(Architecture(width=width, num_classes=10) for width in PARAMETERS),
        Architecture(width=0.1, num_classes=1),
        Architecture(width=1.1, depth=1.2, scale_ends=False),
        Architecture(width=1.2, depth=1.4, scale_ends=False),
        Architecture(width=0.35, depth=0.5, num_classes=3),
        Architecture(width=0.35, depth=2.0, num_classes=3),
        Architecture(width=0.35, output_stride=8, numerics="tf"),
        Architecture(name="mobilenet_v1", num_classes=10),
        Architecture(name="mobilenet_v1", width=0.3, num_classes=3),
        Architecture(name="mobilenet_v1", width=0.05, num_classes=3, output_stride=8),
    ],
    ids=lambda a: f"{a.name}-{a.width}-{a.depth}-{a.output_stride}",
)
def test_parameter_shapes_are_those_of_the_torch_network(architecture: Architecture) -> None:
    network = build_mobilenet(architecture)
    theirs = [
        (name, tuple(tensor.shape))
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    ]
    assert theirs == [tuple(row) for row in parameter_shapes(architecture)]
    assert [name for name, _ in theirs if not name.startswith("classifier.")] == [
        name for name, _ in trunk_shapes(architecture)
    ]
    assert parameters(architecture) == sum(parameter.numel() for parameter in network.parameters())


def test_a_plan_is_for_its_own_network() -> None:
    with pytest.raises(ValueError, match="not of mobilenet_v1"):
        MobileNetV2(Architecture(name="mobilenet_v1"))
    with pytest.raises(ValueError, match="not of mobilenet_v2"):
        MobileNetV1(Architecture())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "width 0"),
        ({"width": -1.0}, "width -1.0"),
        ({"width": float("nan")}, "width nan"),
        ({"depth": 17}, "depth 17"),
        ({"output_stride": 4}, "output stride 4"),
        ({"num_classes": 0}, "number of classes 0"),
        ({"num_classes": 2.5}, "number of classes 2.5"),
        ({"numerics": "torh"}, "did you mean 'torch'"),
        ({"name": "resnet"}, "'resnet'"),
        ({"name": "mobilenet_v1", "depth": 1.2}, "options of mobilenet_v2 alone"),
        ({"name": "mobilenet_v1", "scale_ends": False}, "options of mobilenet_v2 alone"),
        ({"name": "mobilenet_v1", "output_stride": 4}, "output stride 4"),
    ],
)
def test_impossible_options_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Architecture(**options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
