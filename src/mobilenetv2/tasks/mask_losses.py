"""What a segmentation network is trained to make small."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mobilenetv2.masks import IGNORED
from mobilenetv2.training.recipes import SegmentRecipe


class MaskLoss:
    """Cross-entropy over the pixels that count, and the soft Dice loss of each class that is there.

    weights: (num_classes,) of the classes in the cross-entropy; None for equal ones.
    """

    def __init__(self, recipe: SegmentRecipe, weights: Tensor | None) -> None:
        self.recipe, self.weights = recipe, weights

    def __call__(self, logits: Tensor, masks: Tensor) -> Tensor:
        """logits: (N, num_classes, H, W). masks: (N, H, W) integers, classes or `IGNORED`. -> the loss, a scalar.

        Where no pixel counts it is 0.
        """
        masks, log_shares = masks.long(), logits.log_softmax(dim=1)
        loss = self.cross_entropy(log_shares, masks)
        if self.recipe.dice:
            loss = loss + self.recipe.dice * dice_loss(log_shares.exp(), masks)
        return loss

    def cross_entropy(self, log_shares: Tensor, masks: Tensor) -> Tensor:
        """The mean over pixels by the weights of their classes; of the hardest alone where the recipe says so."""
        weights = self.weights.to(log_shares.device) if self.weights is not None else None
        losses = F.nll_loss(log_shares, masks, weights, ignore_index=IGNORED, reduction="none")
        counts = masks != IGNORED
        share = counts.float() if weights is None else weights[masks.clamp(max=len(weights) - 1)] * counts
        if self.recipe.hard_examples < 1:
            hardest = _hardest(losses.detach()[counts], self.recipe.hard_examples)
            share = share * (losses.detach() >= hardest)
            losses = losses * (losses.detach() >= hardest)
        return losses.sum() / share.sum().clamp(min=1e-6)


def _hardest(losses: Tensor, share: float) -> Tensor:
    """The smallest of the largest losses that are that share of all."""
    if not len(losses):
        return torch.zeros((), device=losses.device)
    return losses.topk(max(1, round(share * len(losses)))).values[-1]


def dice_loss(shares: Tensor, masks: Tensor) -> Tensor:
    """1 - 2 |A B| / (|A| + |B|), A the shares and B the truth over the whole batch, as the mean over classes.

    shares: (N, num_classes, H, W) probabilities. masks: (N, H, W) int64, classes or `IGNORED`. Only classes that are in
    the batch count (Milletari et al., 3DV 2016, with |A| of order 1).
    """
    counts, num_classes = (masks != IGNORED).to(shares.dtype), shares.shape[1]
    labels = masks.clamp(max=num_classes - 1)
    # Each pixel's share of its own class, rather than a map for each class: those would be most of the work.
    own = shares.gather(1, labels[:, None])[:, 0] * counts
    hits = shares.new_zeros(num_classes).index_add(0, labels.reshape(-1), own.reshape(-1))
    pixels = shares.new_zeros(num_classes).index_add(0, labels.reshape(-1), counts.reshape(-1))
    found = torch.einsum("nchw,nhw->c", shares, counts)
    overlaps = 2 * hits / (found + pixels).clamp(min=1e-6)
    there = pixels > 0
    return ((1 - overlaps) * there).sum() / there.sum().clamp(min=1)


def class_weights(pixels: Tensor, power: float) -> Tensor | None:
    """(num_classes,) counts -> the inverse shares to that power, 1 on the mean pixel; None for power 0.

    Classes without a pixel, which nothing can teach, weigh nothing.
    """
    if not power:
        return None
    shares = pixels.double() / pixels.sum().clamp(min=1)
    weights = torch.where(shares > 0, shares.clamp(min=1e-12) ** -power, 0.0)
    return (weights / (weights * shares).sum().clamp(min=1e-12)).float()
