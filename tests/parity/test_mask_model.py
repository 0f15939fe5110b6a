"""Segmenters from bytes to masks: the torch network, the runtime and the exported graph."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from conftest import RandomSegmenter
from mobilenetv2.data.masked import read_masks_of_split
from mobilenetv2.data.tree import decode as decode_picture
from mobilenetv2.errors import ExportError, ModelFileError
from mobilenetv2.exports import onnx as target
from mobilenetv2.exports.export import export_model
from mobilenetv2.exports.target import TARGETS
from mobilenetv2.modelfile import ModelFile, load_model_file
from mobilenetv2.networks.deeplab_v3 import build_segmenter, upsample
from mobilenetv2.predictions import Segmentation
from mobilenetv2.preprocessing import Preprocessing, preprocess
from mobilenetv2.runtime.drawn import draw_pictures
from mobilenetv2.runtime.engine import PictureEngine
from mobilenetv2.runtime.graph import picture_graph
from mobilenetv2.runtime.predictor import find_model, load, models_in_the_box, predictor_of, predictor_of_graph

OPTIONS: list[dict[str, Any]] = [
    {},
    {"decoder": "light", "numerics": "tf", "width": 0.35},
    {"aspp": True, "output_stride": 8, "num_classes": 255},
    {"backbone": "mobilenet_v1", "decoder": "light", "aspp": True, "output_stride": 32},
    {"backbone": "mobilenet_v1", "numerics": "tf", "output_stride": 8, "num_classes": 1},
]


def by_torch(model: ModelFile, picture: Image.Image) -> NDArray[np.int64]:
    network = build_segmenter(model.card.segmenter).eval()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in model.tensors.items()}, strict=False)
    pixels = torch.from_numpy(preprocess(picture, model.card.preprocessing))[None]
    with torch.inference_mode():
        return upsample(network(pixels), (picture.height, picture.width)).argmax(dim=1)[0].numpy()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size_hw", [(65, 97), (50, 64)])
def test_network_runtime_and_graph_agree(
    random_segmenter: RandomSegmenter, options: dict[str, Any], size_hw: tuple[int, int]
) -> None:
    model = random_segmenter(preprocessing=Preprocessing(size_hw=size_hw), **options)
    runtime, graph = predictor_of(model, threads=1), predictor_of_graph(picture_graph(model), source="x", threads=1)
    for levels in draw_pictures()[:6]:
        picture = Image.fromarray(levels)
        masks = [predictor.predict(picture) for predictor in (runtime, graph)]
        assert all(isinstance(one, Segmentation) and one.mask.shape == levels.shape[:2] for one in masks)
        expected = by_torch(model, picture)
        for one in masks:
            assert isinstance(one, Segmentation)
            assert (one.mask != expected).mean() <= 0.001


def test_a_batch_is_answered_like_its_pictures(random_segmenter: RandomSegmenter) -> None:
    model = random_segmenter(preprocessing=Preprocessing(size_hw=(33, 33)), decoder="light")
    engine = PictureEngine(picture_graph(model), source="x", threads=1)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 40, 52, 3)).astype(np.uint8)
    (masks,) = engine.run(pictures)
    for picture, mask in zip(pictures, masks, strict=True):
        np.testing.assert_array_equal(engine.run(picture[None])[0][0], mask)


def test_the_export_is_proved(random_segmenter: RandomSegmenter, tmp_path: Path) -> None:
    model = random_segmenter(preprocessing=Preprocessing(size_hw=(33, 49)), decoder="light")
    report = export_model(model, TARGETS["onnx"], tmp_path / "m.onnx")
    assert report.pictures == 9
    assert report.pixels == sum(picture.shape[0] * picture.shape[1] for picture in draw_pictures())
    assert report.pixels is not None
    assert report.different is not None
    assert report.different <= 0.001 * report.pixels
    assert "pixels of another class" in report.to_text()
    predictor = load(tmp_path / "m.onnx", tiles=True)
    answer = predictor.predict(draw_pictures()[5])
    assert isinstance(answer, Segmentation)
    assert answer.mask.shape == (375, 500)


def test_an_export_that_answers_otherwise_is_not_written(
    random_segmenter: RandomSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, other = (random_segmenter(preprocessing=Preprocessing(size_hw=(33, 49)), seed=seed) for seed in (0, 1))
    monkeypatch.setattr(target, "picture_graph", lambda _, **options: picture_graph(other, **options))
    with pytest.raises(ExportError, match=r"pixels another class than the model file, allowed are 0\.1%"):
        export_model(model, TARGETS["onnx"], tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_graph_with_fewer_names_than_classes_is_damaged(random_segmenter: RandomSegmenter) -> None:
    """The card's names are what places point at."""
    model = random_segmenter(preprocessing=Preprocessing(size_hw=(33, 33)), num_classes=5)
    content = picture_graph(model).replace(b'"num_classes": 5', b'"num_classes": 1')
    content = content.replace(
        b'["class 0", "class 1", "class 2", "class 3", "class 4"]', b'["class 0"'.ljust(54) + b"]"
    )
    engine = PictureEngine(content, source="x.onnx")
    assert len(engine.card.labels) == 1
    with pytest.raises(ModelFileError, match=r"x\.onnx: is damaged"):
        engine.run(np.random.default_rng(0).integers(0, 256, (1, 60, 60, 3)).astype(np.uint8))


def test_the_model_in_the_box(shared_data: Path, tmp_path: Path) -> None:
    """From bytes of validation pictures: exported file against the trained torch network."""
    if "camvid" not in models_in_the_box():
        pytest.skip("needs the model in the box")
    model = load_model_file(find_model("camvid"))
    exported = tmp_path / "camvid.onnx"
    export_model(model, TARGETS["onnx"], exported)
    predictor = load(exported, threads=1)
    tree, _, pictures = read_masks_of_split(shared_data / "camvid.zip", model.card.labels)
    different = 0
    for masked in pictures[::10]:
        answer = predictor.predict(tree.read(masked.name))
        assert isinstance(answer, Segmentation)
        wrong = answer.mask != by_torch(model, decode_picture(tree, masked.name))
        assert wrong.mean() <= 0.001, masked.name
        different += int(wrong.sum())
    # Rounding decides a handful, not one in a thousand.
    assert different <= 1e-4 * 360 * 480 * len(pictures[::10])


def test_transparent_and_grey_pictures_are_segmented_too(random_segmenter: RandomSegmenter) -> None:
    predictor = predictor_of(random_segmenter(preprocessing=Preprocessing(size_hw=(33, 33))), threads=1)
    for mode in ("L", "RGBA", "CMYK", "I;16"):
        stream = io.BytesIO()
        Image.new(mode, (20, 10)).save(stream, "tiff")
        answer = predictor.predict(stream.getvalue())
        assert isinstance(answer, Segmentation)
        assert answer.mask.shape == (10, 20)
