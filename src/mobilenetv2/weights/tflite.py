"""TFLite files without TensorFlow: their layers, in order, as float32."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import MissingExtraError, ModelFileError

MAX_PARTS = 20_000  # of anything in a file: operators, tensors, buffers
# What the schema's package raises for offsets that lead astray.
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, OverflowError, UnicodeDecodeError, AttributeError)
_NONE, _RELU, _RELU6 = 0, 1, 3
_ACTIVATIONS = {_NONE: "linear", _RELU: "relu", _RELU6: "relu6"}
_KINDS: dict[int, Any] = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 9: np.int8}


class Layer(NamedTuple):
    """A convolution or a dense layer, with its batch norm folded in, as TFLite has it.

    kernel: (out, in / groups, height, width) float32. bias: (out,). output_range: the least and largest value that
    its quantised result can hold; None where it is not quantised. on_pixels: whether its map has more than one.
    """

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    depthwise: bool
    stride: int
    dilation: int
    activation: str
    output_range: tuple[float, float] | None
    size_hw: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """size_hw: of the input. mean, std: of its levels 0..1, where it takes levels; None where it takes floats."""

    size_hw: tuple[int, int]
    mean_std: tuple[float, float] | None
    layers: tuple[Layer, ...]
    operators: tuple[str, ...]


def read_tflite(content: bytes, *, source: str) -> Graph:
    """The layers of a file in the order of computation, dequantised where they are quantised.

    Raises ModelFileError for what is damaged, and for operators and options that no MobileNet has.
    """
    if content[4:8] != b"TFL3":
        raise ModelFileError(f"{source}: is not a TFLite file")
    try:
        import tflite
    except ImportError as error:
        raise MissingExtraError("reading a TFLite file", "convert") from error
    try:
        return _Reader(tflite, content, source).graph()
    except _DAMAGE as error:
        raise ModelFileError(f"{source}: is damaged, or cut off ({type(error).__name__})") from error


class _Reader:
    def __init__(self, schema: Any, content: bytes, source: str) -> None:
        self.schema, self.source = schema, source
        self.model = schema.Model.GetRootAsModel(content, 0)
        if self.model.SubgraphsLength() != 1:
            raise ModelFileError(f"{source}: has {self.model.SubgraphsLength()} graphs; a MobileNet has one")
        self.subgraph = self.model.Subgraphs(0)
        for count in (
            self.subgraph.OperatorsLength(),
            self.subgraph.TensorsLength(),
            self.model.BuffersLength(),
            self.model.OperatorCodesLength(),
        ):
            if not 0 < count <= MAX_PARTS:
                raise ModelFileError(f"{source}: says it has {count:,} parts of a kind; no MobileNet has")
        self.names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
        # Tensors that another operator makes of constants, and by how much a map was cut up for a dilation.
        self.constants: dict[int, NDArray[np.float32]] = {}
        self.blocks: dict[int, int] = {}

    def graph(self) -> Graph:
        layers: list[Layer] = []
        operators: list[str] = []
        read: dict[str, Callable[[Any], Layer]] = {
            "CONV_2D": self._convolution,
            "DEPTHWISE_CONV_2D": self._depthwise,
            "FULLY_CONNECTED": self._dense,
        }
        for index in range(self.subgraph.OperatorsLength()):
            operator = self.subgraph.Operators(index)
            code = self.model.OperatorCodes(operator.OpcodeIndex())
            name = self.names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "CUSTOM")
            operators.append(name)
            if name in read:
                layers.append(read[name](operator))
            elif name == "DEQUANTIZE" and self._is_constant(operator.Inputs(0)):
                self.constants[operator.Outputs(0)] = self._values(operator.Inputs(0))
            elif name == "SPACE_TO_BATCH_ND":
                sides = self._values(operator.Inputs(1))
                self.blocks[operator.Outputs(0)] = int(sides.max())
        if self.subgraph.InputsLength() != 1:
            raise ModelFileError(f"{self.source}: has {self.subgraph.InputsLength()} inputs; a MobileNet has one")
        tensor = self.subgraph.Tensors(self.subgraph.Inputs(0))
        batch, height, width, channels = (int(side) for side in tensor.ShapeAsNumpy())
        if (batch, channels) != (1, 3) or not (1 <= height <= 4096 and 1 <= width <= 4096):
            raise ModelFileError(f"{self.source}: takes {(batch, height, width, channels)}, not one RGB picture")
        return Graph(
            size_hw=(height, width),
            mean_std=self._levels(tensor),
            layers=tuple(layers),
            operators=tuple(operators),
        )

    def _levels(self, tensor: Any) -> tuple[float, float] | None:
        scale, zero = _quantization(tensor)
        if scale is None:
            return None
        # An int8 input holds the levels less 128.
        zero_level = float(zero[0]) + (128 if tensor.Type() == self.schema.TensorType.INT8 else 0)
        return zero_level / 255, 1 / (255 * float(scale[0]))

    def _convolution(self, operator: Any) -> Layer:
        options = self._options(operator, self.schema.Conv2DOptions())
        return self._layer(operator, options, self._values(operator.Inputs(1)).transpose(0, 3, 1, 2), depthwise=False)

    def _depthwise(self, operator: Any) -> Layer:
        options = self._options(operator, self.schema.DepthwiseConv2DOptions())
        kernel = self._values(operator.Inputs(1))  # (1, height, width, channels)
        return self._layer(operator, options, kernel.transpose(3, 0, 1, 2), depthwise=True)

    def _dense(self, operator: Any) -> Layer:
        kernel = self._values(operator.Inputs(1))[:, :, None, None]
        return self._layer(operator, None, kernel, depthwise=False)

    def _options(self, operator: Any, options: Any) -> Any:
        table = operator.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        return options

    def _layer(self, operator: Any, options: Any, kernel: NDArray[np.float32], *, depthwise: bool) -> Layer:
        output = self.subgraph.Tensors(operator.Outputs(0))
        stride, dilation, activation = 1, 1, _NONE
        if options is not None:
            strides, dilations = {options.StrideH(), options.StrideW()}, {options.DilationHFactor(), options.DilationWFactor()}
            if len(strides) != 1 or len(dilations) != 1:
                raise ModelFileError(f"{self.source}: has a convolution of unequal strides; no MobileNet has")
            stride, dilation, activation = strides.pop(), dilations.pop(), options.FusedActivationFunction()
            if stride > 1 and options.Padding() != self.schema.Padding.SAME:
                raise ModelFileError(f"{self.source}: has a strided convolution whose padding is not SAME")
        if activation not in _ACTIVATIONS:
            raise ModelFileError(f"{self.source}: has an activation that no MobileNet has ({activation})")
        has_bias = operator.InputsLength() > 2 and operator.Inputs(2) >= 0
        bias = self._values(operator.Inputs(2)).reshape(-1) if has_bias else np.zeros(len(kernel), np.float32)
        if bias.shape != kernel.shape[:1]:
            raise ModelFileError(f"{self.source}: has a bias of another size than its kernel")
        shape = output.ShapeAsNumpy()
        size_hw = (int(shape[1]), int(shape[2])) if output.ShapeLength() == 4 else (1, 1)
        return Layer(
            kernel=np.ascontiguousarray(kernel, np.float32),
            bias=bias,
            depthwise=depthwise,
            stride=stride,
            dilation=dilation * self.blocks.get(operator.Inputs(0), 1),
            activation=_ACTIVATIONS[activation],
            output_range=_range(output, self.schema),
            size_hw=size_hw,
        )

    def _is_constant(self, index: int) -> bool:
        return bool(self.model.Buffers(self.subgraph.Tensors(index).Buffer()).DataLength())

    def _values(self, index: int) -> NDArray[np.float32]:
        """A constant's numbers, as they are meant."""
        if index in self.constants:
            return self.constants[index]
        tensor = self.subgraph.Tensors(index)
        kind = _KINDS.get(tensor.Type())
        if kind is None:
            raise ModelFileError(f"{self.source}: has a tensor of kind {tensor.Type()}; known are floats and 8 bits")
        data = self.model.Buffers(tensor.Buffer()).DataAsNumpy()
        shape = tuple(int(side) for side in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
        values = np.frombuffer(bytes(data), np.dtype(kind).newbyteorder("<")).reshape(shape)
        scale, zero = _quantization(tensor)
        if scale is None:
            return values.astype(np.float32)
        axis = tensor.Quantization().QuantizedDimension()
        along = [1] * values.ndim
        if len(scale) > 1:
            along[axis] = -1
        scale, zero = scale.reshape(along), zero.reshape(along)
        return ((values.astype(np.float64) - zero) * scale).astype(np.float32)


def _quantization(tensor: Any) -> tuple[Any, Any]:
    """Scales and zero points, or None twice."""
    record = tensor.Quantization()
    if record is None or not record.ScaleLength():
        return None, None
    scale = record.ScaleAsNumpy().astype(np.float64)
    zero = record.ZeroPointAsNumpy().astype(np.float64) if record.ZeroPointLength() else np.zeros(len(scale))
    return scale, zero


def _range(tensor: Any, schema: Any) -> tuple[float, float] | None:
    scale, zero = _quantization(tensor)
    if scale is None or tensor.Type() not in (schema.TensorType.UINT8, schema.TensorType.INT8):
        return None
    low, high = (0, 255) if tensor.Type() == schema.TensorType.UINT8 else (-128, 127)
    return float((low - zero[0]) * scale[0]), float((high - zero[0]) * scale[0])
