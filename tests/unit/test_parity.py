"""Comparing answers: what rounding may do passes, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mobilenetv2.detector import Detector
from mobilenetv2.exports.parity import compare
from mobilenetv2.modelfile import Card
from mobilenetv2.postprocessing import Postprocessing
from mobilenetv2.predictions import Classification, Detections, Timing
from mobilenetv2.preprocessing import Preprocessing

NAMES = ("cat", "dog")
CARD = Card(
    name="m",
    task="detect",
    architecture=Detector(num_classes=2),
    labels=NAMES,
    preprocessing=Preprocessing(size_hw=(320, 320)),
    postprocessing=Postprocessing(score_threshold=0.01, max_detections=4),
)
ABOUT: Any = {
    "names": NAMES,
    "size_hw": (100, 200),
    "source": "",
    "model": "m",
    "ms": Timing(decode=0, preprocess=0, network=0, postprocess=0),
}
LEFT, RIGHT, BEYOND = (0.0, 0.0, 100.0, 50.0), (110.0, 10.0, 150.0, 90.0), (200.0, 40.0, 200.0, 60.0)
Box = tuple[tuple[float, float, float, float], float, int]


def detections(*boxes: Box) -> Detections:
    """Of edges, score and class."""
    edges = np.array([box[0] for box in boxes], np.float32).reshape(-1, 4)
    scores, labels = np.array([box[1] for box in boxes], np.float32), np.array([box[2] for box in boxes], np.int64)
    return Detections(boxes_xyxy=edges, scores=scores, labels=labels, **ABOUT)


BOTH = detections((LEFT, 0.9, 0), (RIGHT, 0.5, 1))


@pytest.mark.parametrize(
    "found",
    [
        BOTH,
        detections((RIGHT, 0.5, 1), (LEFT, 0.9, 0)),
        detections((LEFT, 0.9009, 0), (RIGHT, 0.4991, 1)),
        detections(((0, 0, 99.5, 50), 0.9, 0), (RIGHT, 0.5, 1)),
        # So near to the threshold that rounding may take it away.
        detections((LEFT, 0.9, 0), (RIGHT, 0.5, 1), (LEFT, 0.0105, 1)),
    ],
)
def test_the_same_but_for_rounding(found: Detections) -> None:
    for expected, answer in ((BOTH, found), (found, BOTH)):
        comparison = compare(expected, answer, CARD)
        assert (comparison.problem, comparison.boxes) == ("", 2)
        assert comparison.largest_difference <= 1e-3
        assert 0.99 < comparison.least_iou <= 1


@pytest.mark.parametrize(
    "found",
    [
        detections(),
        detections((LEFT, 0.9, 0)),
        detections((LEFT, 0.9, 0), (RIGHT, 0.5, 0)),
        detections((LEFT, 0.9, 0), (RIGHT, 0.502, 1)),
        detections((LEFT, 0.9, 0), ((110, 10, 150, 89), 0.5, 1)),
        detections((LEFT, 0.9, 0), (RIGHT, 0.5, 1), (LEFT, 0.0115, 1)),
        # One box cannot stand for two.
        detections((LEFT, 0.9, 0), (RIGHT, 0.5, 1), (RIGHT, 0.5, 1)),
        detections((LEFT, 0.9, 0), (RIGHT, float("nan"), 1)),
        detections((LEFT, 0.9, 0), ((float("nan"),) * 4, 0.5, 1)),
    ],
)
def test_more_than_rounding(found: Detections) -> None:
    assert compare(BOTH, found, CARD).problem.startswith("the ")
    assert compare(found, BOTH, CARD).problem.startswith("the ")


def test_the_problem_in_words() -> None:
    missing = "finds 'dog' (0.5000) at 110.0, 10.0, 150.0, 90.0, where the"
    alone = detections((LEFT, 0.9, 0))
    assert compare(BOTH, alone, CARD).problem == f"the model file {missing} exported model does not"
    assert compare(alone, BOTH, CARD).problem == f"the exported model {missing} model file does not"


def test_the_last_of_as_many_boxes_as_there_may_be() -> None:
    three = [(LEFT, 0.9, 0), (RIGHT, 0.8, 1), (LEFT, 0.7, 1)]
    one, other = detections(*three, (RIGHT, 0.5, 0)), detections(*three, ((0.0, 60.0, 30.0, 99.0), 0.5004, 1))
    comparison = compare(one, other, CARD)
    assert (comparison.problem, comparison.boxes) == ("", 3)
    better = detections(*three, ((0.0, 60.0, 30.0, 99.0), 0.502, 1))
    assert compare(one, better, CARD).problem.startswith("the exported model finds 'dog' (0.5020)")
    # Where there is room for more, the same box may not be missing.
    assert compare(one, detections(*three), CARD).problem.startswith("the model file finds 'cat' (0.5000)")


def test_boxes_without_area_and_none_at_all() -> None:
    comparison = compare(detections((BEYOND, 0.3, 0)), detections((BEYOND, 0.3, 0)), CARD)
    assert (comparison.problem, comparison.boxes, comparison.least_iou) == ("", 1, 1)
    comparison = compare(detections(), detections(), CARD)
    assert (comparison.problem, comparison.boxes, comparison.largest_difference) == ("", 0, 0)


def test_different_tasks_cannot_be_compared() -> None:
    answer = Classification(scores=np.array([0.4, 0.6], np.float32), **ABOUT)
    with pytest.raises(TypeError, match="Classification and Detections"):
        compare(answer, BOTH, CARD)
