"""Segmentation: the network, the loss and the metrics of a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mobilenetv2.data.augment_masks import GRID, AugmentMasks
from mobilenetv2.data.folder import Item
from mobilenetv2.data.masked import MaskData, read_mask
from mobilenetv2.data.masked_pictures import MaskedPictureSet, MaskSample
from mobilenetv2.data.pictures import PictureSet
from mobilenetv2.evaluation.mask_metrics import confusion, mean_iou
from mobilenetv2.modelfile import Card, ModelFile
from mobilenetv2.networks.deeplab_v3 import build_segmenter, upsample
from mobilenetv2.networks.layers import channels_last
from mobilenetv2.preprocessing import Preprocessing, resize
from mobilenetv2.runtime.segment import decode
from mobilenetv2.segmenter import Segmenter
from mobilenetv2.tasks.mask_losses import MaskLoss, class_weights
from mobilenetv2.tasks.task import (
    Normalize,
    Start,
    model_tensors,
    set_batch_norm_momentum,
    start_from,
    training_record,
)
from mobilenetv2.training.recipes import SegmentRecipe

# Logits of one picture are large, so few are held at once.
_MEASURE_BATCH = 4
LARGEST_SIDE = 513  # of an input that is chosen by the pictures


class Segment:
    """Everything about a segmenter's training that the loop must not know.

    weights: a file to take the pretrained weights from, instead of fetching them.
    """

    task = "segment"
    best_metric = "miou"

    def __init__(self, data: MaskData, recipe: SegmentRecipe, *, name: str, weights: Path | None = None) -> None:
        self.data, self.recipe, self.name = data, recipe, name
        start = start_from(recipe, weights, task=self.task, needs_last=False)
        self.pretrained = start.pretrained
        self.architecture = Segmenter(
            backbone=recipe.backbone,
            width=recipe.width,
            num_classes=len(data.classes),
            numerics=start.numerics,
            rounding=start.rounding,
            output_stride=recipe.output_stride,
            aspp=recipe.aspp,
            decoder=recipe.decoder,
        )
        # Masks are of the whole picture, so the whole picture is what the network sees.
        self.preprocessing = Preprocessing(size_hw=input_size(data, recipe), **start.levels)
        network = build_segmenter(self.architecture)
        # Not strict: a backbone brings no head, and a counter of batches is no weight.
        network.load_state_dict(_first_tensors(start, self.architecture, data.classes), strict=False)
        set_batch_norm_momentum(network, recipe.batch_norm_momentum)
        self.network = channels_last(network)
        self.training_set: Dataset[MaskSample] = MaskedPictureSet(
            data.tree, data.splits["train"], AugmentMasks(recipe, self.preprocessing), seed=recipe.seed
        )
        self.inputs = Normalize(self.preprocessing)
        pixels = torch.from_numpy(data.pixels("train"))
        self.losses = MaskLoss(recipe, class_weights(pixels, recipe.class_balance))

    def loss(self, network: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        pictures, masks = batch
        logits = network(self.inputs(pictures))
        return self.losses(upsample(logits, (masks.shape[1], masks.shape[2])), masks)

    @torch.no_grad()
    def measure(self, network: nn.Module, device: torch.device, workers: int) -> dict[str, float]:
        """Mean IoU and pixel accuracy on `val`, prepared and decoded exactly as the runtime does it."""
        pictures, tree = self.data.splits["val"], self.data.tree
        items = [Item(picture.name, 0) for picture in pictures]
        decoded = PictureSet(tree, items, lambda image: resize(image, self.preprocessing), seed=0)
        keys = [(0, index) for index in range(len(items))]
        batches = [keys[i : i + _MEASURE_BATCH] for i in range(0, len(keys), _MEASURE_BATCH)]
        network.eval()
        classes, remaining = len(self.data.classes), iter(pictures)
        counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        for batch, _ in DataLoader(decoded, batch_sampler=batches, num_workers=workers):
            for logits in network(self.inputs(batch.to(device))).float().cpu().numpy():
                picture = next(remaining)
                counts += confusion(read_mask(tree, picture), decode(logits, picture.size_hw), classes)
        return {"miou": mean_iou(counts) or 0.0, "pixel_accuracy": float(np.trace(counts) / max(counts.sum(), 1))}

    def model_file(self, network: nn.Module, metrics: dict[str, float], epoch: int) -> ModelFile:
        """What a run leaves: weights and card. `metrics` are the loop's own; `evaluate` measures the file itself."""
        card = Card(
            name=self.name,
            task=self.task,
            architecture=self.architecture,
            labels=self.data.classes,
            preprocessing=self.preprocessing,
            metrics={
                **{name: round(value, 6) for name, value in metrics.items()},
                "images": len(self.data.splits["val"]),
                "data": f"{self.data.path.name}, val",
            },
            training=training_record(self.data, self.recipe, self.pretrained, epoch),
        )
        return ModelFile(card=card, tensors=model_tensors(network))


def input_size(data: MaskData, recipe: SegmentRecipe) -> tuple[int, int]:
    """Height and width of the network's input: the recipe's, or those of the middle training picture, on the grid."""
    if recipe.resolution:
        return recipe.resolution, recipe.input_width or recipe.resolution
    sides = np.median([picture.size_hw for picture in data.splits["train"]], axis=0)
    scale = min(1.0, LARGEST_SIDE / sides.max())
    height, width = (max(1, math.ceil((side * scale - 1) / GRID)) * GRID + 1 for side in sides.tolist())
    return height, width


def _first_tensors(start: Start, segmenter: Segmenter, classes: tuple[str, ...]) -> dict[str, Tensor]:
    """The backbone; of a network of this kind also head and decoder, and for just these classes the classifier."""
    if start.model is None:
        return start.tensors
    theirs = start.model.card.segmenter
    if replace(theirs, num_classes=segmenter.num_classes) != segmenter:
        return start.tensors
    keeps_all = start.model.card.labels == classes
    return {
        name: torch.from_numpy(array)
        for name, array in start.model.tensors.items()
        if keeps_all or not name.startswith("classifier.")
    }
