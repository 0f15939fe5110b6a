"""A model file's network as ONNX nodes, with batch norm folded into the convolutions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.architecture import TAPS, Architecture, Convolution, trunk
from mobilenetv2.detector import BACKBONE, Detector, detector_layers
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.numerics import NUMERICS, Padding, same_padding
from mobilenetv2.runtime.onnx_wire import GraphBuilder
from mobilenetv2.segmenter import BACKBONE as SEGMENTER_BACKBONE
from mobilenetv2.segmenter import SKIPS, Segmenter, segmenter_layers

# Processors without VNNI add two products of 8 bits in 16, which unsigned activations and weights of more than seven
# bits overflow: onnxruntime and OpenVINO then answer otherwise than elsewhere.
WEIGHT_LEVELS = 63


class LayerValues(NamedTuple):
    """Names of the values of one layer: what it reads, what it makes of it, and that after activation and shortcut."""

    read: str
    raw: str
    result: str


@dataclass(frozen=True)
class Trace:
    """What a network was built of, in the order of computation.

    layers: of every convolution and dense layer. points: the values that 8 bits would round, by the names of
    `Card.activation_ranges`.
    """

    layers: dict[str, LayerValues] = field(default_factory=dict)
    points: dict[str, str] = field(default_factory=dict)


def add_network(
    graph: GraphBuilder,
    images: str,
    model: ModelFile,
    *,
    int8: bool = False,
    trace: Trace | None = None,
) -> tuple[str, ...]:
    """float32 (N, 3, H, W), preprocessed, H and W those of the card -> the names of the raw outputs.

    A classifier has `logits` (N, num_classes). A detector has `class_logits` (N, anchors, num_classes + 1), the
    background first, and `box_codes` (N, anchors, 4), with the anchors in the order of `anchors.anchor_grid`.
    A segmenter has `logits` (N, num_classes, H/s, W/s), rounded up, at its `logits_stride` s.
    int8: weights as 8 bits with a scale for each output channel, activations as 8 bits in the card's ranges; the raw
    outputs stay float32.
    trace: is told what the network is built of.
    """
    network = (Int8Network if int8 else FloatNetwork)(graph, model, trace or Trace())
    start = Map(network.start(images), model.card.preprocessing.size_hw)
    architecture = model.card.architecture
    if isinstance(architecture, Detector):
        return _add_detector(network, start, architecture)
    if isinstance(architecture, Segmenter):
        return (_add_segmenter(network, start, architecture),)
    return (_add_classifier(network, start, architecture),)


def fold_batch_norm(model: ModelFile, plan: Convolution) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel (out, in / groups, k, k) and bias (out,) that do what a convolution and its batch norm do.

    Worked out in float64, then rounded once.
    """
    eps = NUMERICS[model.card.architecture.numerics].batch_norm_eps if plan.norm_eps is None else plan.norm_eps
    gamma, beta, mean, variance = (
        model.tensors[f"{plan.name}.norm.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + eps)
    kernel = model.tensors[f"{plan.name}.conv.weight"]
    # Some thousand numbers at a time, so that no kernel lies there in float64 as a whole.
    folded = np.empty(kernel.shape, np.float32)
    np.multiply(kernel, scale[:, None, None, None], folded, dtype=np.float64, casting="same_kind")
    return folded, (beta - mean * scale).astype(np.float32)


def layer_weights(model: ModelFile, plan: Convolution) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel (out, in / groups, k, k) and bias (out,) of a convolution, with its batch norm folded in if it has one."""
    if plan.has_norm:
        return fold_batch_norm(model, plan)
    return model.tensors[f"{plan.name}.weight"], model.tensors[f"{plan.name}.bias"]


class Map(NamedTuple):
    """A value of the graph, (N, C, H, W). Its size must be known for SAME padding, which depends on it."""

    value: str
    size_hw: tuple[int, int]


class FloatNetwork:
    """Adds convolutions to a graph and knows the result of each by its name."""

    def __init__(self, graph: GraphBuilder, model: ModelFile, trace: Trace) -> None:
        self.graph = graph
        self.trace = trace
        self.tensors = model.tensors
        self.maps: dict[str, Map] = {}
        self._model = model
        self._padding = NUMERICS[model.card.architecture.numerics].padding
        self._zero, self._six = graph.constant(np.float32(0)), graph.constant(np.float32(6))

    def start(self, images: str) -> str:
        """What the first layer reads."""
        self.trace.points["images"] = images
        return images

    def row(self, x: Map, convolutions: Iterable[Convolution]) -> Map:
        """Convolutions, each on the result of the one before it."""
        for convolution in convolutions:
            x = self.convolution(x, convolution)
        return x

    def convolution(self, x: Map, plan: Convolution) -> Map:
        """One convolution and all that follows it."""
        name = plan.name
        kernel, bias = layer_weights(self._model, plan)
        raw = value = self.graph.node(
            "Conv",
            x.value,
            *self.weights(name, kernel, bias, x.value),
            name=f"{name}.conv",
            kernel_shape=(plan.kernel, plan.kernel),
            strides=(plan.stride, plan.stride),
            pads=convolution_pads(self._padding, x.size_hw, plan),
            dilations=(plan.dilation, plan.dilation),
            group=plan.in_channels if plan.depthwise else 1,
        )
        if plan.activation == "relu6":
            value = self.graph.node("Clip", value, self._zero, self._six, name=f"{name}.relu6")
        elif plan.activation == "relu":
            value = self.graph.node("Relu", value, name=f"{name}.relu")
        value = self.rounded(value, name)
        if plan.shortcut:
            total = self.graph.node("Add", self.maps[plan.shortcut].value, value, name=f"{name}.add")
            value = self.rounded(total, f"{name}.add")
        self.maps[name] = Map(value, plan.out_size(x.size_hw))
        self.trace.layers[name] = LayerValues(x.value, raw, value)
        return self.maps[name]

    def weights(self, name: str, kernel: NDArray[Any], bias: NDArray[Any], read: str) -> tuple[str, str]:
        """Kernel, output channels first, and bias of a layer as values of the graph. read: what the layer reads."""
        return self.graph.constant(kernel, f"{name}.weight"), self.graph.constant(bias, f"{name}.bias")

    def rounded(self, value: str, name: str) -> str:
        """To the levels of the quantised network that the weights come from, where the card asks for it.

        Not by QuantizeLinear, which runtimes take as leave to compute in 8 bits in ways of their own.
        """
        self.trace.points[name] = value
        card = self._model.card
        if not card.activation_levels or name not in card.activation_ranges:
            return value
        low, high = card.activation_ranges[name]
        scale = (high - low) / (card.activation_levels - 1)
        lowest, highest = (self.graph.constant(np.float32(round(end / scale))) for end in (low, high))
        steps = self.graph.node("Mul", value, self.graph.constant(np.float32(1 / scale)))
        whole = self.graph.node("Round", self.graph.node("Clip", steps, lowest, highest))
        return self.graph.node("Mul", whole, self.graph.constant(np.float32(scale)), name=f"{name}.rounded")


def convolution_pads(padding: Padding, size_hw: tuple[int, int], plan: Convolution) -> tuple[int, int, int, int]:
    """Rows and columns of zeros around a map of that size: above, left, below, right."""
    if plan.rounds_down:
        return 0, 0, plan.kernel // 2, plan.kernel // 2
    if padding != "symmetric":
        (top, bottom), (left, right) = (same_padding(size, plan.kernel, plan.stride, plan.dilation) for size in size_hw)
        return top, left, bottom, right
    around = (plan.kernel - 1) // 2 * plan.dilation
    return around, around, around, around


class Int8Network(FloatNetwork):
    """The same with weights and activations of 8 bits, as QuantizeLinear and DequantizeLinear (QDQ) around each layer.

    Kernels are symmetric with a scale for each output channel; activations lie in the card's ranges.
    A value of which the card knows no range stays float32, such as the raw outputs, and so does the input: a range
    that must hold 0 puts the 256 levels of a picture between its own.
    """

    def __init__(self, graph: GraphBuilder, model: ModelFile, trace: Trace) -> None:
        super().__init__(graph, model, trace)
        self._ranges = model.card.activation_ranges
        # Of the values that hold 8 bits.
        self._scales: dict[str, np.float32] = {}

    def weights(self, name: str, kernel: NDArray[Any], bias: NDArray[Any], read: str) -> tuple[str, str]:
        graph, (levels, scales) = self.graph, quantise_kernel(kernel)
        weight = graph.node(
            "DequantizeLinear",
            graph.constant(levels, f"{name}.weight"),
            graph.constant(scales),
            graph.constant(np.zeros(len(scales), np.int8)),
            axis=0,
        )
        if read not in self._scales:
            return weight, graph.constant(bias, f"{name}.bias")
        steps = self._scales[read] * scales
        whole = np.clip(np.rint(bias.astype(np.float64) / steps), -(2**31), 2**31 - 1).astype(np.int32)
        return weight, graph.node(
            "DequantizeLinear",
            graph.constant(whole, f"{name}.bias"),
            graph.constant(steps),
            graph.constant(np.zeros(len(scales), np.int32)),
            axis=0,
        )

    def rounded(self, value: str, name: str) -> str:
        if name not in self._ranges:
            return value
        scale, zero = range_levels(*self._ranges[name])
        ends = self.graph.constant(scale), self.graph.constant(zero)
        levels = self.graph.node("QuantizeLinear", value, *ends)
        # A pool keeps scale and zero, so that runtimes have it in 8 bits too.
        found = self.graph.node("DequantizeLinear", levels, *ends, name=f"{name}.rounded")
        self._scales[found] = scale
        return found


def range_levels(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Of a range that holds 0: how far the 256 levels are apart, and which of them is 0."""
    scale = np.float32((high - low) / 255)
    return scale, np.uint8(np.clip(round(-low / float(scale)), 0, 255))


def quantise_kernel(kernel: NDArray[Any], levels: int = WEIGHT_LEVELS) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Steps of -levels..levels and a scale for each output channel, axis 0: kernel is about steps x scale."""
    most = np.abs(kernel.astype(np.float64)).reshape(len(kernel), -1).max(axis=1)
    scales = np.where(most > 0, most / levels, 1).astype(np.float32)
    # float32 may round a scale down, by which the last level would be passed.
    steps = kernel / scales.reshape(-1, *(1,) * (kernel.ndim - 1)).astype(np.float64)
    return np.clip(np.rint(steps), -levels, levels).astype(np.int8), scales


def _add_classifier(network: FloatNetwork, images: Map, architecture: Architecture) -> str:
    graph = network.graph
    convolutions = trunk(architecture)
    last = network.row(images, convolutions)
    pooled = network.rounded(graph.node("GlobalAveragePool", last.value, name="pool"), f"{convolutions[-1].name}.pool")
    flat = graph.node("Flatten", pooled, axis=1)
    weight, bias = (network.tensors[f"classifier.{part}"] for part in ("weight", "bias"))
    raw = graph.node("Gemm", flat, *network.weights("classifier", weight, bias, pooled), name="classifier", transB=1)
    logits = network.rounded(raw, "classifier")
    network.trace.layers["classifier"] = LayerValues(flat, raw, logits)
    # The name of the output is the graph's, not the layer's.
    return graph.node("Identity", logits, name="logits")


def _add_detector(network: FloatNetwork, images: Map, detector: Detector) -> tuple[str, str]:
    layers = detector_layers(detector)
    last = network.row(images, layers.backbone)
    maps = [network.maps[f"{BACKBONE}.{TAPS[detector.backbone]}"], last]
    for extra in layers.extras:
        maps.append(network.row(maps[-1], extra))

    def predict(heads: list[list[Convolution]], values: int, name: str) -> str:
        parts = [_by_anchor(network.graph, network.row(x, head), values) for x, head in zip(maps, heads, strict=True)]
        return network.graph.node("Concat", *parts, name=name, axis=1)

    class_logits = predict(layers.class_heads, detector.num_classes + 1, "class_logits")
    return class_logits, predict(layers.box_heads, 4, "box_codes")


def _add_segmenter(network: FloatNetwork, images: Map, segmenter: Segmenter) -> str:
    graph, layers = network.graph, segmenter_layers(segmenter)
    last = network.row(images, layers.backbone)
    pooled = graph.node("GlobalAveragePool", last.value, name="pool")
    mean = Map(network.rounded(pooled, f"{layers.backbone[-1].name}.pool"), (1, 1))
    image = network.convolution(mean, layers.image)
    branches = [network.convolution(last, plan).value for plan in (layers.point, *layers.atrous)]
    shape = graph.node("Shape", branches[0])
    joined = graph.node("Concat", graph.node("Expand", image.value, shape), *branches, axis=1)
    x = network.convolution(Map(network.rounded(joined, "head.joined"), last.size_hw), layers.project)
    if layers.skip:
        skip = network.row(network.maps[f"{SEGMENTER_BACKBONE}.{SKIPS[segmenter.backbone]}"], layers.skip)
        deep = add_upsampling(graph, network.row(x, layers.deep).value, add_size_hw(graph, skip.value, first=2))
        total = graph.node("Relu", graph.node("Add", deep, skip.value))
        x = network.row(Map(network.rounded(total, "decoder.joined"), skip.size_hw), layers.blocks)
    # The name of the output is the graph's, not the layer's.
    return graph.node("Identity", network.convolution(x, layers.classifier).value, name="logits")


def add_size_hw(graph: GraphBuilder, values: str, *, first: int) -> str:
    """Height and width of a value, of which the height is axis `first`: int64 (2,)."""
    return graph.node("Shape", values, start=first, end=first + 2)


def add_upsampling(graph: GraphBuilder, values: str, size_hw: str) -> str:
    """(N, C, h, w) -> (N, C, H, W), bilinear with the corners on the corners. size_hw: name of H and W."""
    sizes = graph.node("Concat", graph.node("Shape", values, start=0, end=2), size_hw, axis=0)
    return graph.node("Resize", values, "", "", sizes, mode="linear", coordinate_transformation_mode="align_corners")


def _by_anchor(graph: GraphBuilder, predicted: Map, values: int) -> str:
    """(N, anchors of a cell * values, H, W) -> (N, H * W * anchors of a cell, values)."""
    pixels = graph.node("Transpose", predicted.value, perm=(0, 2, 3, 1))
    return graph.node("Reshape", pixels, graph.constant(np.array([0, -1, values], np.int64)))
