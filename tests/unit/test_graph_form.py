"""ONNX exports with a fixed batch and size, with blue first, and raw: they answer as the others do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import mobilenetv2
from conftest import make_random_detector, make_random_model, make_random_segmenter
from mobilenetv2.errors import ImageError, ModelFileError, UserError
from mobilenetv2.exports.export import export_model
from mobilenetv2.exports.parity import compare
from mobilenetv2.exports.target import TARGETS
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.preprocessing import Preprocessing, preprocess
from mobilenetv2.runtime.drawn import draw_pictures
from mobilenetv2.runtime.engine import OnnxRuntimeEngine
from mobilenetv2.runtime.graph import picture_graph
from mobilenetv2.runtime.graph_form import GraphForm
from mobilenetv2.runtime.images import open_image
from mobilenetv2.runtime.predictor import predictor_of, predictor_of_graph

SIZE = Preprocessing(size_hw=(64, 48))
MODELS: dict[str, Callable[[], ModelFile]] = {
    "classify": lambda: make_random_model(preprocessing=replace(SIZE, size_hw=(64, 64), resize="crop")),
    "detect": lambda: make_random_detector(preprocessing=SIZE),
    "segment": lambda: make_random_segmenter(preprocessing=SIZE, decoder="light"),
}
FORMS = [
    GraphForm(batch=1),
    GraphForm(batch=3, size_hw=(61, 97)),
    GraphForm(bgr=True),
    GraphForm(raw=True),
    GraphForm(batch=2, size_hw=(80, 80), bgr=True, raw=True),
]
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.to_json())
each_task = pytest.mark.parametrize("task", MODELS)


@each_task
@each_form
def test_it_answers_as_the_model_file(task: str, form: GraphForm) -> None:
    model = MODELS[task]()
    ours = predictor_of(model)
    theirs = predictor_of_graph(picture_graph(model, form=form), source="form.onnx")
    pictures = [open_image(picture) for picture in draw_pictures()]
    pictures = [picture.resize(form.size_hw[::-1]) if form.size_hw else picture for picture in pictures]
    for picture in pictures:
        assert compare(ours.predict(picture), theirs.predict(picture), model.card).problem == ""
    assert [answer.size_hw for answer in theirs.predict_batch(pictures)] == [one.size[::-1] for one in pictures]


@each_task
@each_form
def test_export_proves_it_and_the_file_says_it(task: str, form: GraphForm, tmp_path: Path) -> None:
    model, out = MODELS[task](), tmp_path / "form.onnx"
    report = export_model(model, TARGETS["onnx"], out, form=form)
    assert report.pictures == 9
    (images, *_), outputs = (ports for ports in _ports(out))
    assert images == ("images", [form.batch or "batch", *(form.size_hw or ("height", "width")), 3])
    if form.raw:
        expected = OnnxRuntimeEngine(model).run(np.zeros((1, 3, *model.card.preprocessing.size_hw), np.float32))
        assert [shape[1:] for _, shape in outputs] == [list(array.shape[1:]) for array in expected]
        assert outputs[0][1][0] == (form.batch or "batch")


def _ports(path: Path) -> tuple[list[tuple[str, list[object]]], list[tuple[str, list[object]]]]:
    session = onnxruntime.InferenceSession(path)
    return (
        [(port.name, port.shape) for port in session.get_inputs()],
        [(port.name, port.shape) for port in session.get_outputs()],
    )


@each_task
def test_raw_outputs_are_the_networks(task: str) -> None:
    model, picture = MODELS[task](), open_image(next(iter(draw_pictures())))
    expected = OnnxRuntimeEngine(model).run(preprocess(picture, model.card.preprocessing)[None])
    session = onnxruntime.InferenceSession(picture_graph(model, form=GraphForm(raw=True, bgr=True)))
    found = session.run(None, {"images": np.asarray(picture)[None, ..., ::-1]})
    for theirs, ours in zip(found, expected, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5 * np.abs(ours).max())


def test_a_picture_of_another_size_is_an_error_of_that_picture(tmp_path: Path) -> None:
    out = tmp_path / "fixed.onnx"
    mobilenetv2.export("cifar10", out=out, size_hw=(32, 40))
    fixed = mobilenetv2.load(out)
    assert fixed.predict(Image.new("RGB", (40, 32))).size_hw == (32, 40)
    Image.new("RGB", (32, 40)).save(tmp_path / "tall.png")
    with pytest.raises(ImageError, match=r"tall\.png: is 32x40 pixels, and this export takes 40x32 alone"):
        fixed.predict(tmp_path / "tall.png")


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch 0 is out of range; it can be 1 to 1024"):
        GraphForm(batch=0)
    with pytest.raises(UserError, match="size 20000 is out of range"):
        GraphForm(size_hw=(224, 20000))
    with pytest.raises(UserError, match="can be chosen for onnx, not for openvino"):
        mobilenetv2.export("cifar10", to="openvino", out=tmp_path / "folder", raw=True)
    assert not list(tmp_path.iterdir())
    assert GraphForm.from_json(FORMS[4].to_json(), source="x.onnx") == FORMS[4]
    for text in (
        "",
        "[]",
        "{}",
        '{"batch": "1", "size_hw": null, "bgr": false, "raw": false}',
        FORMS[4].to_json() + " ",
    ):
        with pytest.raises(ModelFileError, match=r"x\.onnx: is damaged"):
            GraphForm.from_json(text, source="x.onnx")


def test_a_form_that_is_not_the_graphs_is_seen() -> None:
    content = picture_graph(MODELS["classify"](), form=GraphForm(batch=2))
    damaged = content.replace(b'{"batch": 2,', b'{"batch": 3,')
    assert damaged != content
    with pytest.raises(ModelFileError, match="its inputs and outputs are not those"):
        predictor_of_graph(damaged, source="x.onnx")
