"""`mobilenetv2 describe`: a network layer by layer, counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import nn

from mobilenetv2.detector import Detector
from mobilenetv2.errors import UserError
from mobilenetv2.modelfile import load_model_file
from mobilenetv2.networks.complexity import Complexity, Operator, Shape, block_path, trace
from mobilenetv2.networks.deeplab_v3 import build_segmenter
from mobilenetv2.networks.mobilenet_v2 import InvertedResidual
from mobilenetv2.networks.mobilenets import build_mobilenet
from mobilenetv2.networks.ssd import build_detector
from mobilenetv2.networks.zoo import ZOO, build
from mobilenetv2.runtime.predictor import find_model, models_in_the_box
from mobilenetv2.segmenter import Segmenter

BYTES = 4  # of an activation: 32 bits


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operator, or one block of them.

    name: path of the module. shapes: (channels, height, width), or (channels,). memory_bytes: of all activations that
    exist at its worst moment, at 32 bits. share: of all multiply-adds, 0..1.
    """

    name: str
    operator: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    madds: int
    memory_bytes: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Description:
    """A network at one input size. `blocks` are its layers joined block by block, as Table 2 has them.

    resolution: height of the input in pixels. size_hw: height and width.
    """

    name: str
    source: str
    width: float | None
    resolution: int
    size_hw: tuple[int, int]
    output_stride: int | None
    parameters: int
    parameters_without_batch_norm: int
    madds: int
    peak_activation_bytes: int
    layers: tuple[Layer, ...]
    blocks: tuple[Layer, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_text(self, *, every_layer: bool = False) -> str:
        lines = list(self._cells(every_layer))
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        texts = [
            "  ".join(
                text.ljust(width) if column < 4 else text.rjust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self._title(), "", *texts, "", *self._totals()])

    def to_markdown(self, *, every_layer: bool = False) -> str:
        header, *lines = self._cells(every_layer)
        rows = ["| " + " | ".join(line) + " |" for line in (header, *lines)]
        rows.insert(1, "|-|-|-|-|-:|-:|-:|-:|")
        return "\n".join([f"## {self._title()}", "", *rows, "", *(f"- {line}" for line in self._totals())])

    def _title(self) -> str:
        options = [" x ".join(map(str, self.size_hw))]
        options += [f"width {self.width:g}"] if self.width is not None else []
        options += [f"output stride {self.output_stride}"] if self.output_stride is not None else []
        return f"{self.name} at {', '.join(options)} ({self.source})"

    def _cells(self, every_layer: bool) -> Iterator[tuple[str, ...]]:
        yield "layer", "input", "operator", "output", "parameters", "multiply-adds", "memory (kB)", "share"
        for layer in self.layers if every_layer else self.blocks:
            yield (
                layer.name or "-",
                _size(layer.input_shape),
                layer.operator,
                _size(layer.output_shape),
                f"{layer.parameters:,}",
                f"{layer.madds:,}",
                f"{layer.memory_bytes / 1000:,.1f}",
                f"{layer.share:.1%}",
            )

    def _totals(self) -> list[str]:
        return [
            f"parameters: {self.parameters:,}, without batch norm {self.parameters_without_batch_norm:,}",
            f"multiply-adds: {self.madds:,} for one picture",
            f"most memory for activations: {self.peak_activation_bytes / 1e6:,.2f} MB at 32 bits, operator by operator",
        ]


def describe(
    name: str,
    *,
    width: float | None = None,
    resolution: int | None = None,
    output_stride: int | None = None,
) -> Description:
    """Count a network of the zoo, or that of a model file or of a model in the box, layer by layer.

    width, output_stride: where the network has them, and never of a model, whose weights decide. resolution: side of
    the input in pixels; by default the paper's, or the model's.
    Raises UserError for an unknown name, an option that is not there, and a size that the network cannot take.
    """
    if name.endswith(".safetensors") or name in models_in_the_box():
        if width is not None or output_stride is not None:
            raise UserError(f"{name}: width and output stride are a model's own; leave them out")
        card = load_model_file(find_model(name)).card
        architecture, kind = card.architecture, card.architecture.name
        with torch.device("meta"):
            if isinstance(architecture, Detector):
                network: nn.Module = build_detector(architecture)
                kind += f" on {architecture.backbone}"
            elif isinstance(architecture, Segmenter):
                network, output_stride = build_segmenter(architecture), architecture.output_stride
                kind += f" on {architecture.backbone}"
            else:
                network, output_stride = build_mobilenet(architecture), architecture.output_stride
        size_hw = card.preprocessing.size_hw if resolution is None else (resolution, resolution)
        source, width = f"{kind}, {len(card.labels)} classes", architecture.width
    else:
        with torch.device("meta"):
            network = build(name, width=width, output_stride=output_stride)
        entry = ZOO[name]
        source, side = entry.source, entry.resolution if resolution is None else resolution
        size_hw = (side, side)
        if "width" in entry.options:
            width = 1.0 if width is None else width
    if not 1 <= min(size_hw) <= max(size_hw) <= 8192:
        raise UserError(f"resolution {size_hw[0]} is out of range; give 1 to 8192 pixels")
    try:
        complexity = trace(network, size_hw)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"network {name!r} cannot take {size_hw[0]} x {size_hw[1]} pixels: {reason}") from error
    return Description(
        name=name,
        source=source,
        width=width,
        resolution=size_hw[0],
        size_hw=size_hw,
        output_stride=output_stride,
        parameters=complexity.parameters,
        parameters_without_batch_norm=complexity.parameters_without_batch_norm,
        madds=complexity.madds,
        peak_activation_bytes=complexity.peak_activation_bytes(bytes_per_element=BYTES),
        layers=tuple(_layer(operator, complexity) for operator in complexity.operators),
        blocks=tuple(_blocks(network, complexity)),
    )


def _layer(operator: Operator, complexity: Complexity) -> Layer:
    stride = f" s{operator.stride}" if operator.stride > 1 else ""
    dilation = f" d{operator.dilation}" if operator.dilation > 1 else ""
    activation = f", {operator.activation}" if operator.activation else ""
    return Layer(
        name=operator.path.removesuffix(".conv"),
        operator=f"{operator.kind}{stride}{dilation}{activation}",
        input_shape=_shape(operator.input_shapes[0]),
        output_shape=_shape(operator.output_shape),
        parameters=operator.parameters,
        madds=operator.madds,
        memory_bytes=operator.live_elements * BYTES,
        share=operator.madds / max(complexity.madds, 1),
    )


def _blocks(network: nn.Module, complexity: Complexity) -> Iterator[Layer]:
    """Operators in a row that belong to one block, as one layer."""
    for path, group in groupby(complexity.operators, key=lambda operator: block_path(operator.path)):
        operators = list(group)
        layers = [_layer(operator, complexity) for operator in operators]
        if len(layers) == 1:
            yield replace(layers[0], name=path or layers[0].name)
            continue
        yield Layer(
            name=path,
            operator=_block_name(network.get_submodule(path), operators),
            input_shape=layers[0].input_shape,
            output_shape=layers[-1].output_shape,
            parameters=sum(layer.parameters for layer in layers),
            madds=sum(layer.madds for layer in layers),
            memory_bytes=max(layer.memory_bytes for layer in layers),
            share=sum(layer.share for layer in layers),
        )


def _block_name(block: nn.Module, operators: list[Operator]) -> str:
    if isinstance(block, InvertedResidual):
        wide, narrow = block.filter.conv.in_channels, operators[0].input_shapes[0][1]
        stride, dilation = block.filter.conv.stride[0], block.filter.conv.dilation[0]
        options = f"t{wide // narrow} s{stride}" + (f" d{dilation}" if dilation > 1 else "")
        return f"bottleneck {options}" + (" + shortcut" if block.has_shortcut else "")
    strides = max(operator.stride for operator in operators)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(block).__name__).lower()
    return f"{words} ({len(operators)} operators)" + (f" s{strides}" if strides > 1 else "")


def _shape(shape: Shape) -> tuple[int, ...]:
    return shape[1:]


def _size(shape: tuple[int, ...]) -> str:
    """(C, H, W) as the paper writes it."""
    if len(shape) != 3:
        return " x ".join(map(str, shape))
    channels, height, width = shape
    return f"{height} x {width} x {channels}"
