"""Measuring a segmenter through the runtime, as `evaluate` prints it and as a card keeps it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.errors import DataError
from mobilenetv2.evaluation import SegmentationEvaluation, evaluate
from mobilenetv2.evaluation.segment import PICTURES_KEPT
from mobilenetv2.modelfile import Card
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.predictor import Predictor
from mobilenetv2.runtime.scorers import Scores
from mobilenetv2.segmenter import Segmenter

CLASSES = ("sky", "road", "car")
VOID = 3  # in the files


class RedIsTheClass:
    """Finds the class that the red level of a pixel names, so that a picture says what is found on it."""

    batch = 1

    def prepare(self, picture: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(picture)[..., 0] // 80

    def score(self, prepared: Sequence[NDArray[np.uint8]]) -> Scores:
        return Scores(prepared, 1.0, 0.0)

    def with_card(self, card: Card) -> RedIsTheClass:
        return self


def predictor(labels: tuple[str, ...] = CLASSES) -> Predictor:
    card = Card(
        name="red",
        task="segment",
        architecture=Segmenter(num_classes=len(labels)),
        labels=labels,
        preprocessing=Preprocessing(size_hw=(64, 64)),
    )
    return Predictor(card, RedIsTheClass())


def write(root: Path, name: str, found: NDArray[np.uint8], true: NDArray[np.uint8]) -> None:
    for folder, values in (("images", np.stack([found * 80] * 3, axis=-1)), ("masks", true)):
        path = root / folder / "val" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint8)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures of different size: all right; a quarter wrong; a third found as a car that is not there."""
    root = tmp_path / "street"
    right = np.array([[0, 0, 1, 1]] * 4, np.uint8).repeat(10, 0).repeat(10, 1)
    write(root, "right", right, right)
    quarter = np.zeros((40, 80), np.uint8)
    quarter[:, :40] = 1
    wrong = quarter.copy()
    wrong[:, :20] = 0
    write(root, "quarter", wrong, quarter)
    road = np.ones((30, 30), np.uint8)
    cars = road.copy()
    cars[:10] = 2
    # What was found where nobody knows does not count.
    unknown = road.copy()
    unknown[25:] = VOID
    cars[25:] = 0
    write(root, "cars", cars, unknown)
    (root / "classes.txt").write_text("sky\nroad\ncar\nvoid\n")
    return root


def measured(data: Path, *, skip_bad: bool = False) -> SegmentationEvaluation:
    evaluation = evaluate(predictor(), data, skip_bad=skip_bad)
    assert isinstance(evaluation, SegmentationEvaluation)
    return evaluation


def test_pixels_of_all_pictures_are_counted_together(data: Path) -> None:
    ticks: list[int] = []
    evaluation = evaluate(predictor(), data, tick=ticks.append)
    assert isinstance(evaluation, SegmentationEvaluation)
    assert (evaluation.images, evaluation.skipped, evaluation.split, sum(ticks)) == (3, 0, "val", 3)
    # right: 800 sky, 800 road. quarter: 1,600 sky, 800 of 1,600 road. cars: 450 road, 300 as cars.
    expected = [[800 + 1600, 0, 0], [800, 800 + 800 + 450, 300], [0, 0, 0]]
    assert evaluation.confusion.tolist() == expected
    sky, road, car = (row.iou for row in evaluation.metrics.per_class)
    assert (sky, road, car) == (2400 / 3200, 2050 / 3150, 0)
    assert evaluation.metrics.miou == pytest.approx((2400 / 3200 + 2050 / 3150) / 3)
    assert evaluation.metrics.pixel_accuracy == pytest.approx(4450 / 5550)
    assert evaluation.confusions() == [("road", "sky", 800), ("road", "car", 300)]
    # The road's boundary is right; found twice, once where it is (2/3); found where there is none.
    assert evaluation.metrics.per_class[1].boundary_f == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_the_worst_pictures_are_kept_and_no_more(data: Path) -> None:
    evaluation = measured(data)
    assert [one.picture.name for one in evaluation.worst] == [
        f"images/val/{name}.png" for name in ("cars", "quarter", "right")
    ]
    # Road 450 of 750 pixels, and cars where there are none.
    assert evaluation.worst[0].miou == pytest.approx((450 / 750 + 0) / 2)
    assert evaluation.worst[0].pixel_accuracy == pytest.approx(450 / 750)
    assert (evaluation.worst[0].found[:10] == 2).all()
    assert [one.picture.name for one in evaluation.errors()] == ["images/val/cars.png", "images/val/quarter.png"]
    assert len(evaluation.errors(1)) == 1
    true = np.zeros((20, 20), np.uint8)
    for rows in range(2 * PICTURES_KEPT):
        found = true.copy()
        found[:rows] = 1
        write(data, f"rows{rows:02}", found, true)
    evaluation = measured(data)
    assert evaluation.images == 3 + 2 * PICTURES_KEPT
    assert len(evaluation.worst) == PICTURES_KEPT
    shares = [one.miou for one in evaluation.worst]
    assert shares == sorted(shares)
    assert evaluation.worst[0].picture.name == "images/val/rows15.png"


def test_what_a_card_json_and_text_hold(data: Path) -> None:
    evaluation = measured(data)
    values = json.loads(json.dumps(evaluation.to_dict()))
    assert {"task", "model", "data", "images", "miou", "pixel_accuracy", "boundary_f", "per_class"} <= set(values)
    assert values["task"] == "segment"
    assert values["per_class"][2] == {
        "name": "car",
        "pixels": 0,
        "iou": 0.0,
        "precision": 0.0,
        "recall": None,
        "boundary_f": 0.0,
    }
    assert values["worst"][0] == {"image": "images/val/cars.png", "miou": 0.3, "pixel_accuracy": 0.6}
    card = evaluation.completed(predictor().card)
    assert card.metrics == evaluation.card_metrics()
    assert card.metrics["miou"] == values["miou"] == pytest.approx(0.466931)
    assert card.metrics["data"] == "street, val"
    text = evaluation.to_text()
    assert "3 pictures" in text
    assert "mIOU 46.7%   pixel accuracy 80.2%" in text
    assert "road as sky: 800 pixels" in text


def test_classes_are_numbered_as_the_model_has_them(data: Path) -> None:
    (data / "classes.txt").write_text("car\nroad\nsky\nvoid\n")
    evaluation = measured(data)
    # What the files call 0 is the sky now, and their 2 the car.
    assert evaluation.confusion.tolist()[2] == [2400, 0, 0]
    (data / "classes.txt").write_text("tree\nroad\nsky\nvoid\n")
    with pytest.raises(DataError, match="'tree'"):
        measured(data)


def test_pictures_that_cannot_be_decoded(data: Path) -> None:
    random = np.random.default_rng(0).integers(0, 3, (90, 90)).astype(np.uint8)
    write(data, "noise", random, random)
    path = data / "images/val/noise.png"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match=r"1 of 4 images cannot be decoded \(first: .*noise.png.*--skip-bad"):
        measured(data)
    evaluation = measured(data, skip_bad=True)
    assert (evaluation.images, evaluation.skipped) == (3, 1)
    assert "1 unreadable ones left out" in evaluation.to_text()


def test_a_model_that_is_always_right(data: Path) -> None:
    for name in ("cars", "quarter"):
        for folder in ("images", "masks"):
            (data / folder / "val" / f"{name}.png").unlink()
    evaluation = measured(data)
    assert (evaluation.metrics.miou, evaluation.metrics.pixel_accuracy, evaluation.metrics.boundary_f) == (1, 1, 1)
    assert evaluation.errors() == []
    # The model knows cars; here are none.
    assert evaluation.metrics.per_class[2].iou is None
    assert "most often" not in evaluation.to_text()
    assert replace(evaluation, skipped=2).to_dict()["skipped"] == 2
