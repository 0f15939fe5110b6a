"""Which of our networks a row of layers is, whatever its layers are called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mobilenetv2.architecture import NUMERICS, ROUNDINGS, Architecture, Convolution, trunk
from mobilenetv2.errors import ModelFileError, UserError
from mobilenetv2.modelfile import Tensors
from mobilenetv2.segmenter import Segmenter, segmenter_layers
from mobilenetv2.weights.tflite import Graph, Layer

# Every width that was published, and whatever lies evenly between.
WIDTHS = sorted({0.35, *(round(0.05 * step, 2) for step in range(1, 41)), *(round(0.125 * step, 3) for step in range(1, 17))})


def match(graph: Graph, *, source: str) -> tuple[Architecture | Segmenter, Tensors]:
    """The network that has these layers, and its tensors. Raises ModelFileError, which says where they part."""
    depthwise = sum(layer.depthwise for layer in graph.layers)
    best = 0
    for architecture in _candidates(depthwise):
        plans = [plan for plan in trunk(architecture) if plan.name != "last"]
        same = _same(plans, graph.layers)
        best = max(best, same)
        if same < len(plans):
            continue
        rest = graph.layers[len(plans) :]
        return _segmenter(architecture, graph, source) if "ARG_MAX" in graph.operators or _is_map(rest) else _classifier(
            architecture, graph, source
        )
    raise ModelFileError(
        f"{source}: is neither MobileNetV1 nor V2 of any width: of its {len(graph.layers)} layers {best} fit the nearest"
    )


def _candidates(depthwise: int) -> Iterator[Architecture]:
    names = {13: "mobilenet_v1", 17: "mobilenet_v2"}
    if depthwise not in names:
        return
    name = names[depthwise]
    for rounding in ROUNDINGS if name == "mobilenet_v2" else ("slim",):
        for width in WIDTHS:
            yield Architecture(name=name, width=width, numerics="tf", rounding=rounding, num_classes=1)


def _same(plans: Sequence[Convolution], layers: Sequence[Layer]) -> int:
    """How many layers from the first on have the shape of their plan."""
    count = 0
    for plan, layer in zip(plans, layers, strict=False):
        if plan.shapes[0].shape != layer.kernel.shape or plan.depthwise is not layer.depthwise:
            break
        count += 1
    return count


def _is_map(layers: Sequence[Layer]) -> bool:
    return bool(layers) and layers[-1].size_hw != (1, 1)


def _output_stride(layers: Sequence[Layer]) -> int:
    return int(np.prod([layer.stride for layer in layers]))


def _classifier(architecture: Architecture, graph: Graph, source: str) -> tuple[Architecture, Tensors]:
    head = graph.layers[-1]
    architecture = replace(architecture, num_classes=len(head.kernel), output_stride=_output_stride(graph.layers))
    plans = trunk(architecture)
    _check(plans, graph.layers[:-1], source)
    tensors: Tensors = {}
    for plan, layer in zip(plans, graph.layers, strict=False):
        tensors |= _tensors(plan, layer, architecture.numerics)
    tensors["classifier.weight"], tensors["classifier.bias"] = head.kernel[:, :, 0, 0], head.bias
    return architecture, tensors


def _segmenter(architecture: Architecture, graph: Graph, source: str) -> tuple[Segmenter, Tensors]:
    backbone = [plan for plan in trunk(architecture) if plan.name != "last"]
    if architecture.name == "mobilenet_v1":
        backbone = trunk(architecture)
    rest = list(graph.layers[len(backbone) :])
    *branches, project, classifier = rest
    image = [layer for layer in branches if layer.size_hw == (1, 1)]
    point = [layer for layer in branches if layer.size_hw != (1, 1) and layer.kernel.shape[2] == 1]
    atrous = [layer for layer in branches if layer.kernel.shape[2] == 3]
    if len(image) != 1 or len(point) != 1 or len(atrous) not in (0, 3) or len(branches) != 2 + len(atrous):
        raise ModelFileError(f"{source}: its head is not DeepLabv3's with image pooling; {len(rest)} layers are left over")
    stride = _output_stride(graph.layers[: len(backbone)])
    try:
        segmenter = Segmenter(
            backbone="mobilenet_v2" if architecture.name == "mobilenet_v2" else "mobilenet_v1",
            width=architecture.width,
            num_classes=len(classifier.kernel),
            numerics=architecture.numerics,
            output_stride=stride,
            aspp=bool(atrous),
            rounding=architecture.rounding,
        )
    except UserError as error:
        raise ModelFileError(f"{source}: {error}") from error
    layers = segmenter_layers(segmenter)
    plans = [*layers.backbone, layers.image, layers.point, *layers.atrous, layers.project, layers.classifier]
    found = [*graph.layers[: len(backbone)], *image, *point, *atrous, project, classifier]
    _check(plans, found, source)
    tensors: Tensors = {}
    for plan, layer in zip(plans, found, strict=True):
        tensors |= _tensors(plan, layer, segmenter.numerics)
    return segmenter, tensors


def _check(plans: Sequence[Convolution], layers: Sequence[Layer], source: str) -> None:
    if len(plans) != len(layers):
        raise ModelFileError(f"{source}: has {len(layers)} convolutions, the network {len(plans)}")
    for plan, layer in zip(plans, layers, strict=True):
        ours = (plan.shapes[0].shape, plan.stride, plan.dilation, plan.activation)
        theirs = (layer.kernel.shape, layer.stride, layer.dilation, layer.activation)
        if ours != theirs:
            raise ModelFileError(f"{source}: its layer for {plan.name!r} is {theirs}, not {ours}")


def _tensors(plan: Convolution, layer: Layer, numerics: str) -> Tensors:
    """A layer whose batch norm is folded in already: ours does nothing but add the bias."""
    if not plan.has_norm:
        return {f"{plan.name}.weight": layer.kernel, f"{plan.name}.bias": layer.bias}
    eps = NUMERICS[numerics].batch_norm_eps if plan.norm_eps is None else plan.norm_eps
    ones = np.ones(len(layer.bias), np.float32)
    return {
        f"{plan.name}.conv.weight": layer.kernel,
        f"{plan.name}.norm.weight": ones,
        f"{plan.name}.norm.bias": layer.bias,
        f"{plan.name}.norm.running_mean": 0 * ones,
        f"{plan.name}.norm.running_var": (1 - eps) * ones,
    }
