"""How other libraries call the layers of MobileNetV1 and V2, and what they do with pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mobilenetv2.architecture import (
    ROUNDINGS,
    Architecture,
    parameter_shapes,
    plan_mobilenet_v1,
    plan_network,
)
from mobilenetv2.errors import ModelFileError
from mobilenetv2.modelfile import Tensors
from mobilenetv2.preprocessing import HALF, IMAGENET_MEAN_RGB, IMAGENET_STD_RGB
from mobilenetv2.weights.rename import rename

# Our layer -> their (convolution, batch norm).
Names = dict[str, tuple[str, str]]
WIDTHS = sorted({0.35, *(round(0.05 * step, 2) for step in range(1, 41)), *(0.125 * step for step in range(1, 17))})


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One library's way.

    network: "mobilenet_v2" or "mobilenet_v1". stem: the first kernel's name, by which it is recognised.
    names: of all layers. classifier: of the last layer. parts: of a batch norm, after our own.
    numerics: a key of `architecture.NUMERICS`. mean_rgb, std_rgb, crop_fraction: what pictures go through.
    background: whether class 0 is none of the classes.
    """

    title: str
    network: str
    stem: str
    names: Callable[[Architecture, Mapping[str, Any]], Names]
    classifier: str = "classifier"
    numerics: str = "torch"
    mean_rgb: tuple[float, float, float] = IMAGENET_MEAN_RGB
    std_rgb: tuple[float, float, float] = IMAGENET_STD_RGB
    crop_fraction: float = 0.875
    background: bool = False


def _blocks(architecture: Architecture) -> Iterator[tuple[int, int, int, bool]]:
    """Number from 1, stage, block within it, and whether it expands."""
    number = 0
    for s, stage in enumerate(plan_network(architecture).stages):
        for b, block in enumerate(stage):
            number += 1
            yield number, s, b, block.expands


def _torchvision(architecture: Architecture, state: Mapping[str, Any]) -> Names:
    names = {"stem": ("features.0.0", "features.0.1")}
    count = 0
    for count, s, b, expands in _blocks(architecture):
        ours, theirs, step = f"stages.{s}.blocks.{b}", f"features.{count}.conv", int(expands)
        if expands:
            names[f"{ours}.expand"] = (f"{theirs}.0.0", f"{theirs}.0.1")
        names[f"{ours}.filter"] = (f"{theirs}.{step}.0", f"{theirs}.{step}.1")
        names[f"{ours}.project"] = (f"{theirs}.{step + 1}", f"{theirs}.{step + 2}")
    names["last"] = (f"features.{count + 1}.0", f"features.{count + 1}.1")
    return names


def _flat(architecture: Architecture, state: Mapping[str, Any]) -> Names:
    """tonylins' and d-li14's: a block is one row of layers, activations counted."""
    names = {"stem": ("features.0.0", "features.0.1")}
    count = 0
    for count, s, b, expands in _blocks(architecture):
        ours, theirs, at = f"stages.{s}.blocks.{b}", f"features.{count}.conv", 0
        for part in ("expand", "filter", "project") if expands else ("filter", "project"):
            names[f"{ours}.{part}"] = (f"{theirs}.{at}", f"{theirs}.{at + 1}")
            at += 3
    last = "conv" if "conv.0.weight" in state else f"features.{count + 1}"
    names["last"] = (f"{last}.0", f"{last}.1")
    return names


def _timm(architecture: Architecture, state: Mapping[str, Any]) -> Names:
    names = {"stem": ("conv_stem", "bn1"), "last": ("conv_head", "bn2")}
    for _, s, b, expands in _blocks(architecture):
        ours, theirs = f"stages.{s}.blocks.{b}", f"blocks.{s}.{b}"
        parts = [("expand", "conv_pw"), ("filter", "conv_dw"), ("project", "conv_pwl")]
        if not expands:
            # Its projection is the only 1x1 convolution.
            parts = [("filter", "conv_dw"), ("project", "conv_pw")]
        for number, (part, convolution) in enumerate(parts, start=1):
            names[f"{ours}.{part}"] = (f"{theirs}.{convolution}", f"{theirs}.bn{number}")
    return names


def _timm_v1(architecture: Architecture, state: Mapping[str, Any]) -> Names:
    names = {"stem": ("conv_stem", "bn1")}
    places = sorted(
        {tuple(map(int, key.split(".")[1:3])) for key in state if key.startswith("blocks.") and "conv_dw" in key}
    )
    for index, (stage, block) in enumerate(places):
        names[f"blocks.{index}.filter"] = (f"blocks.{stage}.{block}.conv_dw", f"blocks.{stage}.{block}.bn1")
        names[f"blocks.{index}.mix"] = (f"blocks.{stage}.{block}.conv_pw", f"blocks.{stage}.{block}.bn2")
    return names


def _transformers(architecture: Architecture, state: Mapping[str, Any]) -> Names:
    def pair(name: str) -> tuple[str, str]:
        return f"mobilenet_v2.{name}.convolution", f"mobilenet_v2.{name}.normalization"

    names = {"stem": pair("conv_stem.first_conv"), "last": pair("conv_1x1")}
    for number, s, b, expands in _blocks(architecture):
        ours = f"stages.{s}.blocks.{b}"
        theirs = f"layer.{number - 2}" if number > 1 else "conv_stem"
        if expands:
            names[f"{ours}.expand"] = pair(f"{theirs}.expand_1x1")
        names[f"{ours}.filter"] = pair(f"{theirs}.conv_3x3")
        names[f"{ours}.project"] = pair(f"{theirs}.reduce_1x1")
    return names


def _transformers_v1(architecture: Architecture, state: Mapping[str, Any]) -> Names:
    def pair(name: str) -> tuple[str, str]:
        return f"mobilenet_v1.{name}.convolution", f"mobilenet_v1.{name}.normalization"

    names = {"stem": pair("conv_stem")}
    for index in range(len(plan_mobilenet_v1(architecture))):
        names[f"blocks.{index}.filter"] = pair(f"layer.{2 * index}")
        names[f"blocks.{index}.mix"] = pair(f"layer.{2 * index + 1}")
    return names


def _pytorchcv(architecture: Architecture, state: Mapping[str, Any]) -> Names:
    def pair(name: str) -> tuple[str, str]:
        return f"features.{name}.conv", f"features.{name}.bn"

    units = sorted(
        {tuple(int(part[5:] if part.startswith("stage") else part[4:]) for part in key.split(".")[1:3]) for key in state if key.startswith("features.stage")}
    )
    names = {"stem": pair("init_block"), "last": pair("final_block")}
    for (number, s, b, expands), (stage, unit) in zip(_blocks(architecture), units, strict=False):
        ours, theirs = f"stages.{s}.blocks.{b}", f"stage{stage}.unit{unit}"
        for part, place in (("expand", 1), ("filter", 2), ("project", 3)):
            if part != "expand" or expands:
                names[f"{ours}.{part}"] = pair(f"{theirs}.conv{place}")
    return names


LAYOUTS = (
    Layout(
        title="transformers",
        network="mobilenet_v2",
        stem="mobilenet_v2.conv_stem.first_conv.convolution.weight",
        names=_transformers,
        numerics="tf",
        mean_rgb=HALF,
        std_rgb=HALF,
        background=True,
    ),
    Layout(
        title="transformers",
        network="mobilenet_v1",
        stem="mobilenet_v1.conv_stem.convolution.weight",
        names=_transformers_v1,
        numerics="tf",
        mean_rgb=HALF,
        std_rgb=HALF,
        background=True,
    ),
    Layout(title="timm", network="mobilenet_v2", stem="blocks.6.0.conv_pwl.weight", names=_timm),
    Layout(title="timm", network="mobilenet_v1", stem="conv_stem.weight", names=_timm_v1),
    Layout(title="pytorchcv", network="mobilenet_v2", stem="features.init_block.conv.weight", names=_pytorchcv, classifier="output"),
    Layout(title="torchvision", network="mobilenet_v2", stem="features.1.conv.0.0.weight", names=_torchvision, classifier="classifier.1"),
    Layout(title="tonylins or d-li14", network="mobilenet_v2", stem="features.1.conv.0.weight", names=_flat),
)


def from_state(state: Mapping[str, Any], *, source: str) -> tuple[Layout, Architecture, Tensors]:
    """A state dict of any library in `LAYOUTS` -> its layout, the network it is of, and our tensors.

    Raises ModelFileError if it is none of them, or no width, depth and rounding rule fits.
    """
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    state = {key.removeprefix(prefix): value for key, value in state.items()}
    layout = next((one for one in LAYOUTS if one.stem in state), None)
    if layout is None:
        raise ModelFileError(
            f"{source}: is of no library that is known ({', '.join(dict.fromkeys(one.title for one in LAYOUTS))})"
        )
    classifier = layout.classifier
    if f"{classifier}.weight" not in state:
        classifier = {"classifier": "classifier.1", "classifier.1": "classifier"}.get(classifier, classifier)
    if f"{classifier}.weight" not in state:
        raise ModelFileError(f"{source}: has no {classifier}.weight; it is of {layout.title}, but no classifier")
    num_classes = int(state[f"{classifier}.weight"].shape[0])
    for architecture in _candidates(layout, num_classes):
        names = layout.names(architecture, state)
        if _fits(architecture, names, state):
            return layout, architecture, _tensors(layout, architecture, names, classifier, state, source)
    raise ModelFileError(f"{source}: is of {layout.title}, but no width and rounding rule of {layout.network} fits it")


def _candidates(layout: Layout, num_classes: int) -> Iterator[Architecture]:
    common: dict[str, Any] = {"name": layout.network, "numerics": layout.numerics, "num_classes": num_classes}
    for rounding in ROUNDINGS if layout.network == "mobilenet_v2" else ("slim",):
        for width in WIDTHS:
            yield Architecture(width=width, rounding=rounding, **common)
    if layout.network == "mobilenet_v2":
        for width, depth in ((1.1, 1.2), (1.2, 1.4)):
            yield Architecture(width=width, depth=depth, scale_ends=False, **common)


def _fits(architecture: Architecture, names: Names, state: Mapping[str, Any]) -> bool:
    kernels = {
        name.removesuffix(".conv.weight"): shape
        for name, shape in parameter_shapes(architecture)
        if name.endswith(".conv.weight")
    }
    return all(
        layer in names and tuple(getattr(state.get(f"{names[layer][0]}.weight"), "shape", ())) == shape
        for layer, shape in kernels.items()
    )


def _tensors(
    layout: Layout, architecture: Architecture, names: Names, classifier: str, state: Mapping[str, Any], source: str
) -> Tensors:
    ours: dict[str, str] = {}
    for name, _ in parameter_shapes(architecture):
        layer, part = name.rsplit(".", 1)
        if layer == "classifier":
            ours[name] = f"{classifier}.{part}"
        else:
            layer, kind = layer.rsplit(".", 1)
            ours[name] = f"{names[layer][kind == 'norm']}.{part}"
    peer = f"{layout.network} of {layout.title}"
    return rename(state, ours, architecture, peer=peer, source=source)
