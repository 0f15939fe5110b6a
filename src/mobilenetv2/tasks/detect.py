"""Detection: the network, the loss and the metrics of a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mobilenetv2.anchors import AnchorSizes, anchor_grid, fit_anchor_sizes, tf_anchor_sizes
from mobilenetv2.boxes import to_centers
from mobilenetv2.data.augment_boxes import AugmentBoxes
from mobilenetv2.data.boxed import BoxData
from mobilenetv2.data.boxed_pictures import BoxedPictureSet, BoxSample
from mobilenetv2.data.folder import Item
from mobilenetv2.data.pictures import PictureSet
from mobilenetv2.detector import Detector
from mobilenetv2.evaluation.detect import MEASURED_SCORE, box_metrics
from mobilenetv2.modelfile import Card, ModelFile
from mobilenetv2.networks.layers import channels_last
from mobilenetv2.networks.ssd import SSD, SSDOutput, build_detector
from mobilenetv2.postprocessing import Postprocessing
from mobilenetv2.preprocessing import Preprocessing, resize
from mobilenetv2.runtime.detect import decode
from mobilenetv2.tasks.box_losses import PRIOR, BoxLoss
from mobilenetv2.tasks.task import (
    MEASURE_BATCH,
    Normalize,
    model_tensors,
    set_batch_norm_momentum,
    start_from,
    training_record,
)
from mobilenetv2.training.recipes import DetectRecipe


class Detect:
    """Everything about a detector's training that the loop must not know.

    weights: a file to take the pretrained weights from, instead of fetching them.
    """

    task = "detect"
    best_metric = "AP"

    def __init__(self, data: BoxData, recipe: DetectRecipe, *, name: str, weights: Path | None = None) -> None:
        self.data, self.recipe, self.name = data, recipe, name
        self.architecture, self.preprocessing, tensors, self.pretrained = _start(data, recipe, weights)
        self.postprocessing = Postprocessing(
            scores="softmax" if recipe.class_loss == "softmax" else "sigmoid",
            iou_threshold=recipe.iou_threshold,
            max_detections=recipe.max_detections,
        )
        network = build_detector(self.architecture)
        if recipe.class_loss in ("focal", "quality"):
            _set_prior(network)
        # Not strict: a backbone brings no heads, and a counter of batches is no weight.
        network.load_state_dict(tensors, strict=False)
        set_batch_norm_momentum(network, recipe.batch_norm_momentum)
        self.network = channels_last(network)
        self.anchors_xyxy = anchor_grid(self.preprocessing.size_hw, self.architecture.anchors)
        self.training_set: Dataset[BoxSample] = BoxedPictureSet(
            data.tree,
            data.splits["train"],
            AugmentBoxes(recipe, self.preprocessing),
            self.anchors_xyxy,
            threshold=recipe.matching_iou,
            least=recipe.anchors_per_box,
            seed=recipe.seed,
        )
        self.inputs = Normalize(self.preprocessing)
        self.losses = BoxLoss(recipe, torch.from_numpy(self.anchors_xyxy))

    def loss(self, network: Callable[[Tensor], Any], batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        pictures, classes, boxes_xyxy = batch
        losses = self.losses(SSDOutput(*network(self.inputs(pictures))), classes, boxes_xyxy)
        return losses.classes + self.recipe.box_weight * losses.boxes

    @torch.no_grad()
    def measure(self, network: nn.Module, device: torch.device, workers: int) -> dict[str, float]:
        """AP and AP50 (COCO) on `val`, prepared and decoded exactly as the runtime does it."""
        pictures = self.data.splits["val"]
        items = [Item(picture.name, 0) for picture in pictures]
        decoded = PictureSet(self.data.tree, items, lambda image: resize(image, self.preprocessing), seed=0)
        keys = [(0, index) for index in range(len(items))]
        batches = [keys[i : i + MEASURE_BATCH // 4] for i in range(0, len(keys), MEASURE_BATCH // 4)]
        postprocessing = replace(self.postprocessing, score_threshold=MEASURED_SCORE)
        network.eval()
        found = []
        for batch, _ in DataLoader(decoded, batch_sampler=batches, num_workers=workers):
            logits, codes = (part.float().cpu().numpy() for part in network(self.inputs(batch.to(device))))
            found += decode(logits, codes, self.anchors_xyxy, postprocessing)
        answers = [one.in_pixels(picture.size_hw) for picture, one in zip(pictures, found, strict=True)]
        metrics = box_metrics(pictures, answers, self.data.classes)
        # Without a single true box there is nothing to divide by.
        return {"AP": metrics.AP or 0.0, "AP50": metrics.AP50 or 0.0}

    def model_file(self, network: nn.Module, metrics: dict[str, float], epoch: int) -> ModelFile:
        """What a run leaves: weights and card. `metrics` are the loop's own; `evaluate` measures the file itself."""
        card = Card(
            name=self.name,
            task=self.task,
            architecture=self.architecture,
            labels=self.data.classes,
            preprocessing=self.preprocessing,
            postprocessing=self.postprocessing,
            metrics={
                **{name: round(value, 6) for name, value in metrics.items()},
                "images": len(self.data.splits["val"]),
                "data": f"{self.data.path.name}, val",
            },
            training=training_record(self.data, self.recipe, self.pretrained, epoch),
        )
        return ModelFile(card=card, tensors=model_tensors(network))


def _set_prior(network: SSD) -> None:
    for head in network.class_heads:
        predict = head.get_submodule("predict") if hasattr(head, "predict") else head
        nn.init.constant_(cast(nn.Conv2d, predict).bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]


def fitted_anchors(data: BoxData, size_hw: tuple[int, int]) -> AnchorSizes:
    """Anchor sizes for the training boxes, stretched to an input of that size. Raises UserError for too few."""
    sides = []
    for picture in data.splits["train"]:
        stretch = np.array(size_hw[::-1]) / picture.size_hw[::-1] / min(size_hw)
        sides.append(to_centers(picture.boxes_xyxy[~picture.ignored])[:, 2:] * stretch)
    return fit_anchor_sizes(np.concatenate(sides), size_hw)


def _start(
    data: BoxData, recipe: DetectRecipe, weights: Path | None
) -> tuple[Detector, Preprocessing, dict[str, Tensor], str]:
    """Detector and preprocessing, which follow the pretrained weights where there are any, and those weights."""
    size_hw = (recipe.resolution, recipe.resolution)
    start = start_from(recipe, weights, task="detect", needs_last=True)
    tensors, theirs = start.tensors, start.model.card.architecture if start.model else None
    is_same = start.model is not None and start.model.card.labels == data.classes
    if start.model and is_same and isinstance(theirs, Detector) and theirs.name == recipe.detector:
        # It goes on where that one ended, heads and anchors included.
        anchors = theirs.anchors
        tensors = {name: torch.from_numpy(array) for name, array in start.model.tensors.items()}
    else:
        anchors = fitted_anchors(data, size_hw) if recipe.anchors == "fit" else tf_anchor_sizes()
    detector = Detector(
        name=recipe.detector,
        backbone=recipe.backbone,
        width=recipe.width,
        num_classes=len(data.classes),
        numerics=start.numerics,
        anchors=anchors,
    )
    # Boxes are shares of the whole picture, so the whole picture is what the network sees.
    return detector, Preprocessing(size_hw=size_hw, **start.levels), tensors, start.pretrained
