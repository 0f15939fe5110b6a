"""TFLite files of our own classifiers, as TensorFlow's converter lays them out: for tests without TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import tflite as schema
from numpy.typing import NDArray

from mobilenetv2.architecture import Architecture, Convolution, trunk
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.numerics import NUMERICS
from mobilenetv2.runtime.graph_network import fold_batch_norm

_KINDS = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int8": 9}
# The first version that knows what is written here.
_VERSIONS = {"DEQUANTIZE": 3, "DEPTHWISE_CONV_2D": 2}
_FUSED = {"linear": 0, "relu": 1, "relu6": 3}
RANGES = {"relu6": (0.0, 6.0), "relu": (0.0, 8.0), "linear": (-20.0, 20.0)}


@dataclass
class File:
    """What is to be written. kind: "float32", "float16", "uint8" (by tensor) or "int8" (by channel)."""

    kind: str
    buffers: list[bytes] = field(default_factory=lambda: [b""])
    tensors: list[tuple[list[int], str, int, Any]] = field(default_factory=list)
    operators: list[tuple[str, list[int], int, tuple[str, dict[str, int]] | None]] = field(default_factory=list)

    @property
    def levels(self) -> str:
        return self.kind if self.kind in ("uint8", "int8") else "float32"

    def value(self, shape: tuple[int, ...], ends: tuple[float, float]) -> int:
        """A tensor that an operator makes."""
        quantization = None
        if self.levels != "float32":
            scale = (ends[1] - ends[0]) / 255
            lowest = 0 if self.levels == "uint8" else -128
            quantization = ([scale], [round(lowest - ends[0] / scale)], 0)
        self.tensors.append((list(shape), self.levels, 0, quantization))
        return len(self.tensors) - 1

    def constant(self, array: NDArray[Any], quantization: Any = None) -> int:
        self.buffers.append(np.ascontiguousarray(array).tobytes())
        self.tensors.append((list(array.shape), array.dtype.name, len(self.buffers) - 1, quantization))
        return len(self.tensors) - 1

    def kernel(self, array: NDArray[np.float32], axis: int) -> tuple[int, NDArray[np.float64]]:
        """A kernel as this kind has it, and its scales; axis: of its output channels."""
        if self.kind == "float16":
            stored = self.constant(array.astype(np.float16))
            self.tensors.append((list(array.shape), "float32", 0, None))
            self.operators.append(("DEQUANTIZE", [stored], len(self.tensors) - 1, None))
            return len(self.tensors) - 1, np.ones(1)
        if self.kind == "uint8":
            low, high = min(float(array.min()), 0.0), max(float(array.max()), 1e-6)
            scale = (high - low) / 255
            zero = round(-low / scale)
            levels = np.clip(np.round(array / scale) + zero, 0, 255).astype(np.uint8)
            return self.constant(levels, ([scale], [zero], 0)), np.array([scale])
        if self.kind == "int8":
            along = tuple(each for each in range(array.ndim) if each != axis)
            scales = np.maximum(np.abs(array).max(axis=along, keepdims=True), 1e-6) / 127
            levels = np.round(array / scales).astype(np.int8)
            flat = scales.reshape(-1).astype(np.float64)
            return self.constant(levels, (flat.tolist(), [0] * len(flat), axis)), flat
        return self.constant(array), np.ones(1)

    def bias(self, array: NDArray[np.float32], scales: NDArray[np.float64], source: int) -> int:
        if self.levels == "float32":
            return self.constant(array)
        both = scales * self.tensors[source][3][0][0]
        levels = np.round(array / both).astype(np.int32)
        return self.constant(levels, (both.tolist(), [0] * len(both), 0))


def tflite_file(model: ModelFile, kind: str = "float32", *, dense: bool = False, mean: bool = False) -> bytes:
    """A classifier as a file. dense, mean: with FULLY_CONNECTED and MEAN for the convolution and the pooling."""
    card = model.card
    architecture = card.architecture
    assert isinstance(architecture, Architecture)
    file, size_hw = File(kind), card.preprocessing.size_hw
    given = value = file.value((1, *size_hw, 3), (-1.0, 1.0))
    values: dict[str, int] = {}
    for plan in trunk(architecture):
        value, size_hw = _convolution(file, model, plan, value, size_hw), plan.out_size(size_hw)
        if plan.shortcut:
            output = file.value((1, *size_hw, plan.out_channels), (-40.0, 40.0))
            file.operators.append(("ADD", [values[plan.shortcut], value], output, ("AddOptions", {})))
            value = output
        values[plan.name] = value
    channels = trunk(architecture)[-1].out_channels
    if mean:
        pooled = file.value((1, channels), RANGES["relu6"])
        axes = file.constant(np.array([1, 2], np.int32))
        file.operators.append(("MEAN", [value, axes], pooled, ("ReducerOptions", {})))
    else:
        pooled = file.value((1, 1, 1, channels), RANGES["relu6"])
        sides = {"FilterHeight": size_hw[0], "FilterWidth": size_hw[1], "StrideH": 1, "StrideW": 1, "Padding": 1}
        file.operators.append(("AVERAGE_POOL_2D", [value], pooled, ("Pool2DOptions", sides)))
    weight = model.tensors["classifier.weight"]
    kernel, scales = file.kernel(weight if dense else weight[:, None, None], 0)
    inputs = [pooled, kernel, file.bias(model.tensors["classifier.bias"], scales, pooled)]
    shape = (1, len(weight)) if dense else (1, 1, 1, len(weight))
    logits = file.value(shape, RANGES["linear"])
    if dense:
        file.operators.append(("FULLY_CONNECTED", inputs, logits, ("FullyConnectedOptions", {})))
    else:
        file.operators.append(("CONV_2D", inputs, logits, ("Conv2DOptions", {"StrideH": 1, "StrideW": 1})))
    flat = file.value((1, len(weight)), RANGES["linear"])
    sizes = file.constant(np.array([1, len(weight)], np.int32))
    file.operators.append(("RESHAPE", [logits, sizes], flat, ("ReshapeOptions", {})))
    return _serialized(file, given, flat)


def _convolution(file: File, model: ModelFile, plan: Convolution, value: int, size_hw: tuple[int, int]) -> int:
    kernel, bias = fold_batch_norm(model, plan)
    padding = NUMERICS[model.card.architecture.numerics].padding
    same = 0
    if plan.stride > 1 and (plan.rounds_down or padding == "symmetric"):
        before, after = (0, 1) if plan.rounds_down else (1, 1)
        height, width = (side + before + after for side in size_hw)
        padded = file.value((1, height, width, plan.in_channels), RANGES["relu6"])
        rows = file.constant(np.array([[0, 0], [before, after], [before, after], [0, 0]], np.int32))
        file.operators.append(("PAD", [value, rows], padded, ("PadOptions", {})))
        value, same = padded, 1
    options = {
        "StrideH": plan.stride,
        "StrideW": plan.stride,
        "Padding": same,
        "FusedActivationFunction": _FUSED[plan.activation],
        "DilationHFactor": plan.dilation,
        "DilationWFactor": plan.dilation,
    }
    name, table = "CONV_2D", "Conv2DOptions"
    kernel, axis = kernel.transpose(0, 2, 3, 1), 0
    if plan.depthwise:
        name, table, kernel, axis = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", kernel.transpose(3, 1, 2, 0), 3
        options["DepthMultiplier"] = 1
    stored, scales = file.kernel(np.ascontiguousarray(kernel), axis)
    inputs = [value, stored, file.bias(bias, scales, value)]
    output = file.value((1, *plan.out_size(size_hw), plan.out_channels), RANGES[plan.activation])
    file.operators.append((name, inputs, output, (table, options)))
    return output


def _serialized(file: File, given: int, wanted: int) -> bytes:
    builder = flatbuffers.Builder(1 << 20)

    def vector(values: list[Any], prepend: Any, size: int = 4) -> int:
        builder.StartVector(size, len(values), size)
        for each in reversed(values):
            prepend(each)
        return int(builder.EndVector())

    def table(name: str, **values: int) -> int:
        getattr(schema, f"{name}Start")(builder)
        for key, each in values.items():
            getattr(schema, f"{name}Add{key}")(builder, each)
        return int(getattr(schema, f"{name}End")(builder))

    ints, offsets = builder.PrependInt32, builder.PrependUOffsetTRelative
    buffers = [
        table("Buffer", Data=builder.CreateByteVector(each)) if each else table("Buffer") for each in file.buffers
    ]
    tensors = []
    for shape, kind, buffer, quantization in file.tensors:
        parts = {"Shape": vector(shape, ints), "Type": _KINDS[kind], "Buffer": buffer}
        if quantization:
            scales, zeros, axis = quantization
            record = {
                "Scale": vector(scales, builder.PrependFloat32),
                "ZeroPoint": vector(zeros, builder.PrependInt64, 8),
                "QuantizedDimension": axis,
            }
            parts["Quantization"] = table("QuantizationParameters", **record)
        tensors.append(table("Tensor", **parts))
    names = sorted({name for name, *_ in file.operators})
    codes = [getattr(schema.BuiltinOperator, name) for name in names]
    records = [
        table("OperatorCode", DeprecatedBuiltinCode=code, BuiltinCode=code, Version=_VERSIONS.get(name, 1))
        for name, code in zip(names, codes, strict=True)
    ]
    operators = []
    for name, inputs, output, options in file.operators:
        parts = {"OpcodeIndex": names.index(name), "Inputs": vector(inputs, ints), "Outputs": vector([output], ints)}
        if options:
            parts["BuiltinOptions"] = table(options[0], **options[1])
            parts["BuiltinOptionsType"] = getattr(schema.BuiltinOptions, options[0])
        operators.append(table("Operator", **parts))
    graph = table(
        "SubGraph",
        Tensors=vector(tensors, offsets),
        Inputs=vector([given], ints),
        Outputs=vector([wanted], ints),
        Operators=vector(operators, offsets),
    )
    model = table(
        "Model",
        Version=3,
        OperatorCodes=vector(records, offsets),
        Subgraphs=vector([graph], offsets),
        Buffers=vector(buffers, offsets),
    )
    builder.Finish(model, file_identifier=b"TFL3")
    return bytes(builder.Output())
