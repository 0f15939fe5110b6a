"""The plan of SSD and SSDLite: the published counts, and the torch network's own names and shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mobilenetv2.anchors import AnchorSizes, anchor_grid, tf_anchor_sizes
from mobilenetv2.detector import (
    BackboneName,
    Detector,
    detector_multiply_adds,
    detector_parameters,
    detector_shapes,
    extra_channels,
    map_channels,
)
from mobilenetv2.errors import UserError
from mobilenetv2.networks.complexity import trace
from mobilenetv2.networks.ssd import SSD, build_detector

# One to six anchors a cell, as `--anchors fit` may leave them.
UNEVEN: AnchorSizes = tuple(((0.1, 0.2),) * count for count in (1, 2, 3, 4, 5, 6))


def on_meta(detector: Detector) -> SSD:
    with torch.device("meta"):
        return build_detector(detector)


@pytest.mark.parametrize(
    ("options", "plain", "with_norms", "madds"),
    [
        ({}, 4_286_261, 4_337_013, 788_830_144),
        ({"backbone": "mobilenet_v1"}, 5_063_413, 5_100_661, 1_309_162_944),
        ({"name": "ssd"}, 16_962_933, 17_000_501, 1_870_281_472),
    ],
    ids=["ssdlite-v2", "ssdlite-v1", "ssd-v2"],
)
def test_the_published_counts(options: dict[str, Any], plain: int, with_norms: int, madds: int) -> None:
    detector = Detector(**options)
    assert detector_parameters(detector, batch_norm=False) == plain
    assert detector_parameters(detector) == with_norms
    assert detector_multiply_adds(detector, (320, 320)) == madds


@pytest.mark.parametrize("anchors", [tf_anchor_sizes(), UNEVEN], ids=["tf", "uneven"])
@pytest.mark.parametrize("width", [0.05, 0.35, 1.0, 1.4])
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "mobilenet_v1"])
@pytest.mark.parametrize("name", ["ssdlite", "ssd"])
def test_shapes_and_counts_are_those_of_the_torch_network(
    name: Any, backbone: BackboneName, width: float, anchors: AnchorSizes
) -> None:
    detector = Detector(name=name, backbone=backbone, width=width, num_classes=3, anchors=anchors)
    network = on_meta(detector)
    theirs = [
        (name, tuple(tensor.shape))
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    ]
    assert theirs == [tuple(row) for row in detector_shapes(detector)]
    assert detector_parameters(detector) == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("size_hw", [(320, 320), (97, 161)])
@pytest.mark.parametrize("name", ["ssdlite", "ssd"])
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "mobilenet_v1"])
def test_multiply_adds_and_anchors_at_any_size(name: Any, backbone: BackboneName, size_hw: tuple[int, int]) -> None:
    detector = Detector(name=name, backbone=backbone, width=0.35, num_classes=2, anchors=UNEVEN)
    network = on_meta(detector).eval()
    assert detector_multiply_adds(detector, size_hw) == trace(network, size_hw).madds
    output = network(torch.empty(1, 3, *size_hw, device="meta"))
    assert output.class_logits.shape == (1, len(anchor_grid(size_hw, UNEVEN)), 3)


def test_channels_at_other_widths() -> None:
    assert map_channels(Detector()) == (576, 1280, 512, 256, 256, 128)
    assert map_channels(Detector(backbone="mobilenet_v1")) == (512, 1024, 512, 256, 256, 128)
    assert map_channels(Detector(width=0.35)) == (192, 1280, 179, 89, 89, 44)
    assert extra_channels(0.05) == (25, 16, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "yolo"}, "detector 'yolo' is not known"),
        ({"backbone": "mobilnet_v2"}, "did you mean 'mobilenet_v2'"),
        ({"backbone": 3}, "backbone 3 is not known"),
        ({"width": 0}, "width 0"),
        ({"width": float("nan")}, "width nan"),
        ({"num_classes": 0}, "number of classes 0"),
        ({"num_classes": 100_001}, "give 1 to 100000"),
        ({"numerics": "torhc"}, "did you mean 'torch'"),
        *(
            ({"anchors": anchors}, "anchors must be pairs")
            for anchors in (
                None,
                7,
                (),
                UNEVEN[:5],
                (*UNEVEN[:5], ()),
                (*UNEVEN[:5], None),
                (*UNEVEN[:5], "ab"),
                (*UNEVEN[:5], ("ab",)),
                (*UNEVEN[:5], (("a", "b"),)),
                (*UNEVEN[:5], (None,)),
                (*UNEVEN[:5], (0.1, 0.2)),
                (*UNEVEN[:5], ((0.1, 0.2, 0.3),)),
                (*UNEVEN[:5], ((0.1, None),)),
                (*UNEVEN[:5], ((0.1, 0),)),
                (*UNEVEN[:5], ((float("nan"), 0.1),)),
                (*UNEVEN[:5], ((0.1, float("nan")),)),
                (*UNEVEN[:5], ((0.1, float("inf")),)),
                (*UNEVEN[:5], ((0.1, 10.1),)),
            )
        ),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Detector(**options)
    assert "\n" not in str(caught.value)
