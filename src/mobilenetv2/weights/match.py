"""Which of our networks the layers of a TFLite file are, whatever they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mobilenetv2.architecture import Architecture, Convolution, trunk
from mobilenetv2.errors import ModelFileError, UserError
from mobilenetv2.modelfile import Tensors
from mobilenetv2.numerics import NUMERICS, same_padding
from mobilenetv2.segmenter import Segmenter, segmenter_layers
from mobilenetv2.weights.candidates import candidates
from mobilenetv2.weights.tflite import INPUT, Graph, Layer, Range

# Depthwise convolutions of each network.
_NETWORKS = {13: "mobilenet_v1", 17: "mobilenet_v2"}
_PADDINGS = {"tf": "same", "keras": "trailing", "torch": "symmetric"}


class Found(NamedTuple):
    """The network of a graph, its tensors, and what its quantised activations can hold, by our names of layers.

    A range is that of a layer's result; "NAME.add" that of a sum, "NAME.pool" that of a mean, "images" the input's.
    """

    architecture: Architecture | Segmenter
    tensors: Tensors
    ranges: dict[str, Range]


def match_graph(graph: Graph, *, source: str) -> Found:
    """The network that has these layers, joined in this way. Raises ModelFileError, which says where they part."""
    count = sum(layer.depthwise for layer in graph.layers)
    if count not in _NETWORKS:
        raise ModelFileError(f"{source}: has {count} depthwise convolutions; MobileNetV1 has 13 and MobileNetV2 17")
    best = 0
    for candidate in candidates(_NETWORKS[count], numerics="tf"):
        plans = [plan for plan in candidate.convolutions if plan.name != "last"]
        same = _same(plans, graph.layers)
        best = max(best, same)
        if same == len(plans):
            architecture = candidate.architecture
            break
    else:
        raise ModelFileError(
            f"{source}: is a {_NETWORKS[count]} of no known width and rounding rule: of its {len(graph.layers)} layers "
            f"{best} fit the nearest"
        )
    stride = int(np.prod([layer.stride for layer in graph.layers], dtype=np.int64))
    try:
        architecture = replace(architecture, output_stride=stride, numerics=_numerics(graph, source))
        if graph.layers[-1].out_hw == (1, 1) and graph.layers[-1].pooled:
            return _classifier(architecture, graph, source)
        return _segmenter(architecture, graph, source)
    except UserError as error:
        text = str(error)
        raise ModelFileError(text if text.startswith(source) else f"{source}: {text}") from error


def _same(plans: Sequence[Convolution], layers: Sequence[Layer]) -> int:
    """How many layers from the first on have the shape of their plan."""
    count = 0
    for plan, layer in zip(plans, layers, strict=False):
        if plan.shapes[0].shape != layer.kernel.shape or plan.depthwise is not layer.depthwise:
            break
        count += 1
    return count


def _numerics(graph: Graph, source: str) -> str:
    """The first profile whose padding is that of every convolution."""
    for numerics, padding in _PADDINGS.items():
        if all(layer.pads == _pads(layer, padding) for layer in graph.layers if layer.kernel.shape[2] > 1):
            return numerics
    raise ModelFileError(f"{source}: its convolutions pad as none of {', '.join(_PADDINGS.values())}")


def _pads(layer: Layer, padding: str) -> tuple[tuple[int, int], ...]:
    kernel, strided = layer.kernel.shape[2], layer.stride > 1
    if padding == "trailing" and strided and layer.depthwise:
        return ((0, kernel // 2),) * 2
    if padding == "symmetric" and strided:
        return ((kernel // 2 * layer.dilation,) * 2,) * 2
    return tuple(same_padding(side, kernel, layer.stride, layer.dilation) for side in layer.in_hw)


def _classifier(architecture: Architecture, graph: Graph, source: str) -> Found:
    head = graph.layers[-1]
    architecture = replace(architecture, num_classes=len(head.kernel))
    plans = trunk(architecture)
    _check(plans, graph.layers[:-1], source)
    if head.origins != (len(plans) - 1,) or head.kernel.shape[1:] != (plans[-1].out_channels, 1, 1):
        raise ModelFileError(f"{source}: its last layer does not read the mean of the one before it")
    if head.activation != "linear":
        raise ModelFileError(f"{source}: its last layer is rectified; no MobileNet's is")
    tensors: Tensors = {}
    for plan, layer in zip(plans, graph.layers, strict=False):
        tensors |= _tensors(plan, layer, architecture.numerics)
    tensors["classifier.weight"], tensors["classifier.bias"] = head.kernel[:, :, 0, 0], head.bias
    names = [*(plan.name for plan in plans), "classifier"]
    return Found(architecture, tensors, _ranges(names, graph.layers, graph))


def _segmenter(architecture: Architecture, graph: Graph, source: str) -> Found:
    # MobileNetV1's trunk ends with its last block; MobileNetV2's without its last convolution.
    count = sum(plan.name != "last" for plan in trunk(architecture))
    branches = graph.layers[count:-2]
    image = [layer for layer in branches if layer.pooled]
    point = [layer for layer in branches if not layer.pooled and layer.kernel.shape[2] == 1]
    atrous = [layer for layer in branches if layer.kernel.shape[2] == 3]
    if len(image) != 1 or len(point) != 1 or len(atrous) not in (0, 3):
        raise ModelFileError(
            f"{source}: has no head of DeepLabv3 with image pooling behind its {count} layers of {architecture.name}"
        )
    project, classifier = graph.layers[-2:]
    segmenter = Segmenter(
        backbone="mobilenet_v1" if architecture.name == "mobilenet_v1" else "mobilenet_v2",
        width=architecture.width,
        num_classes=len(classifier.kernel),
        numerics=architecture.numerics,
        output_stride=architecture.output_stride,
        aspp=bool(atrous),
        rounding=architecture.rounding,
    )
    layers = segmenter_layers(segmenter)
    _check(layers.backbone, graph.layers[:count], source)
    plans = [*layers.backbone, layers.image, layers.point, *layers.atrous, layers.project, layers.classifier]
    found = [*graph.layers[:count], *image, *point, *atrous, project, classifier]
    places = {id(layer): at for at, layer in enumerate(graph.layers)}
    joined = tuple(places[id(layer)] for layer in (*image, *point, *atrous))
    last = len(graph.layers) - 1
    reads = [*((count - 1,) for _ in joined), joined, (last - 1,)]
    for plan, layer, origins in zip(plans[count:], found[count:], reads, strict=True):
        _check_layer(plan, layer, origins, None, source)
    tensors: Tensors = {}
    for plan, layer in zip(plans, found, strict=True):
        tensors |= _tensors(plan, layer, segmenter.numerics)
    return Found(segmenter, tensors, _ranges([plan.name for plan in plans], found, graph))


def _check(plans: Sequence[Convolution], layers: Sequence[Layer], source: str) -> None:
    """Hold a row of layers against its plan: shapes, strides, dilations, activations, and what each reads and adds."""
    if len(plans) != len(layers):
        raise ModelFileError(f"{source}: has {len(layers)} layers before its last one, the network {len(plans)}")
    places = {plan.name: at for at, plan in enumerate(plans)}
    for at, (plan, layer) in enumerate(zip(plans, layers, strict=True)):
        shortcut = places[plan.shortcut] if plan.shortcut else None
        _check_layer(plan, layer, (at - 1 if at else INPUT,), shortcut, source)


def _check_layer(plan: Convolution, layer: Layer, origins: tuple[int, ...], shortcut: int | None, source: str) -> None:
    pairs = {
        "kernel": (layer.kernel.shape, plan.shapes[0].shape),
        "stride": (layer.stride, plan.stride),
        "dilation": (layer.dilation, plan.dilation),
        "activation": (layer.activation, plan.activation),
        "input": (layer.origins, origins),
        "shortcut": (layer.shortcut, shortcut),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ModelFileError(f"{source}: its layer for {plan.name!r} has {what} {theirs}, the network {ours}")


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
        f"{plan.name}.norm.running_mean": np.zeros_like(ones),
        f"{plan.name}.norm.running_var": (1 - eps) * ones,
    }


def _ranges(names: Sequence[str], layers: Sequence[Layer], graph: Graph) -> dict[str, Range]:
    ranges = {} if graph.input_range is None else {"images": graph.input_range}
    for name, layer in zip(names, layers, strict=True):
        ranges |= {f"{name}.{part}" if part else name: values for part, values in layer.ranges.items()}
    return ranges
