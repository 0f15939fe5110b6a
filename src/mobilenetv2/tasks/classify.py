"""Classification: the network, the loss and the metrics of a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mobilenetv2.architecture import Architecture
from mobilenetv2.data.augment import Augment, batch_mixing
from mobilenetv2.data.folder import ImageFolder
from mobilenetv2.data.pictures import PictureSet, Sample
from mobilenetv2.errors import UserError
from mobilenetv2.modelfile import Card, ModelFile
from mobilenetv2.networks.layers import channels_last
from mobilenetv2.networks.mobilenet_v2 import MobileNetV2
from mobilenetv2.preprocessing import Preprocessing, resize
from mobilenetv2.tasks.task import (
    MEASURE_BATCH,
    Normalize,
    fresh_levels,
    levels_of,
    model_tensors,
    set_batch_norm_momentum,
    training_record,
)
from mobilenetv2.training.recipes import ClassifyRecipe
from mobilenetv2.weights.pretrained import default_source, pretrained


class Classify:
    """Everything about a classifier's training that the loop must not know.

    weights: a file to take the pretrained weights from, instead of fetching them.
    """

    task = "classify"
    best_metric = "top1"

    def __init__(self, data: ImageFolder, recipe: ClassifyRecipe, *, name: str, weights: Path | None = None) -> None:
        self.data, self.recipe, self.name = data, recipe, name
        self.architecture, self.preprocessing, tensors, self.pretrained = _start(data, recipe, weights)
        network = MobileNetV2(self.architecture, dropout=recipe.dropout)
        if tensors:
            # Not strict: a head for other classes is left out, and a counter of batches is no weight.
            network.load_state_dict(tensors, strict=False)
            if "classifier.weight" not in tensors:
                # A head that starts at zero keeps the first steps from tearing at the backbone.
                nn.init.zeros_(network.classifier.weight)
        set_batch_norm_momentum(network, recipe.batch_norm_momentum)
        self.network = channels_last(network)
        self.mix = batch_mixing(recipe, self.architecture.num_classes)
        self.training_set: Dataset[Sample] = PictureSet(
            data.tree, data.splits["train"], Augment(recipe, self.preprocessing), recipe.seed
        )
        self.inputs = Normalize(self.preprocessing)

    def loss(self, network: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        pictures, labels = self.inputs(batch[0]), batch[1]
        if self.mix is not None:
            pictures, labels = self.mix(pictures, labels)
        return F.cross_entropy(network(pictures), labels, label_smoothing=self.recipe.label_smoothing)

    @torch.no_grad()
    def measure(self, network: nn.Module, device: torch.device, workers: int) -> dict[str, float]:
        """Top-1, top-5 and cross-entropy on `val`, prepared exactly as the runtime prepares pictures."""
        items = self.data.splits["val"]
        pictures = PictureSet(self.data.tree, items, lambda image: resize(image, self.preprocessing), seed=0)
        keys = [(0, index) for index in range(len(items))]
        batches = [keys[i : i + MEASURE_BATCH] for i in range(0, len(keys), MEASURE_BATCH)]
        network.eval()
        right1 = right5 = 0
        loss = 0.0
        for batch, labels in DataLoader(pictures, batch_sampler=batches, num_workers=workers):
            logits = network(self.inputs(batch.to(device)))
            labels = labels.to(device)
            hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            right1 += int(hits[:, 0].sum())
            right5 += int(hits.sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        return {"top1": right1 / len(items), "top5": right5 / len(items), "loss": loss / len(items)}

    def model_file(self, network: nn.Module, metrics: dict[str, float], epoch: int) -> ModelFile:
        """What a run leaves: weights and card. `metrics` are the loop's own; `evaluate` measures the file itself."""
        card = Card(
            name=self.name,
            task=self.task,
            architecture=self.architecture,
            labels=self.data.classes,
            preprocessing=self.preprocessing,
            metrics={
                "top1": round(metrics["top1"], 6),
                "top5": round(metrics["top5"], 6),
                "images": len(self.data.splits["val"]),
                "data": f"{self.data.path.name}, val",
            },
            training=training_record(self.data, self.recipe, self.pretrained, epoch),
        )
        return ModelFile(card=card, tensors=model_tensors(network))


def _start(
    data: ImageFolder, recipe: ClassifyRecipe, weights: Path | None
) -> tuple[Architecture, Preprocessing, dict[str, Tensor], str]:
    """Architecture and preprocessing, which follow the pretrained weights where there are any, and those weights."""
    size_hw, classes = (recipe.resolution, recipe.resolution), len(data.classes)
    # Whole pictures in training are whole pictures in use; pieces are met by the usual central crop.
    fit: dict[str, Any] = {"size_hw": size_hw, "resize": "stretch"}
    if recipe.crop == "resized" and recipe.augmentation != "none":
        fit = {"size_hw": size_hw, "resize": "crop", "crop_fraction": 0.875}
    if recipe.pretrained == "none":
        numerics = "torch" if recipe.numerics == "auto" else recipe.numerics
        architecture = Architecture(width=recipe.width, num_classes=classes, numerics=numerics)
        return architecture, Preprocessing(**fit, **fresh_levels(numerics)), {}, "none"
    source = default_source(recipe.width) if recipe.pretrained == "auto" else recipe.pretrained
    arrays, architecture, preprocessing = pretrained(source, num_classes=classes, labels=data.classes, file=weights)
    if recipe.numerics not in ("auto", architecture.numerics):
        raise UserError(
            f"numerics {recipe.numerics!r} is not what the pretrained weights {source!r} were made with "
            f"({architecture.numerics!r}); leave it 'auto', or --set pretrained=none"
        )
    if recipe.width != architecture.width:
        raise UserError(f"pretrained weights {source!r} have width {architecture.width:g}, not {recipe.width:g}")
    fit |= levels_of(preprocessing)
    # Of a path only the name: a card travels further than the folders of the machine that wrote it.
    return architecture, Preprocessing(**fit), {n: torch.from_numpy(a) for n, a in arrays.items()}, Path(source).name
