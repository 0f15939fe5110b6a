"""The network's nodes against torch in float64: every network that a model file can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peers import pictures, relative_difference
from torch import Tensor, nn

from conftest import RandomDetector
from mobilenetv2.anchors import AnchorSizes, anchor_grid
from mobilenetv2.architecture import Architecture
from mobilenetv2.detector import BackboneName, Detector, DetectorName
from mobilenetv2.modelfile import Card, ModelFile
from mobilenetv2.networks.mobilenets import build_mobilenet
from mobilenetv2.networks.ssd import build_detector
from mobilenetv2.postprocessing import Postprocessing
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.engine import open_session
from mobilenetv2.runtime.graph_network import add_network
from mobilenetv2.runtime.onnx_wire import GraphBuilder, write_model
from mobilenetv2.tasks.task import model_tensors

ROUNDING = 1e-5
# Height and width: usual, odd and oblong, and narrower than a cell of the first map.
SIZES_HW = ((64, 64), (97, 61), (33, 10))
UNEVEN: AnchorSizes = tuple(((0.1, 0.2),) * count for count in (1, 2, 3, 4, 5, 6))


def randomize_evenly(network: nn.Module) -> None:
    """Random weights as `peers.randomize` draws them, but such that float32 rounding stays small.

    A channel that hardly changes has a tiny variance, by which batch norm divides what was rounded. The last maps of
    a detector have a pixel a picture, so there are many of these.
    """
    generator = torch.Generator().manual_seed(1)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        for parameter in network.parameters():
            parameter.normal_(0, parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3, generator=generator)
        for norm in norms:
            norm.weight.uniform_(0.5, 2, generator=generator)
        network.train()(torch.randn(16, 3, 64, 64, generator=generator))
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean += 0.3 * norm.running_var.sqrt() * torch.randn(norm.num_features, generator=generator)
            norm.running_var += 0.2 * norm.running_var.mean()
    network.eval()


def assert_equal_outputs(network: nn.Module, card: Card, names: tuple[str, ...]) -> None:
    randomize_evenly(network)
    model = ModelFile(card=card, tensors=model_tensors(network))
    network.double()
    for size_hw in SIZES_HW:
        model = replace(model, card=replace(card, preprocessing=Preprocessing(size_hw=size_hw)))
        graph = GraphBuilder()
        graph.input("pixels", np.float32, ("batch", 3, *size_hw))
        assert add_network(graph, "pixels", model) == names
        for name in names:
            graph.output(name, np.float32, None)
        session = open_session(write_model(graph.graph("network"), producer_version="0", metadata={}), threads=1)
        images = pictures(size_hw)
        with torch.inference_mode():
            answer = network(images.double())
        expected = [answer] if isinstance(answer, Tensor) else list(answer)
        for batch in (1, 2):
            for found, wanted in zip(session.run(names, {"pixels": images[:batch].numpy()}), expected, strict=True):
                assert relative_difference(torch.from_numpy(found), wanted[:batch]) <= ROUNDING, size_hw


def card(task: str, architecture: Architecture | Detector) -> Card:
    return Card(
        name="random",
        task=task,
        architecture=architecture,
        labels=tuple(map(str, range(architecture.num_classes))),
        preprocessing=Preprocessing(size_hw=(1, 1)),
        postprocessing=Postprocessing() if task == "detect" else None,
    )


@pytest.mark.parametrize("output_stride", [32, 8])
@pytest.mark.parametrize("numerics", ["torch", "tf"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v1"])
def test_classifiers(name: str, numerics: str, output_stride: int) -> None:
    architecture = Architecture(name=name, width=0.25, num_classes=5, numerics=numerics, output_stride=output_stride)
    assert_equal_outputs(build_mobilenet(architecture), card("classify", architecture), ("logits",))


@pytest.mark.parametrize("numerics", ["torch", "tf"])
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "mobilenet_v1"])
@pytest.mark.parametrize("name", ["ssdlite", "ssd"])
def test_detectors(name: DetectorName, backbone: BackboneName, numerics: str) -> None:
    detector = Detector(name=name, backbone=backbone, width=0.1, num_classes=3, numerics=numerics, anchors=UNEVEN)
    assert_equal_outputs(build_detector(detector), card("detect", detector), ("class_logits", "box_codes"))


def test_the_order_of_the_anchors_is_that_of_the_grid(random_detector: RandomDetector) -> None:
    model = random_detector(preprocessing=Preprocessing(size_hw=(33, 65)))
    anchors = anchor_grid((33, 65), model.card.detection[0].anchors)
    graph = GraphBuilder()
    graph.input("pixels", np.float32, ("batch", 3, 33, 65))
    # Every head answers with the number of its map and of the anchor in its cell, wherever it looks.
    tensors: dict[str, Any] = dict(model.tensors)
    for index, cell in enumerate(model.card.detection[0].anchors):
        head = f"box_heads.{index}.predict"
        tensors[f"{head}.weight"] = np.zeros_like(tensors[f"{head}.weight"])
        codes = [(index, place, *sides) for place, sides in enumerate(cell)]
        tensors[f"{head}.bias"] = np.array(codes, np.float32).reshape(-1)
    _, codes_name = add_network(graph, "pixels", ModelFile(card=model.card, tensors=tensors))
    graph.output(codes_name, np.float32, None)
    session = open_session(write_model(graph.graph("network"), producer_version="0", metadata={}), threads=1)
    (codes,) = session.run(None, {"pixels": np.zeros((1, 3, 33, 65), np.float32)})
    assert codes.shape == (1, len(anchors), 4)
    sides = (anchors[:, 2:] - anchors[:, :2]) * (65 / 33, 1)  # in shares of the shorter side
    np.testing.assert_allclose(codes[0, :, 2:], sides, rtol=1e-5)
