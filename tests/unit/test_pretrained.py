"""Pretrained weights under our names: what a classifier or a detector takes of what it starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import RandomDetector, RandomModel
from mobilenetv2.architecture import Architecture, parameter_shapes, trunk_shapes
from mobilenetv2.errors import UserError
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.weights.layouts import LAYOUTS
from mobilenetv2.weights.pretrained import pretrained, pretrained_trunk
from mobilenetv2.weights.sources import SOURCES


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    """timm's names at width .5, as a file."""
    architecture = SOURCES["timm-mobilenetv2_050"].architecture
    layers = next(layout for layout in LAYOUTS if layout.title == "timm").layers(architecture)
    generator = np.random.default_rng(0)
    state = {}
    for name, shape in parameter_shapes(architecture):
        layer, _, part = name.rpartition(".")
        if layer != "classifier":
            layer, _, kind = layer.rpartition(".")
            layer = layers[layer].norm if kind == "norm" else layers[layer].convolution
        state[f"{layer}.{part}"] = generator.random(shape, np.float32)
    save_file(state, tmp_path / "own.safetensors")
    return tmp_path / "own.safetensors"


@pytest.mark.parametrize(("num_classes", "has_head"), [(None, True), (1000, True), (10, False)])
def test_the_classifier_comes_only_where_it_fits(own_file: Path, num_classes: int | None, has_head: bool) -> None:
    tensors, architecture, preprocessing = pretrained("timm-mobilenetv2_050", num_classes=num_classes, file=own_file)
    assert architecture == Architecture(width=0.5, num_classes=num_classes or 1000)
    assert preprocessing == SOURCES["timm-mobilenetv2_050"].preprocessing
    assert ("classifier.weight" in tensors) == ("classifier.bias" in tensors) == has_head
    expected = [name for name, _ in parameter_shapes(architecture) if has_head or not name.startswith("classifier")]
    assert list(tensors) == expected
    assert all(tensor.flags.writeable for tensor in tensors.values())


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "mobilenet_v1"])
def test_any_model_file_has_a_trunk(
    tmp_path: Path, random_model: RandomModel, random_detector: RandomDetector, backbone: str
) -> None:
    path = str(tmp_path / "m.safetensors")
    options: dict[str, Any] = {"preprocessing": Preprocessing(size_hw=(32, 32)), "width": 0.35, "numerics": "tf"}
    for model, prefix in (
        (random_model(name=backbone, **options), ""),
        (random_detector(backbone=backbone, **options), "backbone."),
    ):
        model.save(Path(path))
        tensors, architecture, preprocessing = pretrained_trunk(path)
        assert (architecture.name, architecture.width, architecture.numerics) == (backbone, 0.35, "tf")
        assert [(name, tensor.shape) for name, tensor in tensors.items()] == trunk_shapes(architecture)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, model.tensors[prefix + name])
        assert preprocessing == model.card.preprocessing


def test_published_weights_have_a_trunk(own_file: Path) -> None:
    tensors, architecture, _ = pretrained_trunk("timm-mobilenetv2_050", file=own_file)
    assert [(name, tensor.shape) for name, tensor in tensors.items()] == trunk_shapes(architecture)


def test_a_classifier_can_start_from_a_detector(tmp_path: Path, random_detector: RandomDetector) -> None:
    preprocessing = Preprocessing(size_hw=(32, 32))
    path = tmp_path / "m.safetensors"
    random_detector(preprocessing=preprocessing, width=0.35).save(path)
    tensors, architecture, _ = pretrained(str(path), num_classes=3, labels=("class 0", "class 1", "class 2"))
    assert architecture == Architecture(width=0.35, num_classes=3)
    assert [(name, tensor.shape) for name, tensor in tensors.items()] == trunk_shapes(architecture)
    random_detector(preprocessing=preprocessing, backbone="mobilenet_v1").save(path)
    with pytest.raises(UserError, match="are of mobilenet_v1; a classifier needs mobilenet_v2's"):
        pretrained(str(path), num_classes=3)
