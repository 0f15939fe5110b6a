"""The plan of DeepLabv3: Table 7's counts without torch, and the torch network's own names and shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mobilenetv2.architecture import Architecture
from mobilenetv2.detector import Detector
from mobilenetv2.errors import ModelFileError, UserError
from mobilenetv2.modelfile import Card, tensor_shapes
from mobilenetv2.networks.complexity import trace
from mobilenetv2.networks.deeplab_v3 import DeepLabv3, build_segmenter
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.segmenter import (
    BackboneName,
    Segmenter,
    segmenter_multiply_adds,
    segmenter_parameters,
    segmenter_shapes,
    size_at_stride,
)

SIZE = Preprocessing(size_hw=(33, 49))


def on_meta(segmenter: Segmenter) -> DeepLabv3:
    with torch.device("meta"):
        return build_segmenter(segmenter)


@pytest.mark.parametrize(
    ("options", "plain", "with_norms"),
    [
        ({"backbone": "mobilenet_v1", "aspp": True}, 11_120_341, 11_145_301),
        ({"aspp": True}, 4_488_917, 4_523_541),
        ({}, 2_080_469, 2_113_557),
    ],
    ids=["v1-aspp", "v2-aspp", "v2"],
)
@pytest.mark.parametrize("output_stride", [16, 8])
def test_parameters_of_table_7(options: dict[str, Any], plain: int, with_norms: int, output_stride: int) -> None:
    segmenter = Segmenter(output_stride=output_stride, **options)
    assert segmenter_parameters(segmenter, batch_norm=False) == plain
    assert segmenter_parameters(segmenter) == with_norms


def test_the_decoder_costs_little() -> None:
    plain, light = (Segmenter(num_classes=11, decoder=decoder) for decoder in ("none", "light"))
    assert segmenter_parameters(light) - segmenter_parameters(plain) == 46_432
    at = {one.decoder: segmenter_multiply_adds(one, (369, 481)) for one in (plain, light)}
    assert at == {"none": 1_866_332_640, "light": 2_147_192_640}


@pytest.mark.parametrize("decoder", ["none", "light"])
@pytest.mark.parametrize("aspp", [False, True])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("width", [0.05, 1.0, 1.4])
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "mobilenet_v1"])
def test_shapes_and_counts_are_those_of_the_torch_network(
    backbone: BackboneName, width: float, output_stride: int, aspp: bool, decoder: Any
) -> None:
    segmenter = Segmenter(
        backbone=backbone, width=width, num_classes=3, output_stride=output_stride, aspp=aspp, decoder=decoder
    )
    network = on_meta(segmenter).eval()
    theirs = [
        (name, tuple(tensor.shape))
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    ]
    assert [(name, tuple(shape)) for name, shape in segmenter_shapes(segmenter)] == theirs
    assert segmenter_parameters(segmenter) == sum(parameter.numel() for parameter in network.parameters())
    size_hw = (65, 98)
    assert segmenter_multiply_adds(segmenter, size_hw) == trace(network, size_hw).madds
    with torch.no_grad():
        logits = network(torch.empty(2, 3, *size_hw, device="meta"))
    assert logits.shape == (2, 3, *size_at_stride(size_hw, segmenter.logits_stride))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "unet"}, "segmenter 'unet' is not known"),
        ({"backbone": "mobilenet_v3"}, "backbone 'mobilenet_v3' is not known .did you mean 'mobilenet_v"),
        ({"width": 0}, "width 0 is out of range"),
        ({"output_stride": 4}, "output stride 4 is not possible"),
        ({"numerics": "theano"}, "numerics profile 'theano' is not known"),
        ({"numerics": "keras"}, "numerics 'keras' are of classifiers alone"),
        ({"rounding": "up"}, "rounding 'up' is not known"),
        ({"dilation": "up"}, "dilation 'up' is not known"),
        ({"num_classes": 0}, "number of classes 0 is out of range; give 1 to 255"),
        ({"num_classes": 256}, "number of classes 256 is out of range; give 1 to 255"),
        ({"decoder": "heavy"}, "decoder 'heavy' is not known"),
        ({"aspp": 1}, "aspp 1 is not possible"),
    ],
)
def test_what_is_not_possible(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Segmenter(**options)


def test_a_card_goes_to_json_and_back() -> None:
    card = Card(
        name="s",
        task="segment",
        architecture=Segmenter(num_classes=2, decoder="light", aspp=True, output_stride=8),
        labels=("ground", "thing"),
        preprocessing=SIZE,
    )
    again = Card.from_json(card.to_json(), source="here")
    assert again == card
    assert again.segmenter == card.architecture
    assert len(tensor_shapes(card.architecture)) == len(segmenter_shapes(card.segmenter))
    for wrong in ("classifier", "detection"):
        with pytest.raises(UserError, match="model 's' is for task 'segment'"):
            getattr(card, wrong)


def test_cards_that_do_not_fit_together() -> None:
    good: dict[str, Any] = {"name": "s", "labels": ("a",), "preprocessing": SIZE}
    for architecture in (Architecture(num_classes=1), Detector(num_classes=1)):
        with pytest.raises(UserError, match="task 'segment' cannot have"):
            Card(task="segment", architecture=architecture, **good)
    with pytest.raises(UserError, match="task 'classify' cannot have 'deeplab_v3'"):
        Card(task="classify", architecture=Segmenter(num_classes=1), **good)
    crop = Preprocessing(size_hw=(32, 32), resize="crop")
    with pytest.raises(UserError, match="resize 'crop' is not possible for task 'segment'"):
        Card(task="segment", architecture=Segmenter(num_classes=1), **{**good, "preprocessing": crop})
    with pytest.raises(UserError, match="1 labels, but the network has 2 outputs"):
        Card(task="segment", architecture=Segmenter(num_classes=2), **good)
    text = Card(task="segment", architecture=Segmenter(num_classes=1), **good).to_json()
    with pytest.raises(ModelFileError, match=r"Segmenter has no 'decodr' .did you mean 'decoder'"):
        Card.from_json(text.replace('"decoder"', '"decodr"'), source="here")
