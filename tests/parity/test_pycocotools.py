"""COCO's numbers are pycocotools', on random boxes with crowds, ties and empty pictures."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mobilenetv2.data.annotations import BoxedPicture
from mobilenetv2.evaluation.box_metrics import COCO_NUMBERS, box_metrics
from mobilenetv2.runtime.detect import Found


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    corners = random.uniform(0, 400, (count, 2))
    # Some are given twice, and sizes reach from COCO's small to large.
    sides = random.choice([8, 20, 60, 150], (count, 1)) * random.uniform(0.5, 2, (count, 2))
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def scenes(seed: int, classes: int = 4) -> tuple[list[BoxedPicture], list[Found]]:
    random = np.random.default_rng(seed)
    pictures, found = [], []
    for number in range(40):
        count = int(random.integers(0, 12))
        boxes, labels = random_boxes(random, count), random.integers(0, classes, count)
        crowd = random.random(count) < 0.1
        pictures.append(
            BoxedPicture(
                name=f"{number}.png",
                size_hw=(700, 700),
                boxes_xyxy=boxes,
                labels=labels,
                ignored=crowd,
                crowd=crowd,
                image_id=number,
            )
        )
        # Near the true boxes and elsewhere; few different scores, so that many are equal.
        near = boxes + random.normal(0, 4, boxes.shape)
        answers = np.concatenate([near, near[: count // 2], random_boxes(random, int(random.integers(0, 5)))])
        answers[:, 2:] = np.maximum(answers[:, 2:], answers[:, :2] + 1)
        said = np.concatenate(
            [labels, labels[: count // 2], random.integers(0, classes, len(answers) - count * 3 // 2)]
        )
        scores = random.integers(1, 30, len(answers)) / 30
        found.append(
            Found(boxes_xyxy=answers.astype(np.float32), scores=scores.astype(np.float32), labels=said.astype(np.int64))
        )
    return pictures, found


def reference(pictures: list[BoxedPicture], found: list[Found], classes: int) -> tuple[list[float], Any]:
    def xywh(box: np.ndarray[Any, Any]) -> list[float]:
        x1, y1, x2, y2 = box.astype(np.float64).tolist()
        return [x1, y1, x2 - x1, y2 - y1]

    truth = COCO()
    annotations: list[dict[str, Any]] = [
        {"image_id": n, "category_id": int(label), "bbox": xywh(box), "iscrowd": int(crowd)}
        for n, picture in enumerate(pictures)
        for box, label, crowd in zip(picture.boxes_xyxy, picture.labels, picture.crowd, strict=True)
    ]
    for number, one in enumerate(annotations, 1):
        one |= {"id": number, "area": one["bbox"][2] * one["bbox"][3]}
    truth.dataset = {
        "info": {},
        "images": [{"id": n} for n in range(len(pictures))],
        "categories": [{"id": label, "name": str(label)} for label in range(classes)],
        "annotations": annotations,
    }
    answers = [
        {"image_id": n, "category_id": int(label), "bbox": xywh(box), "score": float(score)}
        for n, some in enumerate(found)
        for box, label, score in zip(some.boxes_xyxy, some.labels, some.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(answers), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return list(evaluator.stats), evaluator.eval["precision"]


@pytest.mark.parametrize("seed", range(6))
def test_the_twelve_numbers_and_those_of_each_class(seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    pictures, found = scenes(seed)
    expected, precision = reference(pictures, found, 4)
    metrics = box_metrics(pictures, found, ("a", "b", "c", "d"))
    assert capfd.readouterr().out == ""
    for name, value in zip(COCO_NUMBERS, expected, strict=True):
        ours = getattr(metrics, name)
        assert (-1 if ours is None else ours) == pytest.approx(value, abs=1e-9), name
    for label, row in enumerate(metrics.per_class):
        assert row.AP == pytest.approx(precision[:, :, label, 0, 2].mean(), abs=1e-9)
        assert row.AP50 == pytest.approx(precision[0, :, label, 0, 2].mean(), abs=1e-9)
