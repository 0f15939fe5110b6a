"""With torchvision's weights under our names, our outputs are torchvision's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peers import SIZES_HW, matched, ours, pictures, randomize, relative_difference
from torch import nn
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

from mobilenetv2.architecture import Architecture, parameter_shapes
from mobilenetv2.errors import ModelFileError
from mobilenetv2.preprocessing import plan_geometry
from mobilenetv2.weights.checkpoint import as_array
from mobilenetv2.weights.sources import SOURCES
from mobilenetv2.weights.states import match_state


@pytest.fixture(scope="module", params=[1.0, 0.75, 0.5, 0.35, 1.4])
def peer(request: pytest.FixtureRequest) -> tuple[float, nn.Module]:
    return request.param, randomize(mobilenet_v2(weights=None, width_mult=request.param), seed=1)


@pytest.mark.parametrize("size_hw", SIZES_HW, ids=str)
def test_outputs_are_equal(peer: tuple[float, nn.Module], size_hw: tuple[int, int]) -> None:
    width, theirs = peer
    found = matched(theirs)
    assert found.architecture == Architecture(width=width)
    network = ours(found.architecture, found.tensors)
    images = pictures(size_hw)
    with torch.inference_mode():
        assert relative_difference(network(images), theirs(images)) <= 1e-5


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    small = mobilenet_v2(weights=None, width_mult=0.35, num_classes=3)
    return dict(small.state_dict())


SMALL = Architecture(width=0.35, num_classes=3)


def arrays(state: dict[str, Any]) -> dict[str, Any]:
    return {name: as_array(tensor) for name, tensor in state.items()}


def test_the_tensors_are_copies_in_the_order_of_computation(state: dict[str, Any]) -> None:
    found = match_state(arrays(state), source="net.pth")
    assert (found.layout.title, found.architecture) == ("torchvision", SMALL)
    assert list(found.tensors) == [name for name, _ in parameter_shapes(SMALL)]
    assert not np.shares_memory(found.tensors["stem.conv.weight"], state["features.0.0.weight"].numpy())


def test_half_precision_and_trained_parameters_are_read() -> None:
    small = mobilenet_v2(weights=None, width_mult=0.35, num_classes=3).bfloat16()
    live = dict(small.named_parameters()) | dict(small.named_buffers())
    tensors = match_state(arrays(live), source="net.pth").tensors
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("features.3.conv.1.1.running_var"), "no tensor 'features.3.conv.1.1.running_var'"),
        (lambda s: s.pop("classifier.1.weight"), "without its classifier"),
        (lambda s: s.update(extra=torch.zeros(1)), "tensor 'extra' more than the network"),
        (lambda s: s.update({"classifier.1.weight": torch.zeros(4, 1000)}), r"\(4, 1000\).*needs \(4, 1280\)"),
        (lambda s: s.update({"classifier.1.weight": torch.zeros(4)}), "shape"),
        (lambda s: s.update({"features.0.0.weight": torch.zeros(15, 3, 3, 3)}), "no known width and rounding rule"),
        (lambda s: s["features.1.conv.0.0.weight"].fill_(float("nan")), "finite"),
        (lambda s: s["features.18.1.running_var"].fill_(-1.0), "negative variances"),
        (lambda s: s.update({"classifier.1.bias": torch.zeros(3, dtype=torch.int64)}), "floating point"),
        (lambda s: s.clear(), "of no library that is known"),
    ],
)
def test_what_does_not_fit_is_named(state: dict[str, Any], change: Any, words: str) -> None:
    changed = {name: tensor.clone() for name, tensor in state.items()}
    change(changed)
    with pytest.raises(ModelFileError, match=words) as caught:
        match_state(arrays(changed), source="net.pth")
    assert str(caught.value).startswith("net.pth: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("torchvision-v1", MobileNet_V2_Weights.IMAGENET1K_V1),
        ("torchvision-v2", MobileNet_V2_Weights.IMAGENET1K_V2),
    ],
)
def test_the_table_says_what_torchvision_says(name: str, weights: Any) -> None:
    source, presets = SOURCES[name], weights.transforms()
    assert source.place == weights.url
    metrics = weights.meta["_metrics"]["ImageNet-1K"]
    assert (source.top1 * 100, source.top5 * 100) == pytest.approx((metrics["acc@1"], metrics["acc@5"]))
    assert source.parameters == weights.meta["num_params"]
    assert source.size_mb == round(weights.meta["_file_size"] * 2**20 / 1e6, 1)
    assert list(source.preprocessing.size_hw) == presets.crop_size * 2
    # A square picture is resized to the side itself.
    assert [plan_geometry((900, 900), source.preprocessing).resized_hw[0]] == presets.resize_size
    assert source.preprocessing.interpolation == presets.interpolation.value
    assert (list(source.preprocessing.mean_rgb), list(source.preprocessing.std_rgb)) == (presets.mean, presets.std)
