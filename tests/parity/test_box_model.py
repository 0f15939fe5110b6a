"""The models in the box, exported: bytes of real photographs in, the trained torch network's answers out."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import ours
from PIL import Image

from mobilenetv2.anchors import anchor_grid
from mobilenetv2.architecture import Architecture
from mobilenetv2.data.boxed import read_boxes_of_split
from mobilenetv2.data.tree import decode as decode_picture
from mobilenetv2.exports.export import export_model
from mobilenetv2.exports.parity import compare
from mobilenetv2.exports.target import TARGETS
from mobilenetv2.modelfile import load_model_file
from mobilenetv2.networks.ssd import build_detector
from mobilenetv2.predictions import Classification, Detections
from mobilenetv2.preprocessing import preprocess
from mobilenetv2.runtime.detect import decode
from mobilenetv2.runtime.predictor import find_model, load, models_in_the_box


def test_the_exported_file_answers_like_the_trained_network(shared_data: Path, tmp_path: Path) -> None:
    if "cifar10" not in models_in_the_box():
        pytest.skip("needs the model in the box")
    model = load_model_file(find_model("cifar10"))
    assert isinstance(model.card.architecture, Architecture)
    network = ours(model.card.architecture, model.tensors)
    exported = tmp_path / "cifar10.onnx"
    export_model(model, TARGETS["onnx"], exported)
    predictor = load(exported, threads=1)
    with zipfile.ZipFile(shared_data / "imagenet-sample-200.zip") as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if name.endswith(".jpg")}
    assert len(contents) == 200
    for name, content in contents.items():
        with Image.open(io.BytesIO(content)) as picture:
            pixels = preprocess(picture.convert("RGB"), model.card.preprocessing)
        with torch.inference_mode():
            expected = network(torch.from_numpy(pixels)[None]).softmax(dim=1)[0].numpy()
        answer = predictor.predict(content)
        assert isinstance(answer, Classification)
        found = answer.scores
        assert np.abs(found - expected).max() <= 1e-3, name
        assert found.argmax() == expected.argmax(), name


def test_the_exported_detector_finds_what_the_trained_network_does(shared_data: Path, tmp_path: Path) -> None:
    """From picture bytes, resize, decoding and suppression included, at evaluation's low threshold."""
    if "bccd" not in models_in_the_box():
        pytest.skip("needs the model in the box")
    model = load_model_file(find_model("bccd"))
    detector, postprocessing = model.card.detection
    network = build_detector(detector)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in model.tensors.items()}, strict=False)
    network.eval()
    exported = tmp_path / "bccd.onnx"
    export_model(model, TARGETS["onnx"], exported)
    predictor = load(exported, threads=1, score_threshold=0.01)
    anchors = anchor_grid(model.card.preprocessing.size_hw, detector.anchors)
    boxes = 0
    tree, _, pictures = read_boxes_of_split(shared_data / "bccd.zip", model.card.labels)
    for boxed in pictures[:20]:
        picture = decode_picture(tree, boxed.name)
        with torch.inference_mode():
            pixels = preprocess(picture, model.card.preprocessing)
            logits, codes = (part.numpy() for part in network(torch.from_numpy(pixels)[None]))
        (found,) = decode(logits, codes, anchors, replace(postprocessing, score_threshold=0.01))
        expected = found.in_pixels(boxed.size_hw)
        answer = predictor.predict(tree.read(boxed.name))
        assert isinstance(answer, Detections)
        compared = compare(
            replace(answer, boxes_xyxy=expected.boxes_xyxy, scores=expected.scores, labels=expected.labels),
            answer,
            predictor.card,
        )
        assert not compared.problem, boxed.name
        boxes += compared.boxes
    assert boxes > 300
