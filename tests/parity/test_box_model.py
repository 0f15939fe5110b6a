"""The model in the box, exported: bytes of real photographs in, the trained torch network's answers out."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import ours
from PIL import Image

from mobilenetv2.architecture import Architecture
from mobilenetv2.export.onnx import export_onnx
from mobilenetv2.modelfile import load_model_file
from mobilenetv2.preprocessing import preprocess
from mobilenetv2.runtime.predictor import find_model, load, models_in_the_box


def test_the_exported_file_answers_like_the_trained_network(shared_data: Path, tmp_path: Path) -> None:
    if "cifar10" not in models_in_the_box():
        pytest.skip("needs the model in the box")
    model = load_model_file(find_model("cifar10"))
    assert isinstance(model.card.architecture, Architecture)
    network = ours(model.card.architecture, model.tensors)
    exported = tmp_path / "cifar10.onnx"
    export_onnx(model, exported)
    predictor = load(exported, threads=1)
    with zipfile.ZipFile(shared_data / "imagenet-sample-200.zip") as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if name.endswith(".jpg")}
    assert len(contents) == 200
    for name, content in contents.items():
        with Image.open(io.BytesIO(content)) as picture:
            pixels = preprocess(picture.convert("RGB"), model.card.preprocessing)
        with torch.inference_mode():
            expected = network(torch.from_numpy(pixels)[None]).softmax(dim=1)[0].numpy()
        found = predictor.predict(content).scores
        assert np.abs(found - expected).max() <= 1e-3, name
        assert found.argmax() == expected.argmax(), name
