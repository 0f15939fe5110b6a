"""keras-applications' networks in every format that Keras 3 saves, converted: our outputs are Keras'."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peers import ours, relative_difference

from mobilenetv2.modelfile import load_model_file
from mobilenetv2.weights.checkpoint import read_checkpoint
from mobilenetv2.weights.conversion import convert
from mobilenetv2.weights.states import match_state

os.environ.setdefault("KERAS_BACKEND", "torch")
keras: Any = pytest.importorskip("keras")

# Keras hands torch's tensors to NumPy in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FORMATS = (".keras", ".h5", ".weights.h5")
# Odd sides at several depths, where SAME and Keras' own padding part.
SIDES = (97, 160, 225)
QUICK = [("MobileNetV2", 0.35), ("MobileNet", 0.25)]
OTHERS = [("MobileNetV2", alpha) for alpha in (0.5, 0.75, 1.0, 1.3, 1.4)] + [
    ("MobileNet", alpha) for alpha in (0.5, 0.75, 1.0)
]
NETWORKS = [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in OTHERS)]


def build(kind: str, alpha: float, side: int) -> Any:
    return getattr(keras.applications, kind)(
        input_shape=(side, side, 3), alpha=alpha, weights=None, classes=13, classifier_activation=None
    )


def randomize(network: Any) -> None:
    """Weights with which every layer matters: Keras' own, and its batch norms, would let the picture fade."""
    generator = np.random.default_rng(0)
    for layer in network.layers:
        arrays = layer.get_weights()
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, variance = generator.uniform(0.8, 1.6, (2, len(arrays[0])))
            beta, mean = generator.normal(0, 0.2, (2, len(arrays[0])))
            layer.set_weights([np.float32(array) for array in (gamma, beta, mean, variance)])
        elif arrays:
            fan_in = 9 if isinstance(layer, keras.layers.DepthwiseConv2D) else arrays[0][..., 0].size
            scale = (2 / fan_in) ** 0.5
            layer.set_weights([np.float32(generator.normal(0, scale, array.shape)) for array in arrays])


@pytest.fixture
def in_double() -> Iterator[None]:
    """Both sides in float64: these random networks enlarge rounding beyond what is to be shown.

    Keras' batch norm is 4.5e-7 off its formula all the same, which they enlarge to 1.6e-5.
    """
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.utils.clear_session()


@pytest.mark.parametrize(("kind", "alpha"), NETWORKS)
def test_every_format_gives_keras_outputs(kind: str, alpha: float, tmp_path: Path, in_double: None) -> None:
    theirs = build(kind, alpha, 96)
    randomize(theirs)
    matches = []
    for ending in FORMATS:
        path = tmp_path / f"net{ending}"
        (theirs.save_weights if ending == ".weights.h5" else theirs.save)(path)
        matches.append(match_state(read_checkpoint(path).state, source=str(path)))
    found, *others = matches
    for other in others:
        assert other.architecture == found.architecture
        for name, tensor in found.tensors.items():
            np.testing.assert_array_equal(other.tensors[name], tensor)
    assert found.layout.title == "keras-applications"
    name = "mobilenet_v1" if kind == "MobileNet" else "mobilenet_v2"
    assert (found.architecture.name, found.architecture.width) == (name, alpha)
    mine = ours(found.architecture, found.tensors).double()
    for side in SIDES:
        sized = build(kind, alpha, side)
        sized.set_weights(theirs.get_weights())
        pictures = np.random.default_rng(side).normal(size=(2, side, side, 3))
        expected = torch.from_numpy(np.array(keras.ops.convert_to_numpy(sized(pictures, training=False))))
        with torch.inference_mode():
            assert relative_difference(mine(torch.from_numpy(pictures).permute(0, 3, 1, 2)), expected) <= 2e-5


@pytest.mark.parametrize("ending", FORMATS)
def test_keras_itself_proves_a_conversion(ending: str, tmp_path: Path) -> None:
    theirs = build("MobileNet", 0.25, 97)
    randomize(theirs)
    path = tmp_path / f"net{ending}"
    (theirs.save_weights if ending == ".weights.h5" else theirs.save)(path)
    conversion = convert(path, tmp_path / "made.safetensors", size_hw=(97, 97))
    assert conversion.proof is not None
    assert conversion.proof.reference.startswith("Keras ")
    assert conversion.proof.agreement == 1
    assert load_model_file(conversion.path).card.architecture.numerics == "keras"
