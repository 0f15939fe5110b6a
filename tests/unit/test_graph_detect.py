"""Suppression inside the graph: the answers of NumPy, to the last tie."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mobilenetv2.anchors import anchor_grid, decode, tf_anchor_sizes
from mobilenetv2.boxes import batched_nms
from mobilenetv2.postprocessing import Postprocessing, Scores
from mobilenetv2.runtime.engine import open_session
from mobilenetv2.runtime.graph_detect import add_boxes, add_detection, add_scores
from mobilenetv2.runtime.onnx_wire import GraphBuilder, write_model

Array = NDArray[Any]
SMALL, LARGE = anchor_grid((33, 65), tf_anchor_sizes()), anchor_grid((320, 320), tf_anchor_sizes())


class Answer(NamedTuple):
    """What the graph answers, in its order."""

    boxes_xyxy: Array
    scores: Array
    labels: Array
    picture: Array


def built(graph: GraphBuilder) -> bytes:
    return write_model(graph.graph("detect"), producer_version="0", metadata={})


@cache
def detection(anchors: int, num_classes: int, how: Postprocessing) -> bytes:
    """The end of a detector's graph: raw outputs and pictures in, answers out."""
    graph = GraphBuilder()
    grid = {len(SMALL): SMALL, len(LARGE): LARGE}[anchors]
    graph.input("class_logits", np.float32, ("batch", anchors, num_classes + 1))
    graph.input("box_codes", np.float32, ("batch", anchors, 4))
    graph.input("images", np.uint8, ("batch", "height", "width", 3))
    add_detection(
        graph, "class_logits", "box_codes", "images", anchors_xyxy=grid, num_classes=num_classes, postprocessing=how
    )
    return built(graph)


@cache
def session(anchors: int, num_classes: int, how: Postprocessing) -> Any:
    return open_session(detection(anchors, num_classes, how), threads=1)


def ask(logits: Array, codes: Array, size_hw: tuple[int, int], how: Postprocessing, **thresholds: float) -> Answer:
    batch, anchors, columns = logits.shape
    inputs = {"class_logits": logits, "box_codes": codes, "images": np.zeros((batch, *size_hw, 3), np.uint8)}
    given_ = {name: np.array(value, np.float32) for name, value in thresholds.items()}
    return Answer(*session(anchors, columns - 1, how).run(None, inputs | given_))


def expected_answer(logits: Array, codes: Array, size_hw: tuple[int, int], grid: Array, how: Postprocessing) -> Answer:
    """The definition: every class of every anchor is a candidate of its own."""
    raw = logits.astype(np.float64)
    if how.scores == "sigmoid":
        every = 1 / (1 + np.exp(-raw))
    else:
        powers = np.exp(raw - raw.max(axis=2, keepdims=True))
        every = powers / powers.sum(axis=2, keepdims=True)
    parts = []
    for picture, (scores, boxes) in enumerate(zip(every[..., 1:].astype(np.float32), decode(codes, grid), strict=True)):
        anchors, labels = np.nonzero(scores > np.float32(how.score_threshold))
        chosen = batched_nms(
            boxes[anchors], scores[anchors, labels], labels, float(np.float32(how.iou_threshold)), how.max_detections
        )
        anchors, labels = anchors[chosen], labels[chosen]
        height, width = size_hw
        pixels = boxes[anchors].clip(0, 1) * np.array([width, height, width, height], np.float32)
        parts.append((pixels, scores[anchors, labels], labels, np.full(len(anchors), picture)))
    return Answer(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def assert_same(found: Answer, expected: Answer) -> None:
    np.testing.assert_array_equal(found.picture, expected.picture, strict=True)
    np.testing.assert_array_equal(found.labels, expected.labels, strict=True)
    # A score may round to its neighbour: the last bits of float64 are each library's own.
    np.testing.assert_allclose(found.scores, expected.scores, rtol=3e-7, atol=0, strict=True)
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, rtol=3e-7, atol=1e-30, strict=True)


def outputs_of_a_network(
    seed: int, batch: int, anchors: int, num_classes: int, *, ties: bool, mean: float = -3.0, spread: float = 2.0
) -> tuple[Array, Array]:
    """Random ones. ties: logits and codes on a coarse grid, so that many scores and boxes are the same."""
    random = np.random.default_rng(seed)
    logits = random.normal(mean, spread, (batch, anchors, num_classes + 1))
    codes = random.normal(0, 2, (batch, anchors, 4))
    if ties:
        logits, codes = logits.round(), (codes / 4).round() * 4
    return logits.astype(np.float32), codes.astype(np.float32)


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    batch=st.sampled_from([1, 3]),
    num_classes=st.sampled_from([1, 2, 5]),
    ties=st.booleans(),
    size_hw=st.sampled_from([(1, 1), (33, 65), (97, 31), (480, 640)]),
    score_threshold=st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.0]),
    iou_threshold=st.sampled_from([0.0, 0.45, 0.6, 1.0]),
    max_detections=st.sampled_from([1, 7, 100, 10_000]),
)
def test_the_same_boxes_as_numpy(
    scores: Scores,
    seed: int,
    batch: int,
    num_classes: int,
    ties: bool,
    size_hw: tuple[int, int],
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> None:
    logits, codes = outputs_of_a_network(seed, batch, len(SMALL), num_classes, ties=ties)
    how = Postprocessing(
        scores=scores, score_threshold=score_threshold, iou_threshold=iou_threshold, max_detections=max_detections
    )
    # One graph for every threshold: those of a call take the place of those in the file.
    in_the_file = Postprocessing(scores=scores, max_detections=max_detections)
    found = ask(logits, codes, size_hw, in_the_file, score_threshold=score_threshold, iou_threshold=iou_threshold)
    assert_same(found, expected_answer(logits, codes, size_hw, SMALL, how))
    height, width = size_hw
    assert (found.boxes_xyxy >= 0).all()
    assert (found.boxes_xyxy <= (width, height, width, height)).all()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("scores", "num_classes"), [("sigmoid", 3), ("softmax", 80)])
def test_thousands_of_candidates(scores: Scores, num_classes: int, ties: bool) -> None:
    logits, codes = outputs_of_a_network(0, 2, len(LARGE), num_classes, ties=ties, mean=0, spread=1)
    how = Postprocessing(scores=scores, score_threshold=0.01, iou_threshold=0.6, max_detections=100)
    found = ask(logits, codes, (375, 500), how)
    assert_same(found, expected_answer(logits, codes, (375, 500), LARGE, how))
    assert np.bincount(found.picture).tolist() == [100, 100]


def test_all_scores_alike() -> None:
    logits, codes = np.zeros((1, len(SMALL), 3), np.float32), np.zeros((1, len(SMALL), 4), np.float32)
    how = Postprocessing(score_threshold=0.2, max_detections=5)
    found = ask(logits, codes, (10, 10), how)
    assert_same(found, expected_answer(logits, codes, (10, 10), SMALL, how))
    # The first anchor is first, with both its classes.
    assert found.labels[:2].tolist() == [0, 1]
    assert (found.boxes_xyxy[0] == found.boxes_xyxy[1]).all()


def test_the_thresholds_of_the_file_unless_others_are_given() -> None:
    logits, codes = outputs_of_a_network(1, 1, len(SMALL), 2, ties=False)
    strict, loose = Postprocessing(score_threshold=0.6, iou_threshold=0.3), Postprocessing(score_threshold=0.05)
    found = {how: ask(logits, codes, (9, 9), how) for how in (strict, loose)}
    for how, answer in found.items():
        assert_same(answer, expected_answer(logits, codes, (9, 9), SMALL, how))
    assert 0 < len(found[strict].scores) < len(found[loose].scores)
    assert_same(ask(logits, codes, (9, 9), strict, score_threshold=0.05, iou_threshold=0.6), found[loose])


def test_nothing_found() -> None:
    logits, codes = outputs_of_a_network(0, 3, len(SMALL), 4, ties=False, mean=-30, spread=1)
    found = ask(logits, codes, (5, 7), Postprocessing())
    assert [part.shape for part in found] == [(0, 4), (0,), (0,), (0,)]
    # And where only the picture in the middle has something.
    logits[1, 6, 3] = 4
    found = ask(logits, codes, (5, 7), Postprocessing())
    assert (found.picture.tolist(), found.labels.tolist()) == ([1], [2])


def test_a_score_at_the_threshold_is_below_it_and_an_overlap_at_it_is_kept() -> None:
    logits, codes = np.full((1, len(SMALL), 2), -30, np.float32), np.zeros((1, len(SMALL), 4), np.float32)
    logits[0, 4, 1] = 0  # a score of one half
    how = Postprocessing(score_threshold=0.5)
    assert len(ask(logits, codes, (8, 8), how).scores) == 0
    assert len(ask(logits, codes, (8, 8), how, score_threshold=np.nextafter(np.float32(0.5), 0)).scores) == 1
    # Two anchors of the first cell, each as it is: their overlap in the arithmetic of both sides.
    logits[0, 1, 1] = logits[0, 2, 1] = 3
    first, second = decode(codes, SMALL)[0, 1:3]
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    inter, area = np.prod(high - low), [np.prod(box[2:] - box[:2]) for box in (first, second)]
    overlap = np.float32(inter / (area[0] + area[1] - inter))
    assert 0.1 < overlap < 0.9
    below = np.nextafter(overlap, np.float32(0))
    assert len(ask(logits, codes, (8, 8), how, iou_threshold=float(overlap)).scores) == 2
    assert len(ask(logits, codes, (8, 8), how, iou_threshold=float(below)).scores) == 1


def test_boxes_and_scores_before_suppression() -> None:
    random = np.random.default_rng(0)
    # Far beyond what a trained network says: sides are held back, scores reach 0 and 1.
    logits = random.normal(0, 40, (2, len(SMALL), 4)).astype(np.float32)
    codes = random.normal(0, 20, (2, len(SMALL), 4)).astype(np.float32)
    for kind in ("sigmoid", "softmax"):
        graph = GraphBuilder()
        graph.input("logits", np.float32, ("batch", len(SMALL), 4))
        graph.input("codes", np.float32, ("batch", len(SMALL), 4))
        graph.output(add_scores(graph, "logits", kind), np.float32, None)
        graph.output(add_boxes(graph, "codes", SMALL), np.float32, None)
        scores, boxes = open_session(built(graph), threads=1).run(None, {"logits": logits, "codes": codes})
        np.testing.assert_allclose(boxes, decode(codes, SMALL), rtol=3e-7, atol=1e-6)
        raw = logits.astype(np.float64)
        powers = np.exp(raw - raw.max(axis=2, keepdims=True))
        expected = 1 / (1 + np.exp(-raw)) if kind == "sigmoid" else powers / powers.sum(axis=2, keepdims=True)
        np.testing.assert_allclose(scores, expected[..., 1:].astype(np.float32), rtol=3e-7, atol=1e-30)


def test_the_graph_is_valid_onnx_and_says_what_may_be_left_out() -> None:
    how = Postprocessing(scores="softmax", score_threshold=0.25, iou_threshold=0.5)
    proto = onnx.load_from_string(detection(len(SMALL), 3, how))
    onnx.checker.check_model(proto, full_check=True)
    ready = session(len(SMALL), 3, how)
    assert [port.name for port in ready.get_inputs()] == ["class_logits", "box_codes", "images"]
    optional = {port.name: (port.type, port.shape) for port in ready.get_overridable_initializers()}
    assert optional == dict.fromkeys(("score_threshold", "iou_threshold"), ("tensor(float)", []))
    assert [(port.name, port.type, port.shape) for port in ready.get_outputs()] == [
        ("boxes_xyxy", "tensor(float)", ["detections", 4]),
        ("scores", "tensor(float)", ["detections"]),
        ("labels", "tensor(int64)", ["detections"]),
        ("picture", "tensor(int64)", ["detections"]),
    ]
