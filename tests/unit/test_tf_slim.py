"""TF-Slim's names, axes and averages, brought to a state; whole networks go on to the tensors of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import RandomModel, RandomSegmenter
from mobilenetv2.errors import ModelFileError
from mobilenetv2.modelfile import Tensors
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.weights.states import match_state
from mobilenetv2.weights.tf_checkpoint import read_tf_checkpoint
from mobilenetv2.weights.tf_slim import slim_state
from tf_checkpoint_files import TINY_DATA, TINY_INDEX, unpacked

SMALL = Preprocessing(size_hw=(64, 64))
AVERAGE = "/ExponentialMovingAverage"
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
# Blocks in a stage of MobileNetV2.
REPEATS = (1, 2, 3, 4, 3, 3, 1)

Variables = dict[str, NDArray[Any]]


def numbers(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_a_checkpoint_of_tensorflow_becomes_a_state() -> None:
    variables = read_tf_checkpoint(unpacked(TINY_INDEX), lambda ending: unpacked(TINY_DATA), source="m.index")
    layer = "MobilenetV1/Conv2d_1_depthwise"
    state = slim_state({name: variables[name] for name in variables if "/" in name}, source="m.index")
    assert sorted(state) == [
        f"{layer}.weight",
        *(f"{layer}/BatchNorm.{part}" for part in ("bias", "running_mean", "running_var", "weight")),
    ]
    averaged = np.arange(18).reshape(3, 3, 2) / 8 + 0.875
    np.testing.assert_array_equal(state[f"{layer}.weight"], averaged.transpose(2, 0, 1)[:, np.newaxis])
    np.testing.assert_array_equal(state[f"{layer}/BatchNorm.bias"], [1.875, 2])
    np.testing.assert_array_equal(state[f"{layer}/BatchNorm.running_var"], [4, 4.125])
    np.testing.assert_array_equal(state[f"{layer}/BatchNorm.weight"], [1, 1])  # trained without


def test_kernels_turn_to_torchs_axes() -> None:
    dense, kernel, depthwise = numbers(5, 7), numbers(3, 2, 4, 6), numbers(3, 2, 4, 2)
    state = slim_state(
        {"fc/weights": dense, "a/b/weights": kernel, "d/depthwise_weights": depthwise, "fc/biases": dense[0]},
        source="m",
    )
    assert sorted(state) == ["a/b.weight", "d.weight", "fc.bias", "fc.weight"]
    np.testing.assert_array_equal(state["fc.weight"], dense.T)
    assert state["a/b.weight"].shape == (6, 4, 3, 2)
    assert state["a/b.weight"][5, 3, 2, 1] == kernel[2, 1, 3, 5]
    assert state["d.weight"].shape == (8, 1, 3, 2)
    assert state["d.weight"][2 * 3 + 1, 0, 2, 1] == depthwise[2, 1, 3, 1]


def test_averages_are_preferred_wherever_they_are() -> None:
    raw, average, alone = numbers(2), numbers(2) + 1, numbers(3)
    state = slim_state({f"a/biases{AVERAGE}": average, "a/biases": raw, f"b/biases{AVERAGE}": alone}, source="m")
    assert sorted(state) == ["a.bias", "b.bias"]
    np.testing.assert_array_equal(state["a.bias"], average)
    np.testing.assert_array_equal(state["b.bias"], alone)


@pytest.mark.parametrize(
    "name",
    [
        *(f"a/weights/{slot}" for slot in ("Momentum", "RMSProp", "RMSProp_1", "Adam", "Adam_1", "Adagrad", "Ftrl_1")),
        *("global_step", "train/global_step", "beta1_power", "beta2_power", "optimizer/beta1_power"),
    ],
)
def test_what_a_training_needs_is_left_out(name: str) -> None:
    kernel = numbers(1, 1, 2, 2)
    assert list(slim_state({"a/weights": kernel, name: kernel}, source="m")) == ["a.weight"]


def test_unknown_names_stay() -> None:
    assert list(slim_state({"a/kernel": numbers(1), "Adam/b/biases": numbers(1)}, source="m")) == [
        "a/kernel",
        "Adam/b.bias",
    ]


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(ModelFileError, match=r"^m: 'a/weights' has shape \(3,\); a kernel has height"):
        slim_state({"a/weights": numbers(3)}, source="m")
    with pytest.raises(ModelFileError, match=r"^m: 'a/depthwise_weights' has shape \(3, 3\)"):
        slim_state({"a/depthwise_weights": numbers(3, 3)}, source="m")


def test_networks_trained_for_8_bits_are_refused() -> None:
    name = "MobilenetV1/Conv2d_0/weights_quant/min"
    with pytest.raises(ModelFileError, match=rf"trained for 8 bits \('{name}'\); take the \.tflite file"):
        slim_state({name: numbers(1)}, source="m")


def layers_v2(prefix: str = "") -> dict[str, str]:
    """Our layer -> TF-Slim's."""
    names, number = {f"{prefix}stem": "MobilenetV2/Conv"}, 0
    for stage, repeats in enumerate(REPEATS):
        for block in range(repeats):
            base = f"MobilenetV2/expanded_conv_{number}" if number else "MobilenetV2/expanded_conv"
            for ours, theirs in {"expand": "expand", "filter": "depthwise", "project": "project"}.items():
                names[f"{prefix}stages.{stage}.blocks.{block}.{ours}"] = f"{base}/{theirs}"
            number += 1
    return names


def layers_v1() -> dict[str, str]:
    names = {"stem": "MobilenetV1/Conv2d_0"}
    for index in range(13):
        names[f"blocks.{index}.filter"] = f"MobilenetV1/Conv2d_{index + 1}_depthwise"
        names[f"blocks.{index}.mix"] = f"MobilenetV1/Conv2d_{index + 1}_pointwise"
    return names


def variables_of(tensors: Tensors, layers: dict[str, str], classifier: str) -> Variables:
    """As TF-Slim saves them, with the slots of a training; the averages are right, the raw values are not."""
    variables: Variables = {"global_step": np.array(7, np.int64)}
    for name, array in tensors.items():
        layer, _, part = name.rpartition(".")
        if layer == "classifier" and part == "weight":
            variables[f"{classifier}/weights"] = array.reshape(*array.shape[:2], 1, 1).transpose(2, 3, 1, 0)
        elif layer == "classifier":
            variables[f"{classifier}/biases"] = array
        elif layer.endswith(".norm"):
            variables[f"{layers[layer.removesuffix('.norm')]}/BatchNorm/{NORM[part]}"] = array
        elif layer.endswith(".filter.conv"):
            variables[f"{layers[layer.removesuffix('.conv')]}/depthwise_weights"] = array.transpose(2, 3, 0, 1)
        else:
            variables[f"{layers[layer.removesuffix('.conv')]}/weights"] = array.transpose(2, 3, 1, 0)
    for name in [name for name in variables if name.rpartition("/")[2] in ("weights", "biases", "gamma", "beta")]:
        variables[name + AVERAGE] = variables[name]
        for end in ("", "/RMSProp", "/RMSProp_1"):
            variables[name + end] = np.zeros_like(variables[name])
    return variables


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v1"])
def test_whole_networks_come_back(random_model: RandomModel, name: str) -> None:
    model = random_model(preprocessing=SMALL, name=name, numerics="tf", num_classes=11, width=0.5)
    layers = {"mobilenet_v1": layers_v1(), "mobilenet_v2": {**layers_v2(), "last": "MobilenetV2/Conv_1"}}[name]
    top = {"mobilenet_v1": "MobilenetV1", "mobilenet_v2": "MobilenetV2"}[name]
    variables = variables_of(model.tensors, layers, f"{top}/Logits/Conv2d_1c_1x1")
    found = match_state(slim_state(variables, source="m"), source="m")
    assert (found.layout.title, found.architecture) == ("TF-Slim", model.card.architecture)
    assert found.tensors.keys() == model.tensors.keys()
    for key, array in model.tensors.items():
        np.testing.assert_array_equal(found.tensors[key], array)


def test_deeplab_comes_back(random_segmenter: RandomSegmenter) -> None:
    model = random_segmenter(preprocessing=SMALL, numerics="tf", width=0.5)
    layers = {
        **layers_v2("backbone."),
        "head.image": "image_pooling",
        "head.point": "aspp0",
        "head.project": "concat_projection",
    }
    variables = variables_of(model.tensors, layers, "logits/semantic")
    found = match_state(slim_state(variables, source="m"), source="m")
    assert found.layout.title == "TF-Slim"
    for key, array in model.tensors.items():
        np.testing.assert_array_equal(found.tensors[key], array)
