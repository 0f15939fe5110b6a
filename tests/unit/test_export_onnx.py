"""Export: what is written answers like the model file, and what does not is not written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from conftest import RandomDetector, RandomModel
from mobilenetv2.errors import ExportError, ImageError, UserError
from mobilenetv2.exports import onnx as export
from mobilenetv2.exports.export import ExportReport, export_model
from mobilenetv2.exports.parity import compare
from mobilenetv2.exports.target import TARGETS
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.postprocessing import Postprocessing, Scores
from mobilenetv2.predictions import Classification, Detections
from mobilenetv2.preprocessing import Interpolation, Preprocessing, Resize
from mobilenetv2.runtime.drawn import draw_pictures
from mobilenetv2.runtime.engine import PictureEngine
from mobilenetv2.runtime.graph import picture_graph
from mobilenetv2.runtime.predictor import load, predictor_of

Drawn = list[NDArray[np.uint8]]
SIZES = ((1, 1), (1, 77), (5, 3), (64, 64), (65, 64), (301, 200), (480, 640), (30, 700))
MODES = ("RGB", "L", "RGBA", "P", "1", "CMYK", "I;16")


def picture(width: int, height: int, mode: str) -> Image.Image:
    random = np.random.default_rng(width)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 2**16, (height, width), dtype=np.uint16))
    levels = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(levels).convert(mode) if mode != "RGBA" else Image.fromarray(levels)


def changed(model: ModelFile, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> ModelFile:
    return ModelFile(card=model.card, tensors={**model.tensors, name: change(model.tensors[name])})


def unsure(model: ModelFile) -> ModelFile:
    """The same with smaller logits that the picture decides: a probability of 1 stays 1, whatever goes wrong before."""
    model = changed(model, "classifier.weight", lambda weight: weight * np.float32(0.3))
    return changed(model, "classifier.bias", lambda bias: bias * np.float32(0.05))


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return list(draw_pictures())


@pytest.fixture(scope="module")
def model(random_model: RandomModel) -> ModelFile:
    return unsure(random_model(preprocessing=Preprocessing(size_hw=(64, 64), interpolation="bicubic"), num_classes=6))


@pytest.mark.parametrize("numerics", ["torch", "tf"])
@pytest.mark.parametrize(
    ("resize", "interpolation"),
    [
        ("stretch", "bilinear"),
        ("crop", "bicubic"),
        ("central", "bilinear"),
        ("central", "sampled"),
        ("crop", "sampled"),
    ],
)
def test_the_exported_file_answers_like_the_model_file(
    random_model: RandomModel, tmp_path: Path, numerics: str, resize: Resize, interpolation: Interpolation
) -> None:
    preprocessing = Preprocessing(
        size_hw=(64, 64), resize=resize, crop_fraction=0.875, interpolation=interpolation, mean_rgb=(0.5, 0.4, 0.3)
    )
    model = unsure(random_model(preprocessing=preprocessing, numerics=numerics))
    model.save(tmp_path / "m.safetensors")
    path = tmp_path / "m.onnx"
    report = export_model(model, TARGETS["onnx"], path)
    assert report == ExportReport(
        path=path, pictures=9, largest_difference=report.largest_difference, file_bytes=path.stat().st_size
    )
    assert report.largest_difference is not None
    assert report.largest_difference <= 1e-3
    ours, theirs = load(tmp_path / "m.safetensors", threads=1), load(path, threads=1)
    assert theirs.card == model.card
    classes = set()
    for size in SIZES:
        for mode in MODES:
            expected, found = ours.predict(picture(*size, mode)), theirs.predict(picture(*size, mode))
            assert isinstance(expected, Classification)
            assert isinstance(found, Classification)
            assert np.abs(found.scores - expected.scores).max() <= 1e-3
            assert found.best.index == expected.best.index
            assert found.size_hw == expected.size_hw == size[::-1]
            classes.add(found.best.index)
    assert len(classes) > 1


def with_mean(model: ModelFile) -> ModelFile:
    preprocessing = replace(model.card.preprocessing, mean_rgb=(0.5, 0.5, 0.55))
    return replace(model, card=replace(model.card, preprocessing=preprocessing))


def with_interpolation(model: ModelFile) -> ModelFile:
    preprocessing = replace(model.card.preprocessing, interpolation="bilinear")
    return replace(model, card=replace(model.card, preprocessing=preprocessing))


def with_weight(model: ModelFile) -> ModelFile:
    return changed(model, "stages.3.blocks.0.filter.conv.weight", lambda kernel: kernel * np.float32(1.05))


def with_channels_swapped(model: ModelFile) -> ModelFile:
    return changed(model, "stem.conv.weight", lambda kernel: kernel[:, ::-1].copy())


@pytest.mark.parametrize(
    ("tamper", "where"),
    [
        (with_mean, "the preprocessing"),
        (with_interpolation, "the preprocessing"),
        (with_weight, r"layer 'stages\.3\.blocks\.0\.filter'"),
        (with_channels_swapped, "layer 'stem'"),
    ],
)
def test_a_graph_that_differs_is_not_written(
    model: ModelFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tamper: Callable[[ModelFile], ModelFile],
    where: str,
    drawn: Drawn,
) -> None:
    monkeypatch.setattr(export, "picture_graph", lambda whole, **options: picture_graph(tamper(whole), **options))
    out = tmp_path / "out"
    out.mkdir()
    small = drawn[3:5]
    with pytest.raises(
        ExportError,
        match=rf"^picture \d: the exported model answers .* first to differ is {where}, .* was not written$",
    ):
        export_model(model, TARGETS["onnx"], out / "m.onnx", pictures=small)
    path = tmp_path / "a photo.png"
    Image.fromarray(drawn[5]).save(path)
    with pytest.raises(ExportError, match=f"^{path}: ") as caught:
        export_model(model, TARGETS["onnx"], out / "m.onnx", pictures=[path])
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []


def test_answers_that_are_no_numbers_are_not_written(
    model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PictureEngine, "run", lambda *_, **__: (np.full((1, 6), np.nan, np.float32),))
    with pytest.raises(ExportError, match="largest difference nan"):
        export_model(model, TARGETS["onnx"], tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def detector(random_detector: RandomDetector) -> ModelFile:
    how = Postprocessing(score_threshold=0.4, max_detections=60)
    return random_detector(preprocessing=Preprocessing(size_hw=(96, 64)), postprocessing=how)


@pytest.mark.parametrize(
    ("scores", "num_classes", "numerics", "interpolation"),
    [("sigmoid", 3, "torch", "bicubic"), ("softmax", 1, "torch", "bicubic"), ("softmax", 20, "tf", "sampled")],
)
def test_the_exported_detector_answers_like_the_model_file(
    random_detector: RandomDetector,
    tmp_path: Path,
    scores: Scores,
    num_classes: int,
    numerics: str,
    interpolation: Interpolation,
) -> None:
    model = random_detector(
        preprocessing=Preprocessing(size_hw=(96, 64), interpolation=interpolation, mean_rgb=(0.5, 0.4, 0.3)),
        postprocessing=Postprocessing(scores=scores, score_threshold=0.15),
        num_classes=num_classes,
        numerics=numerics,
    )
    path = tmp_path / "m.onnx"
    report = export_model(model, TARGETS["onnx"], path)
    assert report.boxes is not None
    assert report.least_iou is not None
    assert report.boxes >= 9 * 50
    assert report.least_iou > 0.99
    assert report.largest_difference is not None
    assert report.largest_difference <= 1e-3
    assert report.file_bytes == path.stat().st_size
    ours, theirs = predictor_of(model, threads=1), load(path, threads=1)
    assert theirs.card == model.card
    boxes = 0
    for size in SIZES:
        expected, found = ours.predict(picture(*size, "RGB")), theirs.predict(picture(*size, "RGB"))
        comparison = compare(expected, found, model.card)
        assert comparison.problem == ""
        assert isinstance(found, Detections)
        assert found.size_hw == size[::-1]
        # The card's threshold again, not that of the proof.
        assert (found.scores > 0.15).all()
        boxes += comparison.boxes
    assert boxes > 100


def with_detection_weight(model: ModelFile) -> ModelFile:
    return changed(model, "class_heads.0.predict.bias", lambda bias: bias + np.float32(0.02))


def with_other_anchors(model: ModelFile) -> ModelFile:
    detector, _ = model.card.detection
    (first, *others), *maps = detector.anchors
    anchors = (((first[0] * 1.03, first[1]), *others), *maps)
    return replace(model, card=replace(model.card, architecture=replace(detector, anchors=anchors)))


def with_other_suppression(model: ModelFile) -> ModelFile:
    _, how = model.card.detection
    return replace(model, card=replace(model.card, postprocessing=replace(how, iou_threshold=0.5)))


def with_fewer_detections(model: ModelFile) -> ModelFile:
    _, how = model.card.detection
    return replace(model, card=replace(model.card, postprocessing=replace(how, max_detections=59)))


@pytest.mark.parametrize(
    "tamper", [with_mean, with_detection_weight, with_other_anchors, with_other_suppression, with_fewer_detections]
)
def test_a_detector_that_differs_is_not_written(
    detector: ModelFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tamper: Callable[[ModelFile], ModelFile],
    drawn: Drawn,
) -> None:
    monkeypatch.setattr(export, "picture_graph", lambda whole, **options: picture_graph(tamper(whole), **options))
    message = r"^picture \d: the (exported model|model file) finds 'class \d' \(0\.\d+\) at .* was not written$"
    with pytest.raises(ExportError, match=message) as caught:
        export_model(detector, TARGETS["onnx"], tmp_path / "m.onnx", pictures=drawn[3:])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_detector_that_finds_nothing_is_not_proven(detector: ModelFile, tmp_path: Path, drawn: Drawn) -> None:
    model = detector
    for index in range(6):
        model = changed(model, f"class_heads.{index}.predict.bias", lambda bias: bias - np.float32(1000))
    with pytest.raises(UserError, match=r"^nothing was found in the pictures.*m\.onnx was not written$"):
        export_model(model, TARGETS["onnx"], tmp_path / "m.onnx", pictures=drawn[:2])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_proven_is_not_written(model: ModelFile, tmp_path: Path, drawn: Drawn) -> None:
    with pytest.raises(UserError, match=r"no pictures to check .*m\.onnx was not written"):
        export_model(model, TARGETS["onnx"], tmp_path / "m.onnx", pictures=[])
    with pytest.raises(ImageError, match=r"none\.png: "):
        export_model(model, TARGETS["onnx"], tmp_path / "m.onnx", pictures=[drawn[0], "none.png"])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(
    model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: Drawn
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        export_model(model, TARGETS["onnx"], path, pictures=drawn[:1])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="there is no folder"):
        export_model(model, TARGETS["onnx"], tmp_path / "none" / "m.onnx", pictures=drawn[:1])


def test_the_report_in_one_line() -> None:
    report = ExportReport(path=Path("m.onnx"), pictures=12, largest_difference=2.1e-7, file_bytes=9_140_000)
    words = "answered alike, largest difference of a probability"
    assert report.to_text() == f"12 pictures {words} 2.1e-07, 9.1 MB"
    assert replace(report, pictures=1).to_text() == f"1 picture {words} 2.1e-07, 9.1 MB"
    report = replace(report, boxes=731, least_iou=0.99996)
    words = "least overlap (IoU) 1.0000, largest difference of a score 2.1e-07, 9.1 MB"
    assert report.to_text() == f"12 pictures answered alike, 731 boxes, {words}"
    assert replace(report, boxes=1).to_text() == f"12 pictures answered alike, 1 box, {words}"


def test_the_drawn_pictures_are_always_the_same(drawn: Drawn) -> None:
    once, again = drawn, draw_pictures()
    assert len({array.shape for array in once}) == 9
    for one, other in zip(once, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.size == 3 or one.std() > 10
