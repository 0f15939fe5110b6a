"""Overlaps, suppression and coding of boxes are torchvision's, number for number."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms as their_batched_nms
from torchvision.ops import box_iou
from torchvision.ops import nms as their_nms
from torchvision.ops.boxes import _batched_nms_vanilla

from mobilenetv2.anchors import anchor_grid, decode, encode, tf_anchor_sizes
from mobilenetv2.boxes import Boxes, batched_nms, nms, pairwise_iou

Scores = NDArray[np.float32]
Labels = NDArray[np.int64]
ALL = 10**9
A_THOUSAND = settings(max_examples=1000, derandomize=True, deadline=None)
THRESHOLDS = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.6, 0.7, 1.0]) | st.floats(0, 1)


@st.composite
def boxes(draw: st.DrawFn, *, steps: tuple[float, ...] = (1, 1 / 8, 0.1), most: int = 25) -> Boxes:
    """On a coarse grid, so that many touch, repeat each other or are empty, or anywhere."""
    count = draw(st.integers(0, most))
    if draw(st.booleans()):
        corners = draw(arrays(np.float32, (count, 2, 2), elements=st.integers(0, 9)))
        corners = corners * np.float32(draw(st.sampled_from(steps)))
    else:
        corners = draw(arrays(np.float32, (count, 2, 2), elements=st.integers(0, 2**20))) / np.float32(2**20)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


@st.composite
def scenes(draw: st.DrawFn, *, steps: tuple[float, ...] = (1, 1 / 8, 0.1)) -> tuple[Boxes, Scores, Labels]:
    """Boxes, scores of which many are equal, labels with gaps."""
    found = draw(boxes(steps=steps))
    scores = draw(
        arrays(np.float32, len(found), elements=st.sampled_from([0, 0.25, 0.5, 0.75, 1]) | st.floats(0, 1, width=32))
    )
    labels = draw(arrays(np.int64, len(found), elements=st.sampled_from([0, 1, 3, 90])))
    return found, scores, labels


def large_scene(count: int, seed: int, side: float = 60) -> tuple[Boxes, Scores, Labels]:
    random = np.random.default_rng(seed)
    low = random.uniform(0, 300, (count, 2))
    found = np.concatenate([low, low + random.uniform(1, side, (count, 2))], axis=1).astype(np.float32)
    # A hundred different scores, so that thousands are equal.
    scores = (random.integers(0, 100, count) / 100).astype(np.float32)
    return found, scores, random.integers(0, 3, count)


THREE_FIFTHS = (
    np.array([[0, 0, 4, 1], [1, 0, 5, 1]], np.float32),
    np.array([0.9, 0.8], np.float32),
    np.zeros(2, np.int64),
)


@A_THOUSAND
@given(scene=scenes(), threshold=THRESHOLDS)
# 3/5 in single precision is above .6, and so suppresses.
@example(scene=THREE_FIFTHS, threshold=0.6)
def test_nms_is_theirs(scene: tuple[Boxes, Scores, Labels], threshold: float) -> None:
    found, scores, _ = scene
    expected = their_nms(torch.from_numpy(found), torch.from_numpy(scores), threshold).numpy()
    assert np.array_equal(nms(found, scores, threshold, ALL), expected)


@A_THOUSAND
@given(scene=scenes(), threshold=THRESHOLDS, limit=st.integers(0, 12))
@example(scene=THREE_FIFTHS, threshold=0.6, limit=2)
def test_batched_nms_is_their_nms_of_each_class(
    scene: tuple[Boxes, Scores, Labels], threshold: float, limit: int
) -> None:
    """Against torchvision's path for many boxes, which suppresses class by class.

    Their other path moves the classes apart by adding to the coordinates, and so rounds them.
    """
    found, scores, labels = scene
    expected = by_class(found, scores, labels, threshold)
    assert np.array_equal(batched_nms(found, scores, labels, threshold, ALL), expected)
    assert np.array_equal(batched_nms(found, scores, labels, threshold, limit), expected[:limit])


@settings(A_THOUSAND, max_examples=200)
@given(scene=scenes(steps=(1, 1 / 8)), threshold=THRESHOLDS)
def test_batched_nms_is_theirs_where_their_offsets_do_not_round(
    scene: tuple[Boxes, Scores, Labels], threshold: float
) -> None:
    found, scores, labels = scene
    # Eighths and whole numbers, times 90 classes, are exact in single precision.
    found = (np.round(found * 8) / 8).astype(np.float32)
    expected = their_batched_nms(
        torch.from_numpy(found), torch.from_numpy(scores), torch.from_numpy(labels), threshold
    ).numpy()
    assert np.array_equal(batched_nms(found, scores, labels, threshold, ALL), expected)


def by_class(found: Boxes, scores: Scores, labels: Labels, threshold: float) -> Labels:
    kept = _batched_nms_vanilla(
        torch.from_numpy(found), torch.from_numpy(scores), torch.from_numpy(labels), threshold
    ).numpy()
    # Their last sort does not promise which of equal scores goes first.
    kept = np.sort(kept)
    return np.asarray(kept[np.argsort(-scores[kept], kind="stable")])


@pytest.mark.parametrize("threshold", [0.3, 0.6])
@pytest.mark.parametrize("seed", [0, 1])
def test_thousands_of_boxes(seed: int, threshold: float) -> None:
    found, scores, labels = large_scene(5000, seed)
    expected = their_nms(torch.from_numpy(found), torch.from_numpy(scores), threshold).numpy()
    assert np.array_equal(nms(found, scores, threshold, ALL), expected)
    assert np.array_equal(nms(found, scores, threshold, 100), expected[:100])
    # This many are suppressed class by class, publicly too.
    theirs = their_batched_nms(
        torch.from_numpy(found), torch.from_numpy(scores), torch.from_numpy(labels), threshold
    ).numpy()
    expected = by_class(found, scores, labels, threshold)
    assert set(theirs) == set(expected)
    assert np.array_equal(batched_nms(found, scores, labels, threshold, ALL), expected)


def test_twenty_thousand_boxes_take_seconds() -> None:
    found, scores, _ = large_scene(20_000, seed=3)
    began = time.perf_counter()
    kept = nms(found, scores, 0.6, ALL)
    assert time.perf_counter() - began < 30
    assert np.array_equal(kept, their_nms(torch.from_numpy(found), torch.from_numpy(scores), 0.6).numpy())


@A_THOUSAND
@given(first=boxes(), second=boxes(most=10))
def test_overlaps_are_theirs(first: Boxes, second: Boxes) -> None:
    """Except of two empty boxes, where theirs is no number and ours is 0."""
    expected = box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    assert np.array_equal(pairwise_iou(first, second), np.nan_to_num(expected, nan=0.0))
    assert np.array_equal(pairwise_iou(first, second), pairwise_iou(second, first).T)


def some_boxes(count: int, seed: int) -> Boxes:
    random = np.random.default_rng(seed)
    low = random.uniform(0, 0.8, (count, 2))
    return np.concatenate([low, low + random.uniform(0.01, 0.2, (count, 2))], axis=1).astype(np.float32)


def test_codes_are_theirs() -> None:
    anchors = anchor_grid((320, 320), tf_anchor_sizes())
    found = some_boxes(len(anchors), seed=0)
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    theirs = coder.encode_single(torch.from_numpy(found), torch.from_numpy(anchors)).numpy()
    assert np.abs(encode(found, anchors) - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_decoding_is_theirs_clamp_included() -> None:
    anchors = anchor_grid((320, 320), tf_anchor_sizes())
    codes = np.random.default_rng(1).normal(0, 12, anchors.shape).astype(np.float32)
    assert (codes[:, 2:] / 5 > np.log(1000 / 16)).any()
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    theirs = coder.decode_single(torch.from_numpy(codes), torch.from_numpy(anchors)).numpy()
    assert np.allclose(decode(codes, anchors), theirs, rtol=1e-5, atol=1e-5)
