"""What a detector's training minimises, in parts that can be chosen."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from mobilenetv2.anchors import CODE_SCALES_XYWH, MAX_LOG_SCALE
from mobilenetv2.data.boxed_pictures import BACKGROUND, IGNORE
from mobilenetv2.networks.ssd import SSDOutput
from mobilenetv2.training.recipes import DetectRecipe

LEAST_NEGATIVES = 3
# The score that a fresh "focal" or "quality" head gives to everything, so that the many easy negatives do not
# drown the first steps (Lin et al., 2017, Sec. 4.1).
PRIOR = 0.01


class BoxLosses(NamedTuple):
    """Both parts, each a sum over the batch divided by the number of anchors that answer for a true box."""

    classes: Tensor
    boxes: Tensor


class BoxLoss:
    """Class loss and box loss of an SSD by a recipe. anchors_xyxy: (anchors, 4) in shares of the picture."""

    def __init__(self, recipe: DetectRecipe, anchors_xyxy: Tensor) -> None:
        self.recipe = recipe
        low, high = anchors_xyxy[:, :2], anchors_xyxy[:, 2:]
        self.anchors_cxcywh = torch.cat([(low + high) / 2, high - low], dim=1)

    def __call__(self, output: SSDOutput, classes: Tensor, boxes_xyxy: Tensor) -> BoxLosses:
        """classes: (N, anchors), boxes_xyxy: (N, anchors, 4), as in `BoxSample`."""
        positive = classes > BACKGROUND
        count = positive.sum().clamp(min=1)
        anchors = self.anchors_cxcywh.to(boxes_xyxy.device).expand(len(classes), -1, -1)[positive]
        codes, targets = output.box_codes[positive].float(), boxes_xyxy[positive]
        predicted = decode(codes, anchors)
        if self.recipe.box_loss == "giou":
            box_loss = generalized_box_iou_loss(predicted, targets, reduction="sum")
        else:
            box_loss = F.smooth_l1_loss(codes, encode(targets, anchors), reduction="sum")
        quality = _paired_iou(predicted.detach(), targets) if self.recipe.class_loss == "quality" else None
        class_loss = self._class_loss(output.class_logits.float(), classes, positive, quality)
        return BoxLosses(class_loss / count, box_loss / count)

    def _class_loss(self, logits: Tensor, classes: Tensor, positive: Tensor, quality: Tensor | None) -> Tensor:
        recipe, used = self.recipe, classes != IGNORE
        wanted = F.one_hot(classes.clamp(min=0), logits.shape[2]).to(logits.dtype)
        if recipe.class_loss == "focal":
            # Sigmoid: the background is the absence of all classes, and its column is left alone.
            focal = sigmoid_focal_loss(logits[..., 1:], wanted[..., 1:], recipe.focal_alpha, recipe.focal_gamma)
            return torch.as_tensor(focal.sum(dim=2)[used].sum())
        if quality is not None:
            scores = wanted[..., 1:]
            scores[positive] *= quality[:, None]
            distance = (logits[..., 1:].sigmoid() - scores).abs() ** recipe.focal_gamma
            entropy = F.binary_cross_entropy_with_logits(logits[..., 1:], scores, reduction="none")
            return (distance * entropy).sum(dim=2)[used].sum()
        if recipe.class_loss == "softmax":
            losses = F.cross_entropy(logits.transpose(1, 2), classes.clamp(min=0), reduction="none")
        else:
            # As TensorFlow's: the background is a class like the others.
            losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=2)
        chosen = positive | hard_negatives(losses.detach(), positive, used, recipe.negatives_per_positive)
        return losses[chosen].sum()


def hard_negatives(losses: Tensor, positive: Tensor, used: Tensor, ratio: float) -> Tensor:
    """(N, anchors) bool: in each picture the negatives of the highest loss, `ratio` times its positives, 3 at least.

    losses: (N, anchors). positive, used: (N, anchors) bool; what is not used is no negative. Source: SSD, Sec. 2.2.
    """
    negative = used & ~positive
    wanted = (positive.sum(dim=1) * ratio).long().clamp(min=LEAST_NEGATIVES)
    rank = losses.masked_fill(~negative, -math.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return negative & (rank < wanted[:, None])


def decode(codes: Tensor, anchors_cxcywh: Tensor) -> Tensor:
    """(K, 4) codes -> (K, 4) xyxy in shares of the picture; `anchors.decode` for tensors."""
    offsets = codes / torch.from_numpy(CODE_SCALES_XYWH).to(codes.device)
    centers = offsets[:, :2] * anchors_cxcywh[:, 2:] + anchors_cxcywh[:, :2]
    half = offsets[:, 2:].clamp(max=MAX_LOG_SCALE).exp() * anchors_cxcywh[:, 2:] / 2
    return torch.cat([centers - half, centers + half], dim=1)


def encode(boxes_xyxy: Tensor, anchors_cxcywh: Tensor) -> Tensor:
    """(K, 4) xyxy -> (K, 4) codes; `anchors.encode` for tensors."""
    centers, sides = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2, boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    offsets = (centers - anchors_cxcywh[:, :2]) / anchors_cxcywh[:, 2:]
    scales = (sides / anchors_cxcywh[:, 2:]).clamp(min=1e-6).log()
    return torch.cat([offsets, scales], dim=1) * torch.from_numpy(CODE_SCALES_XYWH).to(boxes_xyxy.device)


def _paired_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """(K, 4), (K, 4) -> (K,) overlap of each with its partner, 0..1."""
    low = torch.maximum(first_xyxy[:, :2], second_xyxy[:, :2])
    high = torch.minimum(first_xyxy[:, 2:], second_xyxy[:, 2:])
    inter = (high - low).clamp(min=0).prod(dim=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (first_xyxy, second_xyxy)]
    return inter / (areas[0] + areas[1] - inter).clamp(min=1e-9)
