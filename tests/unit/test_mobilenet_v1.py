"""MobileNetV1's sixteen rows, and its taps."""

from __future__ import annotations

import pytest
import torch

from mobilenetv2.architecture import Architecture, multiply_adds
from mobilenetv2.architecture import parameters as count
from mobilenetv2.networks.complexity import trace
from mobilenetv2.networks.mobilenet_v1 import MobileNetV1

# TF-Slim: millions of multiply-adds at 224, 192, 160 and 128, and parameters with batch norm.
ROWS = [
    (1.0, (568.7, 418.1, 290.7, 186.4), 4_231_976),
    (0.75, (325.4, 239.3, 166.4, 106.8), 2_585_560),
    (0.5, (149.5, 110.0, 76.5, 49.2), 1_331_592),
    (0.25, (41.0, 30.2, 21.1, 13.6), 470_072),
]


@pytest.mark.parametrize(("width", "madds_m", "parameters"), ROWS)
@pytest.mark.parametrize("numerics", ["torch", "tf"])
def test_the_sixteen_rows(width: float, madds_m: tuple[float, ...], parameters: int, numerics: str) -> None:
    architecture = Architecture(name="mobilenet_v1", width=width, numerics=numerics)
    with torch.device("meta"):
        network = MobileNetV1(architecture)
    counted = [trace(network, (side, side)) for side in (224, 192, 160, 128)]
    assert tuple(round(complexity.madds / 1e6, 1) for complexity in counted) == madds_m
    assert counted[0].parameters == count(architecture) == parameters
    planned = [multiply_adds(architecture, (side, side)) for side in (224, 192, 160, 128)]
    assert planned == [complexity.madds for complexity in counted]


def test_the_taps_are_where_the_strides_are() -> None:
    network = MobileNetV1(Architecture(name="mobilenet_v1", width=0.25)).eval()
    taps = network.taps(torch.zeros(1, 3, 97, 64))
    assert taps.stride_16.shape == (1, 128, 7, 4)
    assert taps.last.shape == (1, 256, 4, 2)


@pytest.mark.parametrize(("output_stride", "size"), [(32, 2), (16, 4), (8, 8)])
def test_strides_become_dilation(output_stride: int, size: int) -> None:
    network = MobileNetV1(Architecture(name="mobilenet_v1", width=0.25, output_stride=output_stride)).eval()
    assert network.taps(torch.zeros(1, 3, 64, 64)).last.shape[2:] == (size, size)
    dilations = [network.get_submodule(f"blocks.{index}.filter.conv").dilation[0] for index in range(13)]  # type: ignore
    # The block that loses its stride keeps the old rate.
    expected = {32: [1] * 13, 16: [1] * 12 + [2], 8: [1] * 6 + [2] * 6 + [4]}
    assert dilations == expected[output_stride]
