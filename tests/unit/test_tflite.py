"""TFLite files of every kind, read back: layers, wiring, ranges, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conftest import RandomModel
from mobilenetv2.architecture import Architecture, trunk
from mobilenetv2.errors import ModelFileError
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.graph_network import fold_batch_norm
from mobilenetv2.weights.match import match_graph
from mobilenetv2.weights.tflite import INPUT, read_tflite
from tflite_files import tflite_file

SMALL = Preprocessing(size_hw=(64, 64))


def found(content: bytes) -> Any:
    return match_graph(read_tflite(content, source="m.tflite"), source="m.tflite")


def as_model(model: ModelFile, content: bytes) -> ModelFile:
    answer = found(content)
    assert answer.architecture == model.card.architecture
    return ModelFile(card=model.card, tensors=answer.tensors)


def assert_same_layers(model: ModelFile, content: bytes, tolerance: float) -> None:
    """Kernels and biases, batch norm folded in, in shares of the largest number of each."""
    theirs = as_model(model, content)
    for plan in trunk(model.card.classifier):
        for ours, read in zip(fold_batch_norm(model, plan), fold_batch_norm(theirs, plan), strict=True):
            np.testing.assert_allclose(read, ours, atol=tolerance * np.abs(ours).max())
    for name in ("classifier.weight", "classifier.bias"):
        np.testing.assert_allclose(
            theirs.tensors[name], model.tensors[name], atol=tolerance * np.abs(model.tensors[name]).max()
        )


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v1"])
@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 1e-6), ("float16", 1e-3), ("uint8", 0.01), ("int8", 0.01)])
def test_kernels_come_back_from_every_kind(random_model: RandomModel, name: str, kind: str, tolerance: float) -> None:
    model = random_model(preprocessing=SMALL, name=name, numerics="tf")
    assert_same_layers(model, tflite_file(model, kind), tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {"width": 1.4, "num_classes": 1001},
        {"width": 0.5, "rounding": "int"},
        {"width": 0.75, "rounding": "ceil8"},
        {"output_stride": 16},
        {"output_stride": 8, "name": "mobilenet_v1"},
        {"expands_first": True},
        {"numerics": "torch"},
        {"numerics": "keras", "name": "mobilenet_v1", "width": 0.25},
        {"name": "mobilenet_v1", "width": 0.125},
    ],
    ids=str,
)
def test_networks_are_told_apart(random_model: RandomModel, options: dict[str, Any]) -> None:
    # At even sides symmetric padding differs from TensorFlow's, at odd ones Keras' does.
    side = 96 if options.get("numerics") == "torch" else 97
    model = random_model(preprocessing=Preprocessing(size_hw=(side, side)), **{"numerics": "tf", **options})
    assert_same_layers(model, tflite_file(model), 1e-6)


def test_dense_layers_and_means_are_as_good(random_model: RandomModel) -> None:
    model = random_model(preprocessing=SMALL, numerics="tf")
    assert_same_layers(model, tflite_file(model, dense=True, mean=True), 1e-6)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_levels_and_ranges_are_known(random_model: RandomModel, kind: str) -> None:
    model = random_model(preprocessing=SMALL, numerics="tf")
    graph = read_tflite(tflite_file(model, kind), source="m")
    assert graph.quantized
    assert graph.mean_std == pytest.approx((0.5, 0.5), abs=0.003)
    ranges = found(tflite_file(model, kind)).ranges
    assert ranges["images"] == pytest.approx((-1, 1), abs=0.01)
    assert ranges["stem"] == pytest.approx((0, 6), abs=0.03)
    assert ranges["stages.1.blocks.1.project"] == pytest.approx((-20, 20), abs=0.2)
    assert ranges["stages.1.blocks.1.project.add"] == pytest.approx((-40, 40), abs=0.4)
    assert ranges["last.pool"] == pytest.approx((0, 6), abs=0.03)
    shortcuts = sum(plan.shortcut is not None for plan in trunk(model.card.classifier))
    assert len(ranges) == len(trunk(model.card.classifier)) + shortcuts + 3  # images, pool, classifier
    assert not found(tflite_file(model)).ranges


def test_layers_say_what_they_read(random_model: RandomModel) -> None:
    model = random_model(preprocessing=SMALL, numerics="tf")
    layers = read_tflite(tflite_file(model), source="m").layers
    assert layers[0].origins == (INPUT,)
    assert [layer.origins for layer in layers[1:]] == [(at,) for at in range(len(layers) - 1)]
    assert [layer.pooled for layer in layers] == [False] * (len(layers) - 1) + [True]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c[:4], "damaged, or cut off"),
        (lambda c: c[: len(c) // 2], "damaged, or cut off"),
        (lambda c: c[:8] + bytes(len(c) - 8), "m.tflite"),
        (lambda c: c[:8] + b"\xff" * (len(c) - 8), "m.tflite"),
    ],
)
def test_damage_is_one_line(random_model: RandomModel, change: Any, words: str) -> None:
    content = tflite_file(random_model(preprocessing=SMALL, numerics="tf"))
    with pytest.raises(ModelFileError, match=words) as caught:
        found(change(content))
    assert "\n" not in str(caught.value)


def test_nan_weights_are_refused(random_model: RandomModel) -> None:
    model = random_model(preprocessing=SMALL, numerics="tf")
    bias = np.float32(model.tensors["classifier.bias"][3]).tobytes()
    content = tflite_file(model)
    assert content.count(bias) == 1
    with pytest.raises(ModelFileError, match="not finite"):
        found(content.replace(bias, np.float32(np.nan).tobytes()))


def test_another_width_is_named(random_model: RandomModel) -> None:
    model = random_model(preprocessing=SMALL, numerics="tf", width=0.62)
    with pytest.raises(ModelFileError, match=r"mobilenet_v2 of no known width .* of its 53 layers \d+ fit the nearest"):
        found(tflite_file(model))


def test_a_network_without_its_shortcuts_is_refused(random_model: RandomModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def straight(architecture: Architecture) -> Any:
        return [plan._replace(shortcut=None) for plan in trunk(architecture)]

    model = random_model(preprocessing=SMALL, numerics="tf")
    monkeypatch.setattr("tflite_files.trunk", straight)
    content = tflite_file(model)
    with pytest.raises(ModelFileError, match="has shortcut None, the network"):
        found(content)
