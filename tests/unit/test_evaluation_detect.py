"""Measuring a detector's file through the runtime, as `evaluate` prints it and as a card keeps it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import RandomDetector
from mobilenetv2.data.annotations import BoxedPicture
from mobilenetv2.data.shapes import CLASSES, write_shapes
from mobilenetv2.errors import DataError
from mobilenetv2.evaluation import DetectionEvaluation, evaluate
from mobilenetv2.evaluation.box_metrics import box_metrics, match_picture
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.plots import pr_curves_png
from mobilenetv2.predictions import Detections, Timing
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.predictor import predictor_of


def detections(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Detections:
    return Detections(
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        scores=np.array(scores, np.float32),
        names=("a", "b"),
        size_hw=(100, 100),
        source="",
        model="m",
        ms=Timing(decode=0, preprocess=0, network=0, postprocess=0),
    )


def boxed(name: str, boxes: list[list[float]], labels: list[int]) -> BoxedPicture:
    none = np.zeros(len(labels), bool)
    return BoxedPicture(
        name=name,
        size_hw=(100, 100),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        ignored=none,
        crowd=none,
        image_id=int(name),
    )


A, B, FAR = [10.0, 10.0, 30.0, 30.0], [50.0, 50.0, 90.0, 80.0], [0.0, 80.0, 10.0, 100.0]
PICTURES = (boxed("1", [A, B], [0, 1]), boxed("2", [A], [0]), boxed("3", [], []))
FOUND = (
    detections([A, B, FAR], [0, 1, 0], [0.9, 0.8, 0.1]),
    detections([FAR], [1], [0.6]),
    detections([], [], []),
)
EVALUATION = DetectionEvaluation(
    model="m",
    data="data",
    split="val",
    skipped=0,
    classes=("a", "b"),
    metrics=box_metrics(PICTURES, FOUND, ("a", "b")),
    pictures=PICTURES,
    found=FOUND,
)


def test_errors_are_those_from_the_best_threshold_on() -> None:
    assert EVALUATION.metrics.best_threshold == pytest.approx(0.8)
    first, second, third = EVALUATION.errors()
    # At .8 the answer of .6 is not shown: the second picture has a box that was missed, and nothing wrong.
    assert [one.picture.name for one in (first, second, third)] == ["2", "1", "3"]
    assert (first.wrong.tolist(), first.missed.tolist()) == ([], [True])
    assert (second.wrong.tolist(), second.missed.tolist()) == ([False, False], [False, False])
    assert third.errors == 0


def test_what_a_card_and_json_hold(random_detector: RandomDetector) -> None:
    assert (EVALUATION.images, EVALUATION.boxes) == (3, 3)
    values = json.loads(json.dumps(EVALUATION.to_dict()))
    assert {"task", "AP", "AP50", "AP75", "ARl", "voc_ap", "per_class", "best_threshold"} <= set(values)
    assert [row["name"] for row in values["per_class"]] == ["a", "b"]
    model = random_detector(preprocessing=Preprocessing(size_hw=(64, 64)))
    card = EVALUATION.completed(model.card)
    assert card.metrics == EVALUATION.card_metrics()
    assert card.postprocessing is not None
    # Shown is what lies above: from .80 on the answer of .8 itself, which counts, would be missing.
    assert card.postprocessing.score_threshold == 0.79
    text = EVALUATION.to_text()
    assert "3 pictures, 3 boxes" in text
    assert "best F1 80.0% at score 0.80" in text
    results = EVALUATION.to_coco_results()
    assert len(results) == 4
    assert results[0] == {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.9}
    assert pr_curves_png(EVALUATION).startswith(b"\x89PNG")


@pytest.mark.parametrize(("best", "shown_from"), [(0.8049, 0.8), (0.011, 0.05), (0.999, 0.95), (0.05, 0.05)])
def test_a_card_s_threshold_shows_neither_noise_nor_nothing(
    random_detector: RandomDetector, best: float, shown_from: float
) -> None:
    card = random_detector(preprocessing=Preprocessing(size_hw=(64, 64))).card
    completed = replace(EVALUATION, metrics=replace(EVALUATION.metrics, best_threshold=best)).completed(card)
    assert completed.postprocessing is not None
    assert completed.postprocessing.score_threshold == shown_from


def test_a_surer_answer_takes_the_box_whatever_their_order() -> None:
    near = [10.0, 10.0, 30.0, 29.0]
    found = detections([near, A, B, FAR], [0, 0, 0, 1], [0.7, 0.9, 0.9, 0.8])
    assert match_picture(found, PICTURES[0]).tolist() == [-1, 0, -1, -1]
    ignored = replace(PICTURES[0], ignored=np.array([True, False]))
    # Any number of answers may hit an ignored box; one of another class hits nothing.
    assert match_picture(found, ignored).tolist() == [-2, -2, -1, -1]
    assert match_picture(found, PICTURES[2]).tolist() == [-1] * 4
    assert match_picture(detections([], [], []), PICTURES[0]).tolist() == []


def test_nothing_found_says_nothing_of_a_threshold(random_detector: RandomDetector) -> None:
    none = tuple(detections([], [], []) for _ in PICTURES)
    evaluation = replace(EVALUATION, metrics=box_metrics(PICTURES, none, ("a", "b")), found=none)
    card = random_detector(preprocessing=Preprocessing(size_hw=(64, 64))).card
    assert evaluation.completed(card).postprocessing == card.postprocessing
    assert "AP 0.0%" in evaluation.to_text()
    assert pr_curves_png(evaluation).startswith(b"\x89PNG")
    assert evaluation.errors()[0].missed.all()


@pytest.fixture
def model(random_detector: RandomDetector) -> ModelFile:
    made = random_detector(preprocessing=Preprocessing(size_hw=(64, 64)), num_classes=len(CLASSES))
    return replace(made, card=replace(made.card, labels=CLASSES))


def test_the_runtime_s_answers_are_measured_from_a_low_score_on(tmp_path: Path, model: ModelFile) -> None:
    write_shapes(tmp_path, train=2, val=5)
    predictor = predictor_of(model, score_threshold=0.99)
    evaluation = evaluate(predictor, tmp_path)
    assert isinstance(evaluation, DetectionEvaluation)
    low = predictor_of(model, score_threshold=0.01)
    for picture, found in zip(evaluation.pictures, evaluation.found, strict=True):
        expected = low.predict(tmp_path / picture.name)
        assert isinstance(expected, Detections)
        np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
        np.testing.assert_array_equal(found.scores, expected.scores)
    expected_metrics = box_metrics(evaluation.pictures, evaluation.found, CLASSES)
    assert evaluation.metrics.coco() == expected_metrics.coco()
    # The predictor itself stays as it was.
    assert predictor.card.postprocessing is not None
    assert predictor.card.postprocessing.score_threshold == 0.99


def test_pictures_that_cannot_be_decoded(tmp_path: Path, model: ModelFile) -> None:
    write_shapes(tmp_path, train=2, val=5)
    path = tmp_path / "images/val/00003.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    predictor = predictor_of(model)
    with pytest.raises(DataError, match=r"1 of 5 images cannot be decoded \(first: .*00003.jpg.*--skip-bad"):
        evaluate(predictor, tmp_path)
    evaluation = evaluate(predictor, tmp_path, skip_bad=True)
    assert isinstance(evaluation, DetectionEvaluation)
    assert (evaluation.images, evaluation.skipped) == (4, 1)
