"""The graphs of the runtime: the network is the torch network, the preprocessing is Pillow's or TensorFlow's."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import RandomDetector, RandomModel
from mobilenetv2.architecture import Convolution, trunk
from mobilenetv2.modelfile import CARD_KEY, Card, ModelFile
from mobilenetv2.networks.mobilenet_v2 import MobileNetV2
from mobilenetv2.postprocessing import Postprocessing, Scores
from mobilenetv2.preprocessing import Interpolation, Preprocessing, Resize, preprocess
from mobilenetv2.runtime.engine import PictureEngine, open_session
from mobilenetv2.runtime.graph import PRECISION_KEY, network_graph, picture_graph
from mobilenetv2.runtime.graph_network import fold_batch_norm
from mobilenetv2.runtime.graph_preprocess import add_preprocessing
from mobilenetv2.runtime.onnx_wire import GraphBuilder, write_model

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
            network = MobileNetV2(model.card.classifier).eval().double()
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


def assert_valid(model: ModelFile) -> None:
    for content in (network_graph(model), picture_graph(model)):
        proto = onnx.load_from_string(content)
        onnx.checker.check_model(proto, full_check=True)
        metadata = {entry.key: entry.value for entry in proto.metadata_props}
        assert metadata.pop(PRECISION_KEY) == "float32"
        assert Card.from_json(metadata.pop(CARD_KEY), source="graph") == model.card
        assert not metadata


@pytest.mark.parametrize(("resize", "interpolation"), list(product(get_args(Resize), ["bicubic", "sampled"])))
@pytest.mark.parametrize("numerics", ["torch", "tf"])
def test_both_graphs_are_valid_onnx(
    random_model: RandomModel, numerics: str, resize: Resize, interpolation: Interpolation
) -> None:
    preprocessing = Preprocessing(size_hw=(64, 64), resize=resize, crop_fraction=0.875, interpolation=interpolation)
    assert_valid(random_model(preprocessing=preprocessing, numerics=numerics))


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
@pytest.mark.parametrize("name", ["ssdlite", "ssd"])
def test_both_graphs_of_a_detector_are_valid_onnx(random_detector: RandomDetector, name: str, scores: Scores) -> None:
    how = Postprocessing(scores=scores)
    assert_valid(random_detector(preprocessing=Preprocessing(size_hw=(33, 65)), postprocessing=how, name=name))


Ports = list[tuple[str, list[int | str]]]


def ports(content: bytes) -> tuple[Ports, Ports]:
    """Names and shapes of the inputs and of the outputs, in their order."""
    session = open_session(content, threads=1)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return [(port.name, port.shape) for port in inputs], [(port.name, port.shape) for port in outputs]


def test_the_names_and_shapes_that_others_rely_on(random_model: RandomModel, random_detector: RandomDetector) -> None:
    preprocessing = Preprocessing(size_hw=(33, 65))
    prepared, pictures = [("images", ["batch", 3, 33, 65])], [("images", ["batch", "height", "width", 3])]
    model = random_model(preprocessing=preprocessing, num_classes=7)
    assert ports(network_graph(model)) == (prepared, [("logits", ["batch", 7])])
    assert ports(picture_graph(model)) == (pictures, [("probabilities", ["batch", 7])])
    model = random_detector(preprocessing=preprocessing, num_classes=7)
    # 3 anchors at each place of the first map, 6 on the five others.
    anchors = 3 * 3 * 5 + 6 * (2 * 3 + 1 * 2 + 1 + 1 + 1)
    raw = [("class_logits", ["batch", anchors, 8]), ("box_codes", ["batch", anchors, 4])]
    assert ports(network_graph(model)) == (prepared, raw)
    each = ["detections"]
    found = [("boxes_xyxy", ["detections", 4]), ("scores", each), ("labels", each), ("picture", each)]
    assert ports(picture_graph(model)) == (pictures, found)


def test_a_batch_of_pictures_is_answered_as_each_of_them(
    random_model: RandomModel, random_detector: RandomDetector
) -> None:
    random = np.random.default_rng(0)
    preprocessing = Preprocessing(size_hw=(64, 64))
    classifier, detector = (make(preprocessing=preprocessing) for make in (random_model, random_detector))
    for size_hw in ((1, 1), (97, 31), (240, 320)):
        pictures = random.integers(0, 256, (3, *size_hw, 3), dtype=np.uint8)
        engine = PictureEngine(picture_graph(classifier), source="m", threads=1)
        (together,) = engine.run(pictures)
        assert together.shape == (3, 10)
        alone = np.concatenate([engine.run(pictures[i : i + 1])[0] for i in range(3)])
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
        engine = PictureEngine(picture_graph(detector), source="m", threads=1)
        boxes, scores, labels, picture = engine.run(pictures, score_threshold=0.05)
        assert len(np.unique(picture)) == 3
        for index in range(3):
            own = picture == index
            boxes_alone, scores_alone, labels_alone, _ = engine.run(pictures[index : index + 1], score_threshold=0.05)
            np.testing.assert_array_equal(labels[own], labels_alone)
            np.testing.assert_allclose(scores[own], scores_alone, rtol=0, atol=1e-5)
            np.testing.assert_allclose(boxes[own], boxes_alone, rtol=0, atol=1e-2)


def test_a_folded_batch_norm_by_hand(random_model: RandomModel) -> None:
    model = random_model(preprocessing=Preprocessing(size_hw=(32, 32)), numerics="tf")
    kernel, bias = fold_batch_norm(model, Convolution("stem", 3, 32, kernel=3, stride=2))
    part = {name: model.tensors[f"stem.{name}"][3].astype(np.float64) for name in ("conv.weight", "norm.weight")}
    beta, mean, variance = (float(model.tensors[f"stem.norm.{n}"][3]) for n in ("bias", "running_mean", "running_var"))
    scale = part["norm.weight"] / (variance + 1e-3) ** 0.5
    np.testing.assert_allclose(kernel[3], part["conv.weight"] * scale, rtol=1e-6)
    assert bias[3] == pytest.approx(beta - mean * scale, rel=1e-6)


def test_folding_rounds_once_however_a_kernel_is_stored(random_model: RandomModel) -> None:
    model = random_model(preprocessing=Preprocessing(size_hw=(32, 32)))
    plan = trunk(model.card.classifier)[-1]
    name = f"{plan.name}.conv.weight"
    half = model.tensors[name].astype(np.float16)
    kernels = []
    for kind in (np.float16, np.float32, np.float64):
        kernel, _ = fold_batch_norm(replace(model, tensors={**model.tensors, name: half.astype(kind)}), plan)
        assert kernel.dtype == np.float32
        kernels.append(kernel)
    gamma, variance = (model.tensors[f"{plan.name}.norm.{n}"].astype(np.float64) for n in ("weight", "running_var"))
    scale = gamma / np.sqrt(variance + 1e-5)
    for kernel in kernels:
        np.testing.assert_array_equal(kernel, (half * scale[:, None, None, None]).astype(np.float32))


# ---- Preprocessing inside the graph: the levels of `preprocess`, to the last one


@cache
def preprocessing_session(preprocessing: Preprocessing) -> Any:
    """The beginning of an exported graph."""
    graph = GraphBuilder()
    graph.input("images", np.uint8, ("batch", "height", "width", 3))
    name = add_preprocessing(graph, "images", preprocessing)
    graph.output(name, np.float32, ("batch", 3, *preprocessing.size_hw))
    return open_session(write_model(graph.graph("preprocessing"), producer_version="0", metadata={}), threads=1)


def assert_levels_are_ours(levels: np.ndarray[Any, Any], preprocessing: Preprocessing) -> None:
    """levels: (batch, height, width, 3)."""
    (found,) = preprocessing_session(preprocessing).run(None, {"images": levels})
    expected = np.stack([preprocess(Image.fromarray(one), preprocessing) for one in levels])
    np.testing.assert_array_equal(found, expected, strict=True)


SIDES = st.one_of(st.integers(1, 12), st.integers(1, 300))
INPUTS = ((1, 1), (24, 24), (33, 33), (96, 96))


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
@pytest.mark.parametrize("resize", get_args(Resize))
@settings(max_examples=40, deadline=None)
@given(
    batch=st.sampled_from([1, 1, 2, 5]),
    height=SIDES,
    width=SIDES,
    size_hw=st.sampled_from(INPUTS),
    seed=st.integers(0, 2**16),
    hard=st.booleans(),
)
def test_the_levels_are_those_of_preprocess(
    resize: Resize,
    interpolation: Interpolation,
    batch: int,
    height: int,
    width: int,
    size_hw: tuple[int, int],
    seed: int,
    hard: bool,
) -> None:
    random = np.random.default_rng(seed)
    # Black and white only, where bicubic overshoots at every edge; or any level.
    shape = (batch, height, width, 3)
    levels = random.choice([0, 255], shape) if hard else random.integers(0, 256, shape)
    if resize == "central" and seed % 2:
        size_hw = (33, 65)
    preprocessing = Preprocessing(size_hw=size_hw, resize=resize, crop_fraction=0.875, interpolation=interpolation)
    assert_levels_are_ours(levels.astype(np.uint8), preprocessing)


LONG_HW = ((1, 1), (1, 2000), (2000, 1), (3, 1501), (1501, 3), (1200, 1601), (97, 96), (96, 97))


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
@pytest.mark.parametrize(
    ("size_hw", "resize"), [((33, 65), "stretch"), ((96, 96), "stretch"), ((96, 96), "crop"), ((33, 65), "central")]
)
def test_long_large_and_nearly_fitting_pictures(
    size_hw: tuple[int, int], resize: Resize, interpolation: Interpolation
) -> None:
    random = np.random.default_rng(0)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocessing = Preprocessing(
        size_hw=size_hw, resize=resize, crop_fraction=0.9, interpolation=interpolation, mean_rgb=mean, std_rgb=std
    )
    for height, width in LONG_HW:
        assert_levels_are_ours(random.integers(0, 256, (1, height, width, 3), dtype=np.uint8), preprocessing)
