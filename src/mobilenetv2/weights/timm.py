"""timm's `mobilenetv2_*`: its names of the layers. timm itself is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mobilenetv2.architecture import Architecture, plan_network
from mobilenetv2.modelfile import Tensors
from mobilenetv2.weights.rename import rename, torch_names


def layer_names(architecture: Architecture) -> dict[str, tuple[str, str]]:
    """Our layer -> timm's (convolution, batch norm), which it numbers in the order of computation."""
    names = {"stem": ("conv_stem", "bn1"), "last": ("conv_head", "bn2")}
    for s, stage in enumerate(plan_network(architecture).stages):
        for b, block in enumerate(stage):
            ours, theirs = f"stages.{s}.blocks.{b}", f"blocks.{s}.{b}"
            parts = [("expand", "conv_pw"), ("filter", "conv_dw"), ("project", "conv_pwl")]
            if not block.expands:
                # Its projection is the only 1x1 convolution.
                parts = [("filter", "conv_dw"), ("project", "conv_pw")]
            for number, (part, convolution) in enumerate(parts, start=1):
                names[f"{ours}.{part}"] = (f"{theirs}.{convolution}", f"{theirs}.bn{number}")
    return names


def from_timm(state: Mapping[str, Any], architecture: Architecture, *, source: str = "") -> Tensors:
    """A state dict of timm (arrays or tensors) -> our tensors. `source` names the file in errors.

    Raises ModelFileError if a tensor is missing, extra or of another shape.
    """
    names = torch_names(layer_names(architecture), "classifier", architecture)
    return rename(state, names, architecture, peer="mobilenetv2 of timm", source=source)
