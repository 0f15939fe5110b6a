"""From somebody else's checkpoint to a model file: what it is, and by which conventions it is to be run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mobilenetv2.architecture import Architecture
from mobilenetv2.errors import ModelFileError, UserError
from mobilenetv2.modelfile import Card, ModelFile
from mobilenetv2.numerics import NUMERICS, Padding
from mobilenetv2.preprocessing import HALF, IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, Preprocessing
from mobilenetv2.segmenter import Segmenter
from mobilenetv2.weights.checkpoint import Checkpoint
from mobilenetv2.weights.layouts import Layout
from mobilenetv2.weights.match import match_graph
from mobilenetv2.weights.states import match_state

BACKGROUND = "background"
IMAGENET_CLASSES = 1000
# PASCAL VOC 2012, which every published DeepLabv3 on a MobileNet knows.
VOC_LABELS = (
    *(BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SCALINGS = {
    "half": (HALF, HALF),
    "imagenet": (IMAGENET_MEAN_RGB, IMAGENET_STD_RGB),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
# What a state dict does not tell: the side that nearly all were trained and evaluated at.
_USUAL_SIDE = {"classify": 224, "segment": 513}
# Pillow's numbers of filters, which preprocessor_config.json has.
_PILLOW = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """How a checkpoint's network is built and fed. "auto", 0 and -1 take what the file says, or its library does.

    rounding: of channels: "slim", "ceil8" (tonylins) or "int" (PaddleClas, pytorchcv).
    padding: "symmetric" (torch), "same" (TensorFlow) or "trailing" (keras-applications' MobileNetV1).
    eps: of batch norm.
    label_offset: outputs before the first class; 1 where there is a background.
    output_stride: 32, 16 or 8. dilation: the rule below 32: "slim", "smp" or "mmseg".
    scaling: of pixels: "half" to [-1, 1], "imagenet" by mean and standard deviation, "unit" to [0, 1].
    resize, crop_fraction, interpolation: as in `preprocessing.Preprocessing`.
    activations: of a quantised network: "rounded" to its 256 levels, which answers as it does, or "float".
    """

    rounding: Literal["auto", "slim", "ceil8", "int"] = "auto"
    padding: Literal["auto", "symmetric", "same", "trailing"] = "auto"
    eps: float = 0.0
    label_offset: int = -1
    output_stride: int = 0
    dilation: Literal["slim", "smp", "mmseg"] = "slim"
    scaling: Literal["auto", "half", "imagenet", "unit"] = "auto"
    resize: Literal["auto", "stretch", "crop", "central"] = "auto"
    crop_fraction: float = 0.0
    interpolation: Literal["auto", "bilinear", "bicubic", "sampled"] = "auto"
    activations: Literal["rounded", "float"] = "rounded"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and 0 <= self.eps <= 1):
            raise UserError(f"eps {self.eps!r} is out of range; give a number above 0, at most 1, such as 0.001")
        if self.label_offset not in (-1, 0, 1):
            raise UserError(f"label_offset {self.label_offset!r} is not possible; it can be 0, or 1 with a background")

    @property
    def numerics(self) -> str | None:
        """The profile with this padding."""
        profiles: dict[Padding, str] = {profile.padding: name for name, profile in NUMERICS.items()}
        return None if self.padding == "auto" else profiles[self.padding]


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A checkpoint as a model file. library: whose layers it has. quantized: whether it held 8-bit weights.

    recognised: what was found, by name, for people and for the card.
    """

    model: ModelFile
    library: str
    quantized: bool
    recognised: dict[str, Any]


def convert_checkpoint(
    checkpoint: Checkpoint,
    conventions: Conventions | None = None,
    *,
    name: str | None = None,
    labels: Sequence[str] | None = None,
    size_hw: tuple[int, int] | None = None,
    licence: str = "unknown",
) -> Converted:
    """The model file of a checkpoint.

    labels: names of the classes, with or without the background where there is one; None for the checkpoint's own,
        ImageNet's or PASCAL VOC's by their number, else numbers. size_hw: of the input in pixels; None for the
        checkpoint's own, or the usual one.
    Raises ModelFileError if it is no MobileNet that is known; UserError for options that do not fit.
    """
    options = conventions or Conventions()
    source = str(checkpoint.path)
    found = _from_graph(checkpoint, options) if checkpoint.graph else _from_state(checkpoint, options)
    architecture = found["architecture"]
    task = "segment" if isinstance(architecture, Segmenter) else "classify"
    try:
        preprocessing = _preprocessing(found["preprocessing"], options, size_hw, task)
    except (TypeError, ValueError) as error:
        # Only what lies beside the weights can be of another kind than it should.
        raise ModelFileError(f"{source}: the values for pictures beside it are not possible ({error})") from error
    offset = options.label_offset
    if offset < 0:
        offset = int(task == "classify" and architecture.num_classes == IMAGENET_CLASSES + 1)
    names, origin = _labels(checkpoint, architecture, labels, offset)
    rounded = bool(found["ranges"]) and options.activations == "rounded"
    recognised = {
        "file": checkpoint.kind,
        "library": found["library"],
        "network": architecture.name if task == "classify" else f"{architecture.name} on {architecture.backbone}",
        "width": architecture.width,
        "channel_rounding": architecture.rounding,
        "padding": NUMERICS[architecture.numerics].padding,
        "batch_norm_eps": found["eps"],
        "output_stride": architecture.output_stride,
        "dilation": architecture.dilation,
        "classes": architecture.num_classes,
        "label_offset": offset,
        "labels": origin,
        "input_scaling": _scaling(preprocessing),
        "input": "{}x{}".format(*preprocessing.size_hw),
        "resize": preprocessing.resize,
        "crop_fraction": preprocessing.crop_fraction,
        "interpolation": preprocessing.interpolation,
        "weights": "8 bits, dequantised" if found["quantized"] else "floating point",
        "activations": "rounded to 256 levels" if rounded else "floating point",
    }
    card = Card(
        name=name or checkpoint.name,
        task=task,
        architecture=architecture,
        labels=names,
        preprocessing=preprocessing,
        licence=licence,
        description=f"Converted from a checkpoint of {found['library']}.",
        training={"converted": {"from": checkpoint.path.name, "sha256": checkpoint.sha256, **recognised}},
        activation_ranges=found["ranges"],
        activation_levels=256 if rounded else 0,
    )
    try:
        model = ModelFile(card=card, tensors=found["tensors"])
    except ModelFileError as error:
        raise ModelFileError(f"{source}: {error}") from error
    return Converted(model=model, library=found["library"], quantized=found["quantized"], recognised=recognised)


def _from_graph(checkpoint: Checkpoint, options: Conventions) -> dict[str, Any]:
    graph, source = checkpoint.graph, str(checkpoint.path)
    assert graph is not None
    given = Conventions()
    for name in ("rounding", "padding", "eps", "output_stride", "dilation"):
        if getattr(options, name) != getattr(given, name):
            raise UserError(f"{source}: a TFLite file says its {name} itself; leave --set {name} out")
    found = match_graph(graph, source=source)
    mean, std = graph.mean_std or (0.5, 0.5)
    return {
        "library": "TensorFlow Lite",
        "architecture": found.architecture,
        "tensors": found.tensors,
        "ranges": found.ranges,
        "quantized": graph.quantized,
        "eps": "folded into the kernels",
        # The whole picture, enlarged as TFLite's own operator does it.
        "preprocessing": {
            "size_hw": graph.size_hw,
            "resize": "stretch",
            "interpolation": "sampled",
            "mean_rgb": (mean,) * 3,
            "std_rgb": (std,) * 3,
        },
    }


def _from_state(checkpoint: Checkpoint, options: Conventions) -> dict[str, Any]:
    config = checkpoint.config
    stride = options.output_stride or config.get("output_stride")
    eps = options.eps or config.get("layer_norm_eps")
    if stride not in (None, 8, 16, 32) or not (eps is None or isinstance(eps, float)):
        raise ModelFileError(f"{checkpoint.path}: output stride {stride!r} or epsilon {eps!r} is not possible")
    found = match_state(
        checkpoint.state,
        source=str(checkpoint.path),
        output_stride=stride,
        dilation=options.dilation,
        rounding=None if options.rounding == "auto" else options.rounding,
        numerics=options.numerics,
        eps=eps,
    )
    return {
        "library": found.layout.title,
        "architecture": found.architecture,
        "tensors": found.tensors,
        "ranges": {},
        "quantized": False,
        "eps": eps or found.eps,
        "preprocessing": _of_layout(found.layout) | _of_config(config),
    }


def _of_layout(layout: Layout) -> dict[str, Any]:
    names = ("resize", "crop_fraction", "interpolation", "mean_rgb", "std_rgb")
    return {name: getattr(layout, name) for name in names}


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the files beside weights on a hub say: timm's pretrained_cfg, transformers' image processor."""
    cfg, crop, size = (_table(config, name) for name in ("pretrained_cfg", "crop_size", "size"))
    found: dict[str, Any] = {
        "mean_rgb": cfg.get("mean") or config.get("image_mean"),
        "std_rgb": cfg.get("std") or config.get("image_std"),
        "crop_fraction": cfg.get("crop_pct"),
        "interpolation": cfg.get("interpolation") or _PILLOW.get(config.get("resample", 0)),
    }
    shape = cfg.get("input_size")
    if isinstance(shape, list):
        found["size_hw"] = tuple(shape[1:])
    elif _is_side(crop.get("height")) and _is_side(crop.get("width")):
        found["size_hw"] = (crop["height"], crop["width"])
        if _is_side(size.get("shortest_edge")):
            found["crop_fraction"] = crop["height"] / size["shortest_edge"]
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return {name: value for name, value in known.items() if value is not None}


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _is_side(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _preprocessing(
    found: dict[str, Any], options: Conventions, size_hw: tuple[int, int] | None, task: str
) -> Preprocessing:
    side = _USUAL_SIDE[task]
    values = {"size_hw": (side, side), **found}
    if size_hw is not None:
        values["size_hw"] = size_hw
    if options.scaling != "auto":
        values["mean_rgb"], values["std_rgb"] = SCALINGS[options.scaling]
    for name in ("resize", "interpolation"):
        if getattr(options, name) != "auto":
            values[name] = getattr(options, name)
    if options.crop_fraction:
        values["crop_fraction"] = options.crop_fraction
    if task == "segment" and options.resize == "auto":
        values |= {"resize": "stretch", "interpolation": "bilinear"}
        if options.interpolation != "auto":
            values["interpolation"] = options.interpolation
    if values.get("resize") == "stretch":
        values["crop_fraction"] = 1.0
    return Preprocessing(**values)


def _scaling(preprocessing: Preprocessing) -> str:
    for name, (mean, std) in SCALINGS.items():
        if preprocessing.mean_rgb == mean and preprocessing.std_rgb == std:
            return name
    return "mean {:.6g} {:.6g} {:.6g}, deviation {:.6g} {:.6g} {:.6g}".format(
        *preprocessing.mean_rgb, *preprocessing.std_rgb
    )


def _labels(
    checkpoint: Checkpoint, architecture: Architecture | Segmenter, given: Sequence[str] | None, offset: int
) -> tuple[tuple[str, ...], str]:
    """Names of the classes, and where they are from."""
    count = architecture.num_classes
    if given is not None:
        names, origin = tuple(given), "given"
    elif checkpoint.labels:
        names, origin = checkpoint.labels, "from the file"
    elif isinstance(checkpoint.config.get("id2label"), dict):
        table = checkpoint.config["id2label"]
        names, origin = tuple(str(table.get(str(at), f"class {at}")) for at in range(count)), "from config.json"
    elif isinstance(architecture, Segmenter) and count == len(VOC_LABELS):
        names, origin = VOC_LABELS, "PASCAL VOC's, by their number"
    elif isinstance(architecture, Architecture) and count - offset == IMAGENET_CLASSES:
        names, origin = _imagenet_labels()
    else:
        names, origin = tuple(f"class {at}" for at in range(count - offset)), "numbers; --labels FILE gives names"
    if offset and len(names) == count - offset:
        names = (BACKGROUND, *names)
    if len(names) != count:
        raise UserError(
            f"{checkpoint.path}: has {count} outputs, but there are {len(names)} labels {origin}; give {count}"
            + (f", or {count - offset} without the background" if offset else "")
        )
    return names, origin


def _imagenet_labels() -> tuple[tuple[str, ...], str]:
    try:
        from torchvision.models import MobileNet_V2_Weights
    except ImportError:
        return tuple(f"class {at}" for at in range(IMAGENET_CLASSES)), "numbers; --labels FILE gives names"
    return tuple(MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]), "ImageNet's by their number, from torchvision"


def with_input_as_it_is(model: ModelFile) -> ModelFile:
    """The same model for pictures that have the input's size already: nothing is resized or cut."""
    preprocessing = replace(model.card.preprocessing, resize="stretch", crop_fraction=1.0, interpolation="bilinear")
    return ModelFile(card=replace(model.card, preprocessing=preprocessing), tensors=model.tensors)
