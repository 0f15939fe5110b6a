"""keras-applications' networks, saved by Keras in each of its formats: every array of every layer, by its name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mobilenetv2.errors import ModelFileError
from mobilenetv2.weights.keras_file import named, read_arrays, read_keras

# Between Keras and torch, with NumPy 2.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]

FORMATS = (".h5", ".keras", ".weights.h5")
PARTS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
SIZE = (96, 96, 3)
NETWORKS = [("MobileNetV2", alpha) for alpha in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)] + [
    ("MobileNet", alpha) for alpha in (0.25, 0.5, 0.75, 1.0)
]

State = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("keras")


def randomized(model: Any) -> Any:
    """With arrays that are all different: a batch norm starts with ones and zeros."""
    draw = np.random.default_rng(0)
    for layer in model.layers:
        if hasattr(layer, "layers"):
            randomized(layer)
        else:
            layer.set_weights([draw.uniform(0.5, 1.5, array.shape) for array in layer.get_weights()])
    return model


def expected(model: Any, *, head: str = "predictions") -> State:
    """By Keras' own names of layers and variables. head: the dense layer, which is called `predictions` here."""
    state: State = {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            state |= expected(layer, head=head)
            continue
        name = "predictions" if layer.name == head else layer.name
        for variable, array in zip(layer.weights, layer.get_weights(), strict=True):
            if type(layer).__name__ == "DepthwiseConv2D":
                array = array.transpose(2, 3, 0, 1)
            elif type(layer).__name__ == "Conv2D" and array.ndim == 4:
                array = array.transpose(3, 2, 0, 1)
            state[f"{name}.{PARTS.get(variable.name, variable.name).replace('kernel', 'weight')}"] = (
                array.T if array.ndim == 2 else array
            )
    return state


def saved(model: Any, folder: Path) -> Iterator[Path]:
    for ending in FORMATS:
        path = folder / f"x{ending}"
        (model.save_weights if ending == ".weights.h5" else model.save)(path)
        yield path


def check(state: State, model: Any, *, head: str = "predictions") -> None:
    wanted = expected(model, head=head)
    assert state.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)


def build(keras: Any, name: str, alpha: float, **options: Any) -> Any:
    make: Callable[..., Any] = getattr(keras.applications, name)
    return make(input_shape=SIZE, alpha=alpha, weights=None, **options)


@pytest.mark.parametrize(("name", "alpha"), NETWORKS)
def test_every_width_in_every_format(keras: Any, name: str, alpha: float, tmp_path: Path) -> None:
    model = randomized(build(keras, name, alpha, classes=7))
    for path in saved(model, tmp_path):
        state = read_keras(path.read_bytes(), source=path.name)
        check(state, model)
    # By these the two networks are told apart.
    marks = (
        {"conv1", "conv_dw_13", "conv_preds"} if name == "MobileNet" else {"Conv1", "block_16_project", "predictions"}
    )
    assert {f"{mark}.weight" for mark in marks} <= state.keys()


@pytest.mark.parametrize(("name", "alpha"), NETWORKS)
def test_without_a_classifier(keras: Any, name: str, alpha: float, tmp_path: Path) -> None:
    model = randomized(build(keras, name, alpha, include_top=False))
    for path in saved(model, tmp_path):
        check(named(read_arrays(path.read_bytes()), source=path.name), model)


def sequential(keras: Any, base: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [keras.Input(SIZE), base, layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(5)]
    )


def functional(keras: Any, base: Any) -> Any:
    """As Keras' guide to transfer learning has it: augmentation, a frozen base, a compiled model."""
    base.trainable = False
    picture = keras.Input(SIZE)
    x = keras.Sequential([keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)])(picture)
    x = base(keras.layers.Rescaling(1 / 127.5, offset=-1)(x), training=False)
    x = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(picture, keras.layers.Dense(5, name="breeds")(x))
    model.compile("adam", "mse")
    return model


def flat(keras: Any, base: Any) -> Any:
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    return keras.Model(base.input, keras.layers.Dense(5, name="breeds")(pooled))


@pytest.mark.parametrize("wrap", [sequential, functional, flat])
@pytest.mark.parametrize(("name", "alpha"), [("MobileNetV2", 0.35), ("MobileNet", 0.25)])
def test_in_a_bigger_network(
    keras: Any, name: str, alpha: float, wrap: Callable[[Any, Any], Any], tmp_path: Path
) -> None:
    model = randomized(wrap(keras, build(keras, name, alpha, include_top=False)))
    for path in saved(model, tmp_path):
        check(named(read_arrays(path.read_bytes()), source=path.name), model, head=model.layers[-1].name)


def test_shards_are_refused(keras: Any, tmp_path: Path) -> None:
    build(keras, "MobileNet", 0.25, classes=7).save_weights(tmp_path / "x.weights.json", max_shard_size=0.0005)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 2
    for path in files:
        with pytest.raises(ModelFileError, match="shard"):
            read_keras(path.read_bytes(), source=path.name)
