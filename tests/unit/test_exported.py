"""Exports that are folders: what is written, what is refused, and which engine answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import make_random_detector, make_random_model, make_random_segmenter
from mobilenetv2 import api
from mobilenetv2.errors import ExportError, ModelFileError, UserError
from mobilenetv2.exports import openvino as openvino_target
from mobilenetv2.exports.calibration import calibration_pictures
from mobilenetv2.exports.export import export_model
from mobilenetv2.exports.support import support, support_table
from mobilenetv2.exports.target import TARGETS, find_target
from mobilenetv2.modelfile import ModelFile, load_model_file
from mobilenetv2.postprocessing import Postprocessing
from mobilenetv2.predictions import Classification
from mobilenetv2.preprocessing import Preprocessing, preprocess
from mobilenetv2.quantization.prepare import Preparation
from mobilenetv2.runtime.drawn import draw_pictures
from mobilenetv2.runtime.exported import CARD_FILE, Export, read_export, write_card
from mobilenetv2.runtime.graph import network_graph
from mobilenetv2.runtime.predictor import find_model, load

SIZE = Preprocessing(size_hw=(64, 64))
OPENVINO = TARGETS["openvino"]


def detector() -> ModelFile:
    return make_random_detector(preprocessing=SIZE, postprocessing=Postprocessing(score_threshold=0.4))


MODELS: list[Callable[[], ModelFile]] = [
    lambda: make_random_model(preprocessing=SIZE),
    detector,
    lambda: make_random_segmenter(preprocessing=SIZE),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export whose files are read but not run."""
    out = tmp_path / "m-ncnn"
    out.mkdir()
    (out / "model.bin").write_bytes(b"weights")
    card = make_random_model(preprocessing=SIZE).card
    write_card(Export(folder=out, target="ncnn", precision="float32", card=card))
    return out


def change(folder: Path, **values: Any) -> None:
    path = folder / CARD_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_card_comes_back(folder: Path) -> None:
    export = read_export(folder)
    assert (export.target, export.precision, export.card.name) == ("ncnn", "float32", "random")
    assert export.card == make_random_model(preprocessing=SIZE).card


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 2}, "written in format 2, this version reads up to 1"),
        ({"precision": "int4"}, "precision 'int4' is not known"),
        ({"target": 7}, "is not the card of an export"),
        ({"files": {"../model.bin": "0"}}, "names a file outside its folder"),
        ({"files": {"/etc/passwd": "0"}}, "names a file outside its folder"),
        ({"files": {"none.bin": "0"}}, "none.bin: cannot be read"),
        ({"card": {}}, "has no format version"),
        ({"target": "tpu"}, "is for 'tpu', which does not run here"),
    ],
)
def test_a_foreign_card_is_one_line(folder: Path, values: dict[str, Any], message: str) -> None:
    change(folder, **values)
    with pytest.raises(ModelFileError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_found_before_it_is_run(folder: Path) -> None:
    (folder / "model.bin").write_bytes(b"weighty")
    with pytest.raises(ModelFileError, match=r"model\.bin: is not the file that was exported"):
        load(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '"format"', "[" * 100_000])
def test_a_damaged_card_is_one_line(folder: Path, text: str) -> None:
    (folder / CARD_FILE).write_text(text)
    with pytest.raises(ModelFileError, match=r"card\.json: is (damaged|not the card)"):
        read_export(folder)


def test_a_folder_without_card_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is not the folder of an export"):
        load(tmp_path)


def test_engines_are_chosen_and_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'open_vino' is not known \(did you mean 'openvino'\?\)"):
        load("cifar10", engine="open_vino")
    with pytest.raises(
        UserError, match=r"engine 'ncnn' runs exports; make one by 'mobilenetv2 export cifar10 --to ncnn"
    ):
        load("cifar10", engine="ncnn")
    with pytest.raises(UserError, match="is for engine 'ncnn', not 'openvino'"):
        load(folder, engine="openvino")
    with pytest.raises(UserError, match=r"'onx' is not known \(did you mean 'onnx'\?\)"):
        find_target("onx")
    with pytest.raises(UserError, match="add --int8"):
        api.export("cifar10", out=tmp_path / "m.onnx", calibrate=tmp_path)


@pytest.mark.parametrize("model", MODELS, ids=["classify", "detect", "segment"])
def test_openvino_answers_as_the_model_file(model: Callable[[], ModelFile], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    out = tmp_path / "m-openvino"
    report = export_model(model(), OPENVINO, out)
    assert report.pictures == 9
    assert sorted(path.name for path in out.iterdir()) == [CARD_FILE, "model.bin", "model.xml"]
    assert list(tmp_path.iterdir()) == [out]
    predictor = load(out, threads=1)
    assert (predictor.engine_name, predictor.precision) == ("openvino", "float32")
    pictures = draw_pictures()
    together = predictor.predict_batch(pictures[:5])
    assert [answer.size_hw for answer in together] == [picture.shape[:2] for picture in pictures[:5]]
    # An earlier export is replaced.
    export_model(model(), OPENVINO, out)
    assert list(tmp_path.iterdir()) == [out]


def test_openvino_runs_model_files_too() -> None:
    pytest.importorskip("openvino")
    ours, theirs = load("cifar10"), load("cifar10", engine="openvino", threads=1)
    for picture in draw_pictures():
        expected, found = ours.predict(picture), theirs.predict(picture)
        assert isinstance(expected, Classification)
        assert isinstance(found, Classification)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_what_differs_in_openvino_is_named_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    model = make_random_model(preprocessing=SIZE)
    name = "stages.2.blocks.1.project.conv.weight"
    other = replace(model, tensors={**model.tensors, name: model.tensors[name] * np.float32(1.1)})
    monkeypatch.setattr(openvino_target, "network_graph", lambda _, **options: network_graph(other, **options))
    with pytest.raises(ExportError, match=r"the first to differ is layer 'stages\.2\.blocks\.1\.project', by \d"):
        export_model(model, OPENVINO, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def turned_pictures() -> list[Image.Image]:
    """Drawn ones on each of their sides: some are between two classes, and more of them weigh less each."""
    shown = [Image.fromarray(picture).resize((300, 200)) for picture in draw_pictures()[3:]]
    return [picture.rotate(angle) for picture in shown for angle in (0, 90, 180, 270)]


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["cifar10", "bccd"])
def test_eight_bits_are_written_and_said(name: str, target: str, tmp_path: Path) -> None:
    pytest.importorskip(target.replace("onnx", "onnxruntime"))
    model, out = load_model_file(find_model(name)), tmp_path / ("m.onnx" if target == "onnx" else "m")
    pictures = turned_pictures()
    calibration = np.stack([preprocess(picture, model.card.preprocessing) for picture in pictures])
    report = export_model(model, TARGETS[target], out, int8=True, calibration=calibration, pictures=pictures)
    assert report.agreement is not None
    assert report.agreement >= 0.85
    assert "in 8 bits" in report.to_text()
    predictor = load(out)
    assert predictor.precision == "int8"
    assert predictor.card.activation_ranges
    weights = out if target == "onnx" else out / "model.bin"
    assert weights.stat().st_size < model.card.parameters * 1.2


def test_too_few_levels_are_refused(tmp_path: Path) -> None:
    """A preparation that ruins the network is found by the proof, and nothing is written."""
    model = load_model_file(find_model("cifar10"))
    pictures = [Image.fromarray(picture) for picture in draw_pictures()[3:]]
    calibration = np.stack([preprocess(picture, model.card.preprocessing) for picture in pictures])
    ruined = Preparation(levels=2)
    with pytest.raises(ExportError, match=r"^in 8 bits only \d+\.\d% is answered as in float32 .* was not written$"):
        export_model(
            model,
            TARGETS["onnx"],
            tmp_path / "m.onnx",
            int8=True,
            calibration=calibration,
            preparation=ruined,
            pictures=pictures,
        )
    assert list(tmp_path.iterdir()) == []


def test_an_export_never_replaces_what_is_none(tmp_path: Path) -> None:
    model, precious = make_random_model(preprocessing=SIZE), tmp_path / "precious"
    precious.mkdir()
    (precious / "photo.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="is there already, and is no export"):
        export_model(model, OPENVINO, precious)
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        export_model(model, TARGETS["onnx"], precious)
    assert (precious / "photo.jpg").read_bytes() == b"x"


def test_calibration_takes_training_pictures_of_labelled_data_and_any_others(colours: Path, tmp_path: Path) -> None:
    card = make_random_model(preprocessing=SIZE, num_classes=3).card
    card = replace(card, labels=("blue", "green", "red"))
    _, names = calibration_pictures(colours, card, count=20)
    assert len(names) == 20
    assert all(name.startswith("train/") for name in names)
    _, names = calibration_pictures(colours / "val", card)
    assert len(names) == 12
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no pictures")
    with pytest.raises(UserError, match="has no pictures to calibrate with"):
        calibration_pictures(tmp_path / "empty", card)


def test_the_support_table_says_what_it_knows() -> None:
    rows = support()
    assert len(rows) == 2 * len(TARGETS) * 3
    assert {row.state for row in rows if row.target == "ncnn" and row.precision == "int8"} == {"blocked"}
    assert all(row.reason for row in rows if row.state != "available")
    table = support_table()
    page = Path(__file__).parents[2] / "docs" / "exports.md"
    assert table in page.read_text(encoding="utf-8")


def test_the_verb_from_pictures_to_a_file_in_eight_bits(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, picture in enumerate(turned_pictures()):
        picture.save(folder / f"{index:02}.png")
    report = api.export("cifar10", out=tmp_path / "m.onnx", int8=True, calibrate=folder, by_layer=True)
    assert report.pictures == 24
    assert report.layers is not None
    assert len(report.layers.layers) == 53
    last = report.layers.layers[-1]
    assert last.name == "classifier"
    assert 3 < last.sqnr_db < 60
    assert len(last.least) == 10
    assert report.layers.to_text().count("\n") == 12
    with pytest.raises(UserError, match="give some by --calibrate DIR"):
        api.export("cifar10", out=tmp_path / "m.onnx", int8=True, by_layer=True)
    with pytest.raises(UserError, match="does not know the ranges of its activations"):
        api.export("cifar10", out=tmp_path / "m.onnx", int8=True)
