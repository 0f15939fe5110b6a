"""torchvision's `mobilenet_v2`: its names of the layers. torchvision itself is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mobilenetv2.architecture import Architecture, plan_network
from mobilenetv2.modelfile import Tensors
from mobilenetv2.weights.rename import rename, torch_names


def layer_names(architecture: Architecture) -> dict[str, tuple[str, str]]:
    """Our layer -> torchvision's (convolution, batch norm).

    A block is a sequence in which activated convolutions are sequences of their own and the last is not.
    """
    names = {"stem": ("features.0.0", "features.0.1")}
    index = 1
    for s, stage in enumerate(plan_network(architecture).stages):
        for b, block in enumerate(stage):
            ours, theirs, step = f"stages.{s}.blocks.{b}", f"features.{index}.conv", 0
            if block.expands:
                names[f"{ours}.expand"] = (f"{theirs}.0.0", f"{theirs}.0.1")
                step = 1
            names[f"{ours}.filter"] = (f"{theirs}.{step}.0", f"{theirs}.{step}.1")
            names[f"{ours}.project"] = (f"{theirs}.{step + 1}", f"{theirs}.{step + 2}")
            index += 1
    names["last"] = (f"features.{index}.0", f"features.{index}.1")
    return names


def from_torchvision(state: Mapping[str, Any], architecture: Architecture, *, source: str = "") -> Tensors:
    """A state dict of torchvision (arrays or tensors) -> our tensors. `source` names the file in errors.

    Raises ModelFileError if a tensor is missing, extra or of another shape.
    """
    names = torch_names(layer_names(architecture), "classifier.1", architecture)
    return rename(state, names, architecture, peer="mobilenet_v2 of torchvision", source=source)
