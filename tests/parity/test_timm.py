"""With timm's weights under our names, our outputs are timm's."""

from __future__ import annotations

import pytest
import timm
import torch
from peers import SIZES_HW, matched, ours, pictures, randomize, relative_difference
from torch import nn

from mobilenetv2.architecture import Architecture
from mobilenetv2.weights.sources import SOURCES

PUBLISHED = {
    "timm-mobilenetv2_050": "mobilenetv2_050.lamb_in1k",
    "timm-mobilenetv2_100": "mobilenetv2_100.ra_in1k",
    "timm-mobilenetv2_110d": "mobilenetv2_110d.ra_in1k",
    "timm-mobilenetv2_120d": "mobilenetv2_120d.ra_in1k",
    "timm-mobilenetv2_140": "mobilenetv2_140.ra_in1k",
}


def test_every_one_that_timm_publishes_is_in_the_table() -> None:
    assert sorted(timm.list_pretrained("mobilenetv2*")) == sorted(PUBLISHED.values())
    assert {name for name in SOURCES if name.startswith("timm")} == set(PUBLISHED)


@pytest.fixture(scope="module", params=list(PUBLISHED))
def peer(request: pytest.FixtureRequest) -> tuple[Architecture, nn.Module]:
    source = SOURCES[request.param]
    theirs = timm.create_model(request.param.removeprefix("timm-"), pretrained=False)
    assert source.parameters == sum(parameter.numel() for parameter in theirs.parameters())
    return source.architecture, randomize(theirs, seed=2)


@pytest.mark.parametrize("size_hw", SIZES_HW, ids=str)
def test_outputs_are_equal(peer: tuple[Architecture, nn.Module], size_hw: tuple[int, int]) -> None:
    architecture, theirs = peer
    found = matched(theirs)
    assert (found.layout.title, found.architecture) == ("timm", architecture)
    network = ours(found.architecture, found.tensors)
    images = pictures(size_hw)
    with torch.inference_mode():
        assert relative_difference(network(images), theirs(images)) <= 1e-5


def test_output_stride_16_is_timms_too() -> None:
    theirs = randomize(timm.create_model("mobilenetv2_050", pretrained=False, output_stride=16), seed=3)
    found = matched(theirs, output_stride=16)
    assert found.architecture == Architecture(width=0.5, output_stride=16)
    network = ours(found.architecture, found.tensors)
    images = pictures((96, 128))
    with torch.inference_mode():
        assert relative_difference(network(images), theirs(images)) <= 1e-5


@pytest.mark.parametrize(("name", "tag"), PUBLISHED.items())
def test_the_table_says_what_timm_says(name: str, tag: str) -> None:
    source, published = SOURCES[name], timm.get_pretrained_cfg(tag)
    assert published is not None
    preprocessing = source.preprocessing
    assert (3, *preprocessing.size_hw) == published.input_size
    assert (preprocessing.crop_fraction, preprocessing.interpolation) == (published.crop_pct, published.interpolation)
    assert (preprocessing.mean_rgb, preprocessing.std_rgb) == (published.mean, published.std)
    assert source.architecture.num_classes == published.num_classes
    assert source.place == published.url or f"/{published.hf_hub_id}/" in source.origin


@pytest.mark.parametrize(("name", "width"), [("mobilenetv1_100", 1.0), ("mobilenetv1_125", 1.25)])
@pytest.mark.parametrize("size_hw", [(97, 97), (160, 192)], ids=str)
def test_mobilenet_v1_too(name: str, width: float, size_hw: tuple[int, int]) -> None:
    theirs = randomize(timm.create_model(name, pretrained=False, num_classes=7), seed=4)
    found = matched(theirs)
    assert found.architecture == Architecture(name="mobilenet_v1", width=width, num_classes=7)
    images = pictures(size_hw)
    with torch.inference_mode():
        assert relative_difference(ours(found.architecture, found.tensors)(images), theirs(images)) <= 1e-5
