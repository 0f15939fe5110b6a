"""What the trainings of all tasks share: from samples to the network's input, and from the network to a model file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobilenetv2.data.tree import Tree, fingerprint
from mobilenetv2.errors import UserError
from mobilenetv2.modelfile import ModelFile, load_model_file
from mobilenetv2.numerics import Rounding
from mobilenetv2.preprocessing import HALF, IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, Preprocessing
from mobilenetv2.runtime.predictor import find_model, models_in_the_box
from mobilenetv2.training.recipe import Recipe
from mobilenetv2.weights.pretrained import default_source, pretrained_trunk

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


class Start(NamedTuple):
    """What a detector or a segmenter starts from.

    numerics, rounding: of the network. levels: interpolation, mean and standard deviation of its preprocessing.
    tensors: of the backbone. pretrained: their name, or "none".
    model: the model file that the weights come from, where it does the same task.
    """

    numerics: str
    rounding: Rounding
    levels: dict[str, Any]
    tensors: dict[str, Tensor]
    pretrained: str
    model: ModelFile | None


class BackboneRecipe(Protocol):
    """What of a recipe says where the weights come from."""

    @property
    def backbone(self) -> str: ...

    @property
    def width(self) -> float: ...

    @property
    def numerics(self) -> str: ...

    @property
    def pretrained(self) -> str: ...


def start_from(recipe: BackboneRecipe, weights: Path | None, *, task: str, needs_last: bool) -> Start:
    """Find the weights that a training starts from.

    weights: a file of them, instead of fetching. needs_last: as in `pretrained_trunk`.
    Raises UserError where they are of another network, or made with other numerics, than the recipe says.
    """
    if recipe.pretrained == "none":
        numerics = "torch" if recipe.numerics == "auto" else recipe.numerics
        return Start(numerics, "slim", fresh_levels(numerics), {}, "none", None)
    source = default_source(recipe.width) if recipe.pretrained == "auto" else recipe.pretrained
    arrays, trunk, theirs = pretrained_trunk(source, file=weights, needs_last=needs_last)
    if recipe.numerics not in ("auto", trunk.numerics):
        raise UserError(
            f"numerics {recipe.numerics!r} is not what the pretrained weights {source!r} were made with "
            f"({trunk.numerics!r}); leave it 'auto', or --set pretrained=none"
        )
    if (trunk.name, trunk.width, trunk.depth) != (recipe.backbone, recipe.width, 1):
        raise UserError(
            f"pretrained weights {source!r} are of {trunk.name} with width {trunk.width:g}, not of "
            f"{recipe.backbone} with width {recipe.width:g}; choose others, or --set pretrained=none"
        )
    if trunk.expands_first or (task == "detect" and trunk.rounding != "slim"):
        raise UserError(
            f"pretrained weights {source!r} have other channels than {task} can build on (rounding {trunk.rounding!r}, "
            f"first block {'expands' if trunk.expands_first else 'as in the paper'}); choose others"
        )
    tensors = {f"backbone.{name}": torch.from_numpy(array) for name, array in arrays.items()}
    model = _same_task(source, task)
    return Start(trunk.numerics, trunk.rounding, levels_of(theirs), tensors, Path(source).name, model)


def _same_task(source: str, task: str) -> ModelFile | None:
    if not source.endswith(".safetensors") and source not in models_in_the_box():
        return None
    model = load_model_file(find_model(source))
    return model if model.card.task == task else None


class Normalize:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in channels-last layout, normalised as the runtime does it."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._mean = 255 * torch.tensor(preprocessing.mean_rgb).view(3, 1, 1)
        self._scale = 1 / (255 * torch.tensor(preprocessing.std_rgb).view(3, 1, 1))

    def __call__(self, pictures: Tensor) -> Tensor:
        levels = pictures.permute(0, 3, 1, 2).float()
        return (levels - self._mean.to(levels.device)) * self._scale.to(levels.device)


def levels_of(theirs: Preprocessing) -> dict[str, Any]:
    """Interpolation, mean and standard deviation for a network that starts from weights made with `theirs`.

    "sampled" becomes "bilinear", which looks at every pixel of the picture: what a network is trained with is what its
    card says and what it is used with, so nothing asks for TensorFlow's shortcut any more.
    """
    interpolation = "bilinear" if theirs.interpolation == "sampled" else theirs.interpolation
    return {"interpolation": interpolation, "mean_rgb": theirs.mean_rgb, "std_rgb": theirs.std_rgb}


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
