"""Decoding of a detector's raw outputs, against plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mobilenetv2.anchors import anchor_grid, encode, tf_anchor_sizes
from mobilenetv2.postprocessing import Postprocessing
from mobilenetv2.runtime.detect import Found, decode

ANCHORS = anchor_grid((64, 64), tf_anchor_sizes())
Box = tuple[np.float32, np.float32, np.float32, np.float32]


def raw(seed: int, *, pictures: int = 1, classes: int = 3, spread: float = 2.0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Random outputs; the logits are few different ones, so that many scores are equal."""
    random = np.random.default_rng(seed)
    logits = np.round(random.normal(-1, spread, (pictures, len(ANCHORS), classes + 1)) * 4) / 4
    return logits.astype(np.float32), random.normal(0, 1.5, (pictures, len(ANCHORS), 4)).astype(np.float32)


def loop_scores(row: NDArray[np.float32], kind: str) -> list[np.float32]:
    values = [float(value) for value in row]
    if kind == "sigmoid":
        return [np.float32(1 / (1 + math.exp(-value))) for value in values[1:]]
    powers = [math.exp(value - max(values)) for value in values]
    return [np.float32(power / sum(powers)) for power in powers[1:]]


def loop_box(code: NDArray[np.float32], anchor: NDArray[np.float32]) -> Box:
    wide, high = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x = code[0] / np.float32(10) * wide + (anchor[0] + anchor[2]) / np.float32(2)
    y = code[1] / np.float32(10) * high + (anchor[1] + anchor[3]) / np.float32(2)
    limit = np.float32(math.log(1000 / 16))
    w = np.float32(math.exp(min(code[2] / np.float32(5), limit))) * wide
    h = np.float32(math.exp(min(code[3] / np.float32(5), limit))) * high
    two = np.float32(2)
    return x - w / two, y - h / two, x + w / two, y + h / two


def loop_iou(a: Box, b: Box) -> np.float32:
    zero = np.float32(0)
    inter = max(min(a[2], b[2]) - max(a[0], b[0]), zero) * max(min(a[3], b[3]) - max(a[1], b[1]), zero)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else zero


def loop_decode(
    logits: NDArray[np.float32], codes: NDArray[np.float32], rule: Postprocessing
) -> list[tuple[Box, np.float32, int]]:
    """Every candidate in its order, kept if it overlaps no kept one of its class too much."""
    candidates = []
    for anchor, row in enumerate(logits):
        for label, score in enumerate(loop_scores(row, rule.scores)):
            if score > np.float32(rule.score_threshold):
                candidates.append((-score, anchor, label))
    kept: list[tuple[Box, np.float32, int]] = []
    for negative, anchor, label in sorted(candidates):
        box = loop_box(codes[anchor], ANCHORS[anchor])
        if not any(other == label and float(loop_iou(box, better)) > rule.iou_threshold for better, _, other in kept):
            kept.append((box, -negative, label))
    return kept[: rule.max_detections]


RULES = [
    {"score_threshold": 0.3},
    {"score_threshold": 0.01},
    {"score_threshold": 0.0, "iou_threshold": 1.0, "max_detections": 1000},
    {"score_threshold": 0.5, "iou_threshold": 0.45},
    # Few are wanted of many candidates: decided without most of them,
    {"score_threshold": 0.01, "max_detections": 2},
    # or not, as too few of the best are left.
    {"score_threshold": 0.01, "iou_threshold": 0.0, "max_detections": 12},
    {"score_threshold": 1.0},
    {"score_threshold": 0.9999999},
]


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize("changes", RULES)
def test_the_same_as_plain_loops(kind: Any, changes: dict[str, Any]) -> None:
    rule = Postprocessing(scores=kind, **changes)
    logits, codes = raw(len(str(changes)), pictures=2)
    found = decode(logits, codes, ANCHORS, rule)
    assert len(found) == 2
    for one, own_logits, own_codes in zip(found, logits, codes, strict=True):
        expected = loop_decode(own_logits, own_codes, rule)
        assert one.labels.tolist() == [label for _, _, label in expected]
        np.testing.assert_array_equal(one.scores, np.array([score for _, score, _ in expected], np.float32))
        boxes = np.array([box for box, _, _ in expected], np.float32).reshape(-1, 4)
        np.testing.assert_allclose(one.boxes_xyxy, boxes, rtol=0, atol=1e-6)
        assert [values.dtype.name for values in (one.boxes_xyxy, one.scores)] == ["float32", "float32"]
        assert one.labels.dtype.name == "int64"


def test_thousands_of_candidates() -> None:
    anchors = anchor_grid((320, 320), tf_anchor_sizes())
    random = np.random.default_rng(1)
    logits = random.normal(0, 1, (1, len(anchors), 21)).astype(np.float32)
    codes = random.normal(0, 1, (1, len(anchors), 4)).astype(np.float32)
    everything = Postprocessing(score_threshold=0.0, max_detections=10_000)
    (all_found,) = decode(logits, codes, anchors, everything)
    assert 5000 < len(all_found.scores) <= 10_000
    assert (np.diff(all_found.scores) <= 0).all()
    # Whether a box is kept does not depend on how many are wanted.
    (few_found,) = decode(logits, codes, anchors, Postprocessing(score_threshold=0.01, max_detections=7))
    np.testing.assert_array_equal(few_found.boxes_xyxy, all_found.boxes_xyxy[:7])
    np.testing.assert_array_equal(few_found.labels, all_found.labels[:7])


def planted(boxes_xyxy: NDArray[np.float32], labels: list[int], logit: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Outputs that say just these boxes, by the first anchors."""
    logits = np.full((1, len(ANCHORS), 4), -40, np.float32)
    codes = np.zeros((1, len(ANCHORS), 4), np.float32)
    codes[0, : len(labels)] = encode(boxes_xyxy, ANCHORS[: len(labels)])
    logits[0, np.arange(len(labels)), np.array(labels) + 1] = logit
    return logits, codes


def test_a_box_comes_back_in_pixels_and_clipped() -> None:
    boxes = np.array([[0.25, 0.5, 0.75, 1.0], [-0.5, 0.1, 0.5, 0.2], [0.6, -1, 3, 0.4]], np.float32)
    (found,) = decode(*planted(boxes, [2, 0, 1], 3.0), ANCHORS, Postprocessing())
    np.testing.assert_allclose(found.boxes_xyxy, boxes, atol=1e-5)
    assert found.labels.tolist() == [2, 0, 1]
    in_pixels = found.in_pixels((100, 400))
    expected = [[100, 50, 300, 100], [0, 10, 200, 20], [240, 0, 400, 40]]
    np.testing.assert_allclose(in_pixels.boxes_xyxy, expected, atol=1e-2)
    np.testing.assert_array_equal(in_pixels.scores, found.scores)


def test_only_boxes_of_one_class_cover_each_other() -> None:
    boxes = np.array([[0.2, 0.2, 0.6, 0.6]] * 3, np.float32)
    (found,) = decode(*planted(boxes, [1, 1, 2], 3.0), ANCHORS, Postprocessing())
    assert found.labels.tolist() == [1, 2]


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_the_background_is_no_class(kind: Any) -> None:
    logits = np.full((1, len(ANCHORS), 4), -9, np.float32)
    logits[..., 0] = 9
    (found,) = decode(logits, np.zeros((1, len(ANCHORS), 4), np.float32), ANCHORS, Postprocessing(scores=kind))
    assert found.labels.shape == found.scores.shape == (0,)
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.in_pixels((3, 4)).boxes_xyxy.shape == (0, 4)


def test_a_score_at_the_threshold_is_not_above_it() -> None:
    logits, codes = planted(np.array([[0.2, 0.2, 0.6, 0.6]], np.float32), [1], 0.0)
    assert len(decode(logits, codes, ANCHORS, Postprocessing(score_threshold=0.5))[0].scores) == 0
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    assert len(decode(logits, codes, ANCHORS, Postprocessing(score_threshold=below))[0].scores) == 1


@pytest.mark.parametrize("logit", [-1000.0, 1000.0])
@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_logits_beyond_every_exponential(kind: Any, logit: float) -> None:
    logits, codes = planted(np.array([[0.2, 0.2, 0.6, 0.6]], np.float32), [1], logit)
    (found,) = decode(logits, codes * 0 + 1000, ANCHORS, Postprocessing(scores=kind, score_threshold=0.5))
    assert found.scores.tolist() == ([1.0] if logit > 0 else [])
    assert np.isfinite(found.boxes_xyxy).all()


def test_no_pictures() -> None:
    empty = np.zeros((0, len(ANCHORS), 4), np.float32)
    assert decode(empty, empty, ANCHORS, Postprocessing()) == []
    found = Found(boxes_xyxy=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, np.int64))
    assert len(found.in_pixels((1, 1)).labels) == 0
