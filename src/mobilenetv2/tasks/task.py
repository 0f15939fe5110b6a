"""What the trainings of all tasks share: from samples to the network's input, and from the network to a model file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobilenetv2.data.tree import Tree, fingerprint
from mobilenetv2.preprocessing import HALF, IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, Preprocessing
from mobilenetv2.training.recipe import Recipe

MEASURE_BATCH = 64


class LabelledData(Protocol):
    """Pictures by split, whatever their labels are."""

    @property
    def tree(self) -> Tree: ...

    @property
    def path(self) -> Path: ...

    @property
    def splits(self) -> dict[str, tuple[Any, ...]]: ...

    @property
    def derived(self) -> bool: ...


class Normalize:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in channels-last layout, normalised as the runtime does it."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._mean = 255 * torch.tensor(preprocessing.mean_rgb).view(3, 1, 1)
        self._scale = 1 / (255 * torch.tensor(preprocessing.std_rgb).view(3, 1, 1))

    def __call__(self, pictures: Tensor) -> Tensor:
        levels = pictures.permute(0, 3, 1, 2).float()
        return (levels - self._mean.to(levels.device)) * self._scale.to(levels.device)


def fresh_levels(numerics: str) -> dict[str, Any]:
    """Mean and standard deviation for a network that starts from random weights, as its framework has them."""
    mean, std = (HALF, HALF) if numerics == "tf" else (IMAGENET_MEAN_RGB, IMAGENET_STD_RGB)
    return {"mean_rgb": mean, "std_rgb": std}


def set_batch_norm_momentum(network: nn.Module, momentum: float) -> None:
    """0 leaves the numerics profile's own."""
    for module in network.modules():
        if momentum and isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum


def model_tensors(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """A network's weights as a model file holds them."""
    return {
        name: tensor.detach().cpu().numpy()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def training_record(data: LabelledData, recipe: Recipe, pretrained: str, epoch: int) -> dict[str, Any]:
    """For the card: from what, by what, on what. `evaluate` finds the same split again by it."""
    return {
        "pretrained": pretrained,
        "recipe": {**asdict(recipe), "pretrained": pretrained},
        "epoch": epoch,
        "images": len(data.splits["train"]),
        "data": {
            "name": data.path.name,
            "fingerprint": fingerprint(data.tree),
            "derived_val": data.derived,
            "val_fraction": recipe.val_fraction,
            "seed": recipe.seed,
        },
    }
