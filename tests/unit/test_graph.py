"""The graphs of the runtime: the network is the torch network, the preprocessing is Pillow's."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import RandomModel, make_random_model
from mobilenetv2.modelfile import CARD_KEY, Card, ModelFile
from mobilenetv2.networks.mobilenet_v2 import MobileNetV2
from mobilenetv2.preprocessing import Interpolation, Preprocessing, Resize, preprocess
from mobilenetv2.runtime.engine import open_session
from mobilenetv2.runtime.graph import fold_batch_norm, network_graph, picture_graph

# Against torch in float64. These random networks enlarge the rounding of float32: at width 1 and stride 32
# ours is 9.9e-6 off at most, torch's own float32 1.3e-5.
ROUNDING = 2e-5
# Height and width: small, odd, larger, oblong.
SIZES_HW = ((32, 32), (97, 97), (225, 225), (33, 65))


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("width", [0.35, 1.0])
@pytest.mark.parametrize("numerics", ["torch", "tf"])
def test_the_network_is_the_torch_network(
    random_model: RandomModel, numerics: str, width: float, output_stride: int
) -> None:
    random = np.random.default_rng(0)
    network: MobileNetV2 | None = None
    for size_hw in SIZES_HW:
        model = random_model(
            preprocessing=Preprocessing(size_hw=size_hw), numerics=numerics, width=width, output_stride=output_stride
        )
        if network is None:
            network = MobileNetV2(model.card.architecture).eval().double()
            state = {name: torch.from_numpy(tensor) for name, tensor in model.tensors.items()}
            missing, unexpected = network.load_state_dict(state, strict=False)
            assert not unexpected
            assert all(name.endswith("num_batches_tracked") for name in missing)
        session = open_session(network_graph(model), threads=1)
        images = random.normal(0, 1, (3, 3, *size_hw)).astype(np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(images).double()).numpy()
        largest = np.abs(expected).max()
        # Answers that did not depend on the picture would prove nothing.
        assert np.abs(expected[0] - expected[1]).max() > 1e-2 * largest
        for batch in (1, 3):
            (found,) = session.run(["logits"], {"images": images[:batch]})
            assert found.shape == (batch, 10)
            assert np.abs(found - expected[:batch]).max() / largest <= ROUNDING, (size_hw, batch)


@pytest.mark.parametrize("resize", ["stretch", "crop"])
@pytest.mark.parametrize("numerics", ["torch", "tf"])
def test_both_graphs_are_valid_onnx(random_model: RandomModel, numerics: str, resize: Resize) -> None:
    preprocessing = Preprocessing(size_hw=(64, 64), resize=resize, crop_fraction=0.875, interpolation="bicubic")
    model = random_model(preprocessing=preprocessing, numerics=numerics)
    for content in (network_graph(model), picture_graph(model)):
        proto = onnx.load_from_string(content)
        onnx.checker.check_model(proto, full_check=True)
        (entry,) = proto.metadata_props
        assert entry.key == CARD_KEY
        assert Card.from_json(entry.value, source="graph") == model.card


def test_the_names_and_shapes_that_others_rely_on(random_model: RandomModel) -> None:
    model = random_model(preprocessing=Preprocessing(size_hw=(33, 65)), num_classes=7)
    for content, expected in (
        (network_graph(model), (("images", ["batch", 3, 33, 65]), ("logits", ["batch", 7]))),
        (picture_graph(model), (("image", ["height", "width", 3]), ("probabilities", [7]))),
    ):
        session = open_session(content, threads=1)
        (given_,), (answer,) = session.get_inputs(), session.get_outputs()
        assert ((given_.name, given_.shape), (answer.name, answer.shape)) == expected


def test_a_folded_batch_norm_by_hand(random_model: RandomModel) -> None:
    model = random_model(preprocessing=Preprocessing(size_hw=(32, 32)), numerics="tf")
    kernel, bias = fold_batch_norm(model, "stem")
    part = {name: model.tensors[f"stem.{name}"][3].astype(np.float64) for name in ("conv.weight", "norm.weight")}
    beta, mean, variance = (float(model.tensors[f"stem.norm.{n}"][3]) for n in ("bias", "running_mean", "running_var"))
    scale = part["norm.weight"] / (variance + 1e-3) ** 0.5
    np.testing.assert_allclose(kernel[3], part["conv.weight"] * scale, rtol=1e-6)
    assert bias[3] == pytest.approx(beta - mean * scale, rel=1e-6)


# ---- Preprocessing inside the graph: Pillow's levels, to the last one


@cache
def tiny_network(size: int) -> ModelFile:
    return make_random_model(preprocessing=Preprocessing(size_hw=(size, size)), width=0.05, num_classes=2)


@cache
def preprocessing_session(preprocessing: Preprocessing) -> Any:
    """The exported graph, cut off where the network begins."""
    network = tiny_network(32)
    card = Card(
        name="tiny",
        task="classify",
        architecture=network.card.architecture,
        labels=network.card.labels,
        preprocessing=preprocessing,
    )
    proto = onnx.load_from_string(picture_graph(ModelFile(card=card, tensors=network.tensors)))
    end = next(index for index, node in enumerate(proto.graph.node) if "images" in node.output)
    del proto.graph.node[end + 1 :]
    del proto.graph.output[:]
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, *preprocessing.size_hw])
    )
    return open_session(proto.SerializeToString(), threads=1)


def assert_like_pillow(levels: np.ndarray[Any, Any], preprocessing: Preprocessing) -> None:
    (found,) = preprocessing_session(preprocessing).run(["images"], {"image": levels})
    expected = preprocess(Image.fromarray(levels), preprocessing)
    np.testing.assert_array_equal(found[0], expected, strict=True)


SIDES = st.one_of(st.integers(1, 12), st.integers(1, 300))
INPUTS = ((1, 1), (24, 24), (33, 33), (96, 96))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["stretch", "crop"])
@settings(max_examples=40, deadline=None)
@given(height=SIDES, width=SIDES, size_hw=st.sampled_from(INPUTS), seed=st.integers(0, 2**16), hard=st.booleans())
def test_the_levels_are_pillows(
    resize: Resize,
    interpolation: Interpolation,
    height: int,
    width: int,
    size_hw: tuple[int, int],
    seed: int,
    hard: bool,
) -> None:
    random = np.random.default_rng(seed)
    # Black and white only, where bicubic overshoots at every edge; or any level.
    levels = random.choice([0, 255], (height, width, 3)) if hard else random.integers(0, 256, (height, width, 3))
    preprocessing = Preprocessing(size_hw=size_hw, resize=resize, crop_fraction=0.875, interpolation=interpolation)
    assert_like_pillow(levels.astype(np.uint8), preprocessing)


LONG_HW = ((1, 1), (1, 2000), (2000, 1), (3, 1501), (1501, 3), (1200, 1601), (97, 96), (96, 97))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size_hw", "resize"), [((33, 65), "stretch"), ((96, 96), "stretch"), ((96, 96), "crop")])
def test_long_large_and_nearly_fitting_pictures(
    size_hw: tuple[int, int], resize: Resize, interpolation: Interpolation
) -> None:
    random = np.random.default_rng(0)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocessing = Preprocessing(
        size_hw=size_hw, resize=resize, crop_fraction=0.9, interpolation=interpolation, mean_rgb=mean, std_rgb=std
    )
    for height, width in LONG_HW:
        assert_like_pillow(random.integers(0, 256, (height, width, 3), dtype=np.uint8), preprocessing)
