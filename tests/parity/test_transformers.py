"""With the weights of transformers under our names, our outputs are its: MobileNetV1, V2, and DeepLabv3 on V2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peers import matched, ours, pictures, randomize, relative_difference
from torch import nn

from mobilenetv2.architecture import Architecture
from mobilenetv2.segmenter import Segmenter

transformers: Any = pytest.importorskip("transformers")

SIZES_HW = ((97, 97), (160, 192))


class Logits(nn.Module):
    """A model's logits as a plain tensor, and its parts under their own names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x).logits
        return logits


@pytest.mark.parametrize("size_hw", SIZES_HW, ids=str)
@pytest.mark.parametrize("width", [0.35, 0.75, 1.0, 1.4])
def test_mobilenet_v2(width: float, size_hw: tuple[int, int]) -> None:
    config = transformers.MobileNetV2Config(depth_multiplier=width, num_labels=11)
    theirs = randomize(Logits(transformers.MobileNetV2ForImageClassification(config)), seed=1)
    found = matched(theirs)
    assert found.layout.title == "transformers"
    assert found.architecture == Architecture(width=width, num_classes=11, numerics="tf")
    with torch.inference_mode():
        images = pictures(size_hw)
        assert relative_difference(ours(found.architecture, found.tensors)(images), theirs(images)) <= 1e-5


@pytest.mark.parametrize("size_hw", SIZES_HW, ids=str)
@pytest.mark.parametrize("width", [0.25, 0.75, 1.0])
def test_mobilenet_v1(width: float, size_hw: tuple[int, int]) -> None:
    config = transformers.MobileNetV1Config(depth_multiplier=width, num_labels=11)
    theirs = randomize(Logits(transformers.MobileNetV1ForImageClassification(config)), seed=1)
    found = matched(theirs)
    assert found.architecture == Architecture(name="mobilenet_v1", width=width, num_classes=11, numerics="tf")
    with torch.inference_mode():
        images = pictures(size_hw)
        assert relative_difference(ours(found.architecture, found.tensors)(images), theirs(images)) <= 1e-5


@pytest.mark.parametrize("output_stride", [8, 16])
def test_deeplab_v3(output_stride: int) -> None:
    config = transformers.MobileNetV2Config(depth_multiplier=0.5, num_labels=21, output_stride=output_stride)
    theirs = randomize(Logits(transformers.MobileNetV2ForSemanticSegmentation(config)), seed=1)
    found = matched(theirs, output_stride=output_stride)
    assert found.architecture == Segmenter(width=0.5, num_classes=21, numerics="tf", output_stride=output_stride)
    with torch.inference_mode():
        images = pictures((97, 129))
        assert relative_difference(ours(found.architecture, found.tensors)(images), theirs(images)) <= 1e-5
