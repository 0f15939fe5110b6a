"""Average precision at IoU .5 by VOC's rules, the best threshold, and what has nothing to divide by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenetv2.data.annotations import BoxedPicture
from mobilenetv2.evaluation.box_metrics import box_metrics
from mobilenetv2.runtime.detect import Found

Box = tuple[float, float, float, float]


def picture(boxes: Sequence[Box], labels: Sequence[int], difficult: Sequence[bool] | None = None) -> BoxedPicture:
    ignored = np.array(difficult if difficult is not None else [False] * len(boxes), bool)
    return BoxedPicture(
        name="a.png",
        size_hw=(100, 100),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        ignored=ignored,
        crowd=np.zeros(len(boxes), bool),
        image_id=1,
    )


def answers(boxes: Sequence[Box], labels: Sequence[int], scores: Sequence[float]) -> Found:
    return Found(
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        scores=np.array(scores, np.float32),
    )


A: Box = (10, 10, 30, 30)
B: Box = (50, 50, 90, 80)
FAR: Box = (0, 80, 10, 100)


def test_all_found_is_one_and_nothing_found_is_zero() -> None:
    true = picture([A, B], [0, 1])
    metrics = box_metrics([true], [answers([B, A], [1, 0], [0.4, 0.9])], ("a", "b"))
    assert metrics.AP == metrics.AP50 == metrics.voc_ap == metrics.voc_ap_11 == pytest.approx(1)
    assert (metrics.precision, metrics.recall, metrics.f1) == (1, 1, 1)
    assert metrics.best_threshold == pytest.approx(0.4)
    metrics = box_metrics([true], [answers([], [], [])], ("a", "b"))
    assert metrics.AP == metrics.AR100 == metrics.voc_ap == metrics.voc_ap_11 == 0
    assert metrics.best_threshold is None
    assert [row.AP for row in metrics.per_class] == [0, 0]


def test_without_true_boxes_there_is_nothing_to_say() -> None:
    for found in (answers([], [], []), answers([A], [0], [0.5])):
        metrics = box_metrics([picture([], [])], [found], ("a", "b"))
        assert set(metrics.coco().values()) == {None}
        assert metrics.voc_ap is None
        assert metrics.best_threshold is None
    # Of two classes one has boxes, and it alone counts.
    metrics = box_metrics([picture([A], [0])], [answers([A, B], [0, 1], [0.5, 0.5])], ("a", "b"))
    assert (metrics.AP, metrics.voc_ap) == (1, 1)
    assert [row.AP for row in metrics.per_class] == [1, None]


def test_difficult_boxes_are_neither_right_nor_wrong() -> None:
    true = picture([A, B], [0, 0], [False, True])
    # Found without harm, found twice without harm, not found without harm.
    for found in ([A, B], [A, B, B], [A]):
        scores = np.linspace(0.9, 0.5, len(found))[::-1].tolist()
        metrics = box_metrics([true], [answers(found, [0] * len(found), scores)], ("a",))
        assert metrics.AP == metrics.voc_ap == pytest.approx(1)
        assert metrics.per_class[0].boxes == 1


def test_the_second_answer_to_a_box_is_wrong() -> None:
    metrics = box_metrics([picture([A, B], [0, 0])], [answers([A, A, B], [0, 0, 0], [0.9, 0.8, 0.7])], ("a",))
    # Right, wrong, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    assert metrics.voc_ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics.voc_ap_11 == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert metrics.best_threshold == pytest.approx(0.7)
    assert metrics.f1 == pytest.approx(0.8)
    np.testing.assert_allclose(metrics.per_class[0].curve.precision, [1, 0.5, 2 / 3])


def test_equal_scores_are_shown_together_or_not_at_all() -> None:
    # The first answer alone would reach an F1 of 1, but no threshold parts it from the two that hit nothing.
    metrics = box_metrics([picture([A], [0])], [answers([A, FAR, B], [0, 0, 0], [0.5, 0.5, 0.5])], ("a",))
    assert metrics.best_threshold == 0.5
    assert (metrics.precision, metrics.recall, metrics.f1) == pytest.approx((1 / 3, 1, 0.5))


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_reaches_a_higher_f1(seed: int) -> None:
    random = np.random.default_rng(seed)
    places = (A, B, FAR)
    pictures, found = [], []
    for _ in range(20):
        true, said = random.permutation(3)[: random.integers(4)], random.integers(0, 3, random.integers(6))
        pictures.append(picture([places[i] for i in true], random.integers(0, 2, len(true)).tolist()))
        scores = random.integers(1, 8, len(said)) / 8
        found.append(answers([places[i] for i in said], random.integers(0, 2, len(said)).tolist(), scores.tolist()))
    metrics = box_metrics(pictures, found, ("a", "b"))
    boxes = sum(len(one.labels) for one in pictures)

    def f1_from(threshold: float) -> float:
        right = shown = 0
        for one, some in zip(pictures, found, strict=True):
            true = {(*box, label) for box, label in zip(one.boxes_xyxy.tolist(), one.labels.tolist(), strict=True)}
            kept = some.scores >= threshold
            pairs = zip(some.boxes_xyxy[kept].tolist(), some.labels[kept].tolist(), strict=True)
            right += len({(*box, label) for box, label in pairs} & true)
            shown += int(kept.sum())
        return 2 * right / (shown + boxes)

    highest = max(f1_from(eighth / 8) for eighth in range(1, 8))
    assert metrics.best_threshold is not None
    assert metrics.f1 == pytest.approx(highest) == pytest.approx(f1_from(metrics.best_threshold))


def brute_force(true: list[list[Box]], found: list[list[tuple[Box, float]]]) -> float:
    """VOC's average precision of one class, by plain loops."""

    def iou(a: Box, b: Box) -> float:
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inter = max(w, 0) * max(h, 0)
        return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)

    said = sorted(((score, n, box) for n, some in enumerate(found) for box, score in some), key=lambda one: -one[0])
    taken: set[tuple[int, int]] = set()
    points, right = [], 0
    for count, (_, n, box) in enumerate(said, 1):
        overlaps = [iou(box, other) for other in true[n]]
        best = max(range(len(overlaps)), key=lambda i: overlaps[i], default=None)
        if best is not None and overlaps[best] >= 0.5 and (n, best) not in taken:
            taken.add((n, best))
            right += 1
        points.append((right / sum(map(len, true)), right / count))
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[place:])
        before = recall
    return area


edge = st.integers(0, 12)
boxes = st.tuples(edge, edge, st.integers(2, 6), st.integers(2, 6)).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.lists(boxes, max_size=5), st.lists(st.tuples(boxes, st.integers(1, 10_000)), max_size=8))))
def test_voc_is_a_plain_loop(data: list[tuple[list[Box], list[tuple[Box, int]]]]) -> None:
    # Equal scores have no order of their own, so none are equal.
    unique = {score for _, some in data for _, score in some}
    if len(unique) != sum(len(some) for _, some in data) or not any(true for true, _ in data):
        return
    true = [some for some, _ in data]
    found = [[(box, score / 10_000) for box, score in some] for _, some in data]
    metrics = box_metrics(
        [picture(some, [0] * len(some)) for some in true],
        [answers([b for b, _ in some], [0] * len(some), [s for _, s in some]) for some in found],
        ("a",),
    )
    assert metrics.voc_ap == pytest.approx(brute_force(true, found), abs=1e-9)
