"""What a detector's training minimises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mobilenetv2 import anchors as reference
from mobilenetv2.anchors import anchor_grid, tf_anchor_sizes
from mobilenetv2.data.boxed_pictures import assign
from mobilenetv2.networks.ssd import SSDOutput
from mobilenetv2.tasks.box_losses import BoxLoss, decode, encode, hard_negatives
from mobilenetv2.training.recipes import ClassLoss, DetectRecipe

ANCHORS = anchor_grid((64, 64), tf_anchor_sizes())
CENTERS = torch.from_numpy(np.concatenate([(ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2, ANCHORS[:, 2:] - ANCHORS[:, :2]], 1))
TRUE = np.array([[0.1, 0.1, 0.4, 0.5], [0.5, 0.5, 0.95, 0.9]], np.float32)
LABELS = np.array([1, 0])


def targets() -> tuple[Tensor, Tensor]:
    """One picture with two boxes of two classes."""
    classes, boxes = assign(ANCHORS, TRUE, LABELS, np.zeros(2, bool), 0.5)
    return torch.from_numpy(classes)[None], torch.from_numpy(boxes)[None]


def answer(classes: Tensor, boxes: Tensor, sureness: float) -> SSDOutput:
    """What a network would say that is right about everything; three columns, the first for the background."""
    logits = (F.one_hot(classes.clamp(min=0), 3) * 2.0 - 1) * sureness
    codes = encode(boxes[0], CENTERS)[None] * (classes > 0)[..., None]
    return SSDOutput(logits, codes)


def test_coding_is_the_runtime_s() -> None:
    random = np.random.default_rng(0)
    codes = random.normal(0, 3, (len(ANCHORS), 4)).astype(np.float32)
    codes[0, 2] = 1e6
    expected = reference.decode(codes, ANCHORS)
    decoded = decode(torch.from_numpy(codes), CENTERS).numpy()
    np.testing.assert_allclose(decoded, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        encode(torch.from_numpy(expected[1:]), CENTERS[1:]).numpy(),
        reference.encode(expected[1:], ANCHORS[1:]),
        atol=1e-3,
    )


@pytest.mark.parametrize("class_loss", ["focal", "quality", "sigmoid", "softmax"])
@pytest.mark.parametrize("box_loss", ["giou", "smooth_l1"])
def test_the_right_answer_costs_nothing_and_a_wrong_one_does(class_loss: ClassLoss, box_loss: str) -> None:
    recipe = DetectRecipe(class_loss=class_loss, box_loss=box_loss)  # type: ignore[arg-type]
    loss = BoxLoss(recipe, torch.from_numpy(ANCHORS))
    classes, boxes = targets()
    right = loss(answer(classes, boxes, 20), classes, boxes)
    assert float(right.classes) == pytest.approx(0, abs=1e-5)
    assert float(right.boxes) == pytest.approx(0, abs=1e-5)
    swapped = torch.where(classes > 0, 3 - classes, classes)
    wrong = loss(answer(swapped, boxes, 20), classes, boxes)
    assert float(wrong.classes) > 1
    moved = answer(classes, boxes, 20)
    assert float(loss(SSDOutput(moved.class_logits, moved.box_codes + 1), classes, boxes).boxes) > 0.02


@pytest.mark.parametrize("class_loss", ["focal", "quality", "sigmoid", "softmax"])
def test_what_is_ignored_costs_nothing_and_learns_nothing(class_loss: ClassLoss) -> None:
    loss = BoxLoss(DetectRecipe(class_loss=class_loss), torch.from_numpy(ANCHORS))
    classes, boxes = targets()
    place = int((classes[0] == 0).nonzero()[5])
    classes[0, place] = -1
    said = answer(classes, boxes, 4)
    said.class_logits[0, place] = torch.tensor([-9.0, 9.0, 9.0])
    logits = said.class_logits.clone().requires_grad_()
    first = loss(SSDOutput(logits, said.box_codes), classes, boxes)
    first.classes.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not logits.grad[0, place].any()
    assert logits.grad.any()
    said.class_logits[0, place] = torch.tensor([9.0, -9.0, -9.0])
    assert float(loss(said, classes, boxes).classes) == pytest.approx(first.classes.item(), rel=1e-5)


@pytest.mark.parametrize("class_loss", ["focal", "quality", "sigmoid", "softmax"])
def test_a_batch_without_boxes_has_a_finite_loss(class_loss: ClassLoss) -> None:
    loss = BoxLoss(DetectRecipe(class_loss=class_loss), torch.from_numpy(ANCHORS))
    classes = torch.zeros(2, len(ANCHORS), dtype=torch.int64)
    output = SSDOutput(torch.randn(2, len(ANCHORS), 3), torch.randn(2, len(ANCHORS), 4))
    losses = loss(output, classes, torch.zeros(2, len(ANCHORS), 4))
    assert torch.isfinite(losses.classes)
    assert float(losses.classes) > 0
    assert float(losses.boxes) == 0


def test_hard_negatives_are_the_worst_ones_three_for_each_positive() -> None:
    random = torch.Generator().manual_seed(0)
    losses = torch.rand(5, 40, generator=random)
    positive = torch.rand(5, 40, generator=random) < 0.15
    positive[0] = False  # a picture without boxes still gives three
    used = torch.rand(5, 40, generator=random) < 0.9
    chosen = hard_negatives(losses, positive, used, 3.0)
    for row in range(5):
        candidates = [i for i in range(40) if used[row, i] and not positive[row, i]]
        count = max(3, 3 * int(positive[row].sum()))
        expected = sorted(candidates, key=lambda i: -float(losses[row, i]))[:count]
        assert chosen[row].nonzero()[:, 0].tolist() == sorted(expected)


def test_assign_tells_every_anchor_what_to_say() -> None:
    classes, boxes = assign(ANCHORS, TRUE, LABELS, np.zeros(2, bool), 0.5)
    assert set(classes.tolist()) == {0, 1, 2}
    for box, label in zip(TRUE, LABELS, strict=True):
        own = (boxes == box).all(axis=1)
        assert own.any()
        assert (classes[own] == label + 1).all()
    assert not boxes[classes == 0].any()
    ignored = np.array([True, False])
    classes, boxes = assign(ANCHORS, TRUE, LABELS, ignored, 0.5)
    assert set(classes.tolist()) == {-1, 0, 1}
    assert not boxes[classes < 1].any()
    classes, _ = assign(ANCHORS, TRUE[:0], LABELS[:0], ignored[:0], 0.5)
    assert not classes.any()
