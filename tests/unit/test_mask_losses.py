"""The losses of masks, against plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mobilenetv2.masks import IGNORED
from mobilenetv2.tasks.mask_losses import MaskLoss, class_weights, dice_loss
from mobilenetv2.training.recipes import SegmentRecipe


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 5, 6, generator=generator)
    masks = torch.randint(0, 3, (2, 5, 6), generator=generator).to(torch.uint8)  # class 3 is nowhere
    masks[:, :2] = IGNORED
    return logits, masks


def loss_of(recipe: dict[str, Any], weights: Tensor | None = None) -> MaskLoss:
    return MaskLoss(SegmentRecipe(**{"dice": 0, **recipe}), weights)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 3.0, 2.0])])
def test_cross_entropy_is_the_weighted_mean_over_pixels_that_count(weights: Tensor | None) -> None:
    logits, masks = example()
    total = share = 0.0
    for n, y, x in (masks != IGNORED).nonzero().tolist():
        label = int(masks[n, y, x])
        weight = 1.0 if weights is None else float(weights[label])
        total -= weight * float(logits[n, :, y, x].log_softmax(0)[label])
        share += weight
    assert float(loss_of({}, weights)(logits, masks)) == pytest.approx(total / share, rel=1e-5)


def test_hard_examples_are_those_of_the_largest_loss() -> None:
    logits, masks = example()
    counts = masks != IGNORED
    losses = torch.nn.functional.cross_entropy(logits, masks.long().clamp(max=3), reduction="none")[counts]
    hardest = losses.sort(descending=True).values[: round(0.25 * len(losses))]
    assert float(loss_of({"hard_examples": 0.25})(logits, masks)) == pytest.approx(float(hardest.mean()), rel=1e-5)


def test_dice_is_the_overlap_of_each_class_that_is_there() -> None:
    logits, masks = example()
    counts = masks != IGNORED
    probabilities = logits.softmax(1)
    shares = []
    for label in range(3):
        p, true = probabilities[:, label][counts], (masks[counts] == label).float()
        shares.append(1 - 2 * (p * true).sum() / (p.sum() + true.sum()))
    assert float(dice_loss(logits.softmax(1), masks.long())) == pytest.approx(float(sum(shares)) / 3, rel=1e-5)
    both = loss_of({"dice": 0.5})(logits, masks)
    assert float(both) == pytest.approx(
        float(loss_of({})(logits, masks) + 0.5 * dice_loss(logits.softmax(1), masks.long()))
    )


def test_a_perfect_answer_costs_nothing() -> None:
    _, masks = example()
    sure = 50.0 * torch.nn.functional.one_hot(masks.long().clamp(max=3), 4).movedim(-1, 1).float()
    assert float(MaskLoss(SegmentRecipe(dice=1.0), None)(sure, masks)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("recipe", [{}, {"dice": 1.0}, {"hard_examples": 0.1, "dice": 1.0}])
def test_a_batch_that_is_ignored_teaches_nothing(recipe: dict[str, Any]) -> None:
    logits = torch.randn(2, 4, 5, 6, requires_grad=True)
    loss = loss_of(recipe, torch.ones(4))(logits, torch.full((2, 5, 6), IGNORED, dtype=torch.uint8))
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_weights_are_inverse_shares_of_mean_one() -> None:
    pixels = torch.tensor([900, 100, 0])
    assert class_weights(pixels, 0) is None
    weights = class_weights(pixels, 0.5)
    assert weights is not None
    assert float(weights[2]) == 0
    assert float(weights[1] / weights[0]) == pytest.approx(math.sqrt(9))
    assert float((weights * pixels / 1000).sum()) == pytest.approx(1)
