"""TFLite files without TensorFlow: their layers, in order, as float32, and how they are joined.

Source: the published schema of the format (schema.fbs), as the package `tflite` reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import MissingExtraError, ModelFileError
from mobilenetv2.numerics import same_padding

MAX_PARTS = 2_000  # of anything in a file: operators, tensors, buffers; a MobileNet has a few hundred
MAX_INPUTS = 64  # of an operator
MAX_READINGS = 8  # of the bytes of a file: constants may be shared, but not by everybody
MAX_SIDE = 4096  # of the input, in pixels
INPUT = -1  # the origin of the picture
# What the schema's package and NumPy stumble over where offsets lead astray.
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError, KeyError, MemoryError)
_ACTIVATIONS = {0: "linear", 1: "relu", 3: "relu6"}
_KINDS: dict[int, Any] = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 9: np.int8}
# Operators behind which a value is still the same one, as far as a network is told apart by its layers.
_PASSING = (
    *("QUANTIZE", "DEQUANTIZE", "CAST", "RESHAPE", "SQUEEZE", "EXPAND_DIMS"),
    *("SOFTMAX", "RESIZE_BILINEAR", "ARG_MAX"),
)

# What sizes are worked out with, where a converter left that to the file.
_OF_SHAPES = ("STRIDED_SLICE", "SLICE", "PACK", "GATHER")

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or a dense layer with its batch norm folded in, as TFLite has it.

    kernel: (out, in / groups, height, width) float32. bias: (out,).
    pads: before and after, on each axis: zeros put around the map. in_hw, out_hw: height and width of the maps.
    origins: the layers whose values it reads, in order, as indices; `INPUT` is the picture. pooled: whether it reads
        their mean over all pixels. shortcut: the layer whose value is added to this one's.
    ranges: least and largest value that its quantised results can hold, by name: "" before the addition, "add" after
        it, "pool" of its mean; of layers that are not quantised there are none.
    """

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    depthwise: bool
    stride: int
    dilation: int
    activation: str
    pads: tuple[tuple[int, int], tuple[int, int]]
    in_hw: tuple[int, int]
    out_hw: tuple[int, int]
    origins: tuple[int, ...]
    pooled: bool
    shortcut: int | None = None
    ranges: dict[str, Range] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A whole file.

    size_hw: of the input. mean_std: of its levels, 0..1, where it takes levels; None where it takes floats.
    input_range: as the ranges of a layer. operators: their names. quantized: whether kernels are stored in 8 bits.
    """

    size_hw: tuple[int, int]
    mean_std: tuple[float, float] | None
    input_range: Range | None
    layers: tuple[Layer, ...]
    operators: tuple[str, ...]
    quantized: bool


def read_tflite(content: bytes, *, source: str) -> Graph:
    """The layers of a file in the order of computation, dequantised where they are quantised.

    Raises ModelFileError for what is damaged, and for operators and options that no MobileNet has.
    """
    try:
        import tflite
    except ImportError as error:
        raise MissingExtraError("reading a TFLite file", "convert") from error
    try:
        return _Reader(tflite, content, source).graph()
    except _DAMAGE as error:
        raise ModelFileError(f"{source}: is damaged, or cut off ({type(error).__name__})") from error


@dataclass(frozen=True)
class _Value:
    """Where a tensor comes from, and what was done to it on the way that its reader must know."""

    origins: tuple[int, ...]
    pooled: bool = False
    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    block: int = 1  # by how much it was cut up, for a dilation


class _Reader:
    def __init__(self, schema: Any, content: bytes, source: str) -> None:
        self.schema, self.source, self.size = schema, source, len(content)
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
        self.layers: list[Layer] = []
        self.values: dict[int, _Value] = {}
        # Float constants that the file stores in 16 bits, behind the operator that widens them.
        self.constants: dict[int, NDArray[np.float32]] = {}
        self.quantized = False
        self.bytes_read = 0

    def graph(self) -> Graph:
        if self.subgraph.InputsLength() != 1:
            raise ModelFileError(f"{self.source}: has {self.subgraph.InputsLength()} inputs; a MobileNet has one")
        place = self.subgraph.Inputs(0)
        batch, *size_hw, channels = self._shape(place)
        if (batch, channels, len(size_hw)) != (1, 3, 2) or not all(1 <= side <= MAX_SIDE for side in size_hw):
            raise ModelFileError(f"{self.source}: takes {self._shape(place)}, not one RGB picture")
        self.values[place] = _Value((INPUT,))
        operators = [self._operator(self.subgraph.Operators(at)) for at in range(self.subgraph.OperatorsLength())]
        tensor = self.subgraph.Tensors(place)
        return Graph(
            size_hw=(size_hw[0], size_hw[1]),
            mean_std=self._levels(tensor),
            input_range=self._range(place),
            layers=tuple(self.layers),
            operators=tuple(operators),
            quantized=self.quantized,
        )

    def _operator(self, operator: Any) -> str:
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        # Old files know the first 127 operators only, and keep them in the other field.
        name: str = self.names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "CUSTOM")
        if operator.InputsLength() > MAX_INPUTS:
            raise ModelFileError(
                f"{self.source}: has an operator with {operator.InputsLength():,} inputs; no MobileNet has"
            )
        output, first = operator.Outputs(0), operator.Inputs(0)
        readers: dict[str, Callable[[Any], Layer]] = {
            "CONV_2D": self._convolution,
            "DEPTHWISE_CONV_2D": self._depthwise,
            "FULLY_CONNECTED": self._dense,
        }
        if name in readers:
            self.layers.append(readers[name](operator))
            self.values[output] = _Value((len(self.layers) - 1,))
        elif name == "DEQUANTIZE" and self._is_constant(first):
            self.constants[output] = self._array(first)
        elif name == "ADD":
            self._add(operator)
        elif name == "CONCATENATION":
            inputs = [self.values[operator.Inputs(at)] for at in range(operator.InputsLength())]
            self.values[output] = _Value(tuple(origin for value in inputs for origin in value.origins))
        elif name in ("AVERAGE_POOL_2D", "MEAN"):
            self._pool(operator)
        elif name in ("RELU", "RELU6"):
            self._activate(operator, name.lower())
        elif name == "PAD":
            rows = self._array(operator.Inputs(1)).astype(int).tolist()
            self.values[output] = replace(self.values[first], pads=(tuple(rows[1]), tuple(rows[2])))
        elif name == "SPACE_TO_BATCH_ND":
            self.values[output] = replace(self.values[first], block=int(self._array(operator.Inputs(1)).max()))
        elif name == "SHAPE" or (name in _OF_SHAPES and not self._reads_a_map(operator)):
            self.values[output] = _Value(())
        elif name == "BATCH_TO_SPACE_ND" or name in _PASSING:
            self.values[output] = replace(self.values[first], block=1)
        else:
            raise ModelFileError(f"{self.source}: has an operator {name}, which no MobileNet has")
        return name

    def _reads_a_map(self, operator: Any) -> bool:
        inputs = (operator.Inputs(at) for at in range(operator.InputsLength()))
        return any(self.values[each].origins for each in inputs if each in self.values)

    def _add(self, operator: Any) -> None:
        """A shortcut: the later layer of the two takes what the earlier one adds."""
        values = [self.values[operator.Inputs(at)] for at in (0, 1)]
        if operator.InputsLength() != 2 or any(len(value.origins) != 1 for value in values):
            raise ModelFileError(f"{self.source}: adds something else than two layers' results; no MobileNet does")
        earlier, later = sorted(value.origins[0] for value in values)
        layer = self.layers[later]
        if earlier == later or layer.shortcut is not None:
            raise ModelFileError(f"{self.source}: adds to a layer what is no shortcut of a MobileNet")
        self.layers[later] = replace(layer, shortcut=earlier, ranges=layer.ranges | self._named_range("add", operator))
        self.values[operator.Outputs(0)] = _Value((later,))

    def _pool(self, operator: Any) -> None:
        value, shape = self.values[operator.Inputs(0)], self._shape(operator.Outputs(0))
        if len(value.origins) != 1 or (len(shape) == 4 and shape[1:3] != [1, 1]):
            raise ModelFileError(f"{self.source}: takes means over less than whole maps; no MobileNet does")
        (origin,) = value.origins
        layer = self.layers[origin]
        self.layers[origin] = replace(layer, ranges=layer.ranges | self._named_range("pool", operator))
        self.values[operator.Outputs(0)] = _Value((origin,), pooled=True)

    def _activate(self, operator: Any, activation: str) -> None:
        value = self.values[operator.Inputs(0)]
        (origin,) = value.origins
        layer = self.layers[origin]
        if layer.activation != "linear" or layer.shortcut is not None:
            raise ModelFileError(f"{self.source}: rectifies where no MobileNet does")
        self.layers[origin] = replace(layer, activation=activation, ranges=self._named_range("", operator))
        self.values[operator.Outputs(0)] = value

    def _convolution(self, operator: Any) -> Layer:
        options = self._options(operator, self.schema.Conv2DOptions())
        return self._layer(operator, options, self._array(operator.Inputs(1)).transpose(0, 3, 1, 2), depthwise=False)

    def _depthwise(self, operator: Any) -> Layer:
        options = self._options(operator, self.schema.DepthwiseConv2DOptions())
        kernel = self._array(operator.Inputs(1))  # (1, height, width, channels)
        return self._layer(operator, options, kernel.transpose(3, 0, 1, 2), depthwise=True)

    def _dense(self, operator: Any) -> Layer:
        kernel = self._array(operator.Inputs(1))
        return self._layer(operator, None, kernel.reshape(*kernel.shape[:2], 1, 1), depthwise=False)

    def _options(self, operator: Any, options: Any) -> Any:
        table = operator.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        return options

    def _layer(self, operator: Any, options: Any, kernel: NDArray[np.float32], *, depthwise: bool) -> Layer:
        value = self.values[operator.Inputs(0)]
        stride, dilation, fused, same = 1, value.block, 0, False
        if options is not None:
            strides, dilations = (
                {options.StrideH(), options.StrideW()},
                {options.DilationHFactor(), options.DilationWFactor()},
            )
            if len(strides) != 1 or len(dilations) != 1 or min(strides | dilations) < 1:
                raise ModelFileError(f"{self.source}: has a convolution of unequal strides; no MobileNet has")
            stride, fused = strides.pop(), options.FusedActivationFunction()
            dilation *= dilations.pop()
            # What is cut up for a dilation was padded as SAME does before.
            same = options.Padding() == self.schema.Padding.SAME or value.block > 1
        else:
            fused = self._options(operator, self.schema.FullyConnectedOptions()).FusedActivationFunction()
        if fused not in _ACTIVATIONS:
            raise ModelFileError(f"{self.source}: has an activation that no MobileNet has ({fused})")
        has_bias = operator.InputsLength() > 2 and operator.Inputs(2) >= 0
        bias = self._array(operator.Inputs(2)).reshape(-1) if has_bias else np.zeros(len(kernel), np.float32)
        if bias.shape != kernel.shape[:1]:
            raise ModelFileError(f"{self.source}: has a bias of another size than its kernel")
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise ModelFileError(f"{self.source}: holds weights that are not finite; the file is damaged")
        in_hw, out_hw = (self._size(operator.Inputs(0)), self._size(operator.Outputs(0)))
        pads = value.pads
        if same:
            first, second = (same_padding(side, kernel.shape[2], stride, dilation) for side in in_hw)
            pads = (first, second)
        return Layer(
            kernel=np.ascontiguousarray(kernel, np.float32),
            bias=bias,
            depthwise=depthwise,
            stride=stride,
            dilation=dilation,
            activation=_ACTIVATIONS[fused],
            pads=pads,
            in_hw=in_hw,
            out_hw=out_hw,
            origins=value.origins,
            pooled=value.pooled,
            ranges=self._named_range("", operator),
        )

    def _levels(self, tensor: Any) -> tuple[float, float] | None:
        """Mean and standard deviation, of levels 0..1, that make of levels what the network is meant to see."""
        scale, zero = _quantization(tensor)
        if scale is None:
            return None
        # An int8 input holds the levels less 128.
        zero_level = float(zero[0]) + (128 if tensor.Type() == self.schema.TensorType.INT8 else 0)
        return zero_level / 255, 1 / (255 * float(scale[0]))

    def _named_range(self, name: str, operator: Any) -> dict[str, Range]:
        found = self._range(operator.Outputs(0))
        return {} if found is None else {name: found}

    def _range(self, index: int) -> Range | None:
        tensor = self.subgraph.Tensors(index)
        scale, zero = _quantization(tensor)
        kinds = self.schema.TensorType
        if scale is None or tensor.Type() not in (kinds.UINT8, kinds.INT8):
            return None
        low, high = (0, 255) if tensor.Type() == kinds.UINT8 else (-128, 127)
        return float((low - zero[0]) * scale[0]), float((high - zero[0]) * scale[0])

    def _shape(self, index: int) -> list[int]:
        tensor = self.subgraph.Tensors(index)
        if tensor.ShapeLength() > 8:
            raise ModelFileError(f"{self.source}: has a tensor of {tensor.ShapeLength()} axes; no MobileNet has")
        return [int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength())]

    def _size(self, index: int) -> tuple[int, int]:
        shape = self._shape(index)
        return (shape[1], shape[2]) if len(shape) == 4 else (1, 1)

    def _is_constant(self, index: int) -> bool:
        return bool(self.model.Buffers(self.subgraph.Tensors(index).Buffer()).DataLength())

    def _array(self, index: int) -> NDArray[np.float32]:
        """A constant's numbers, as they are meant."""
        if index in self.constants:
            return self.constants[index]
        tensor = self.subgraph.Tensors(index)
        if tensor.Type() not in _KINDS:
            raise ModelFileError(f"{self.source}: has a tensor of kind {tensor.Type()}; known are floats and 8 bits")
        buffer = self.model.Buffers(tensor.Buffer())
        self.bytes_read += buffer.DataLength()
        if buffer.DataLength() > self.size or self.bytes_read > MAX_READINGS * self.size:
            raise ModelFileError(f"{self.source}: is damaged, or cut off (its constants are larger than the file)")
        kind = np.dtype(_KINDS[tensor.Type()]).newbyteorder("<")
        values = np.frombuffer(bytes(buffer.DataAsNumpy()), kind).reshape(self._shape(index))
        scale, zero = _quantization(tensor)
        if scale is None:
            return values.astype(np.float32)
        self.quantized |= values.dtype.itemsize == 1
        along = [1] * values.ndim
        if len(scale) > 1:
            along[tensor.Quantization().QuantizedDimension()] = -1
        meant = (values.astype(np.float64) - zero.reshape(along)) * scale.reshape(along)
        return np.asarray(meant, np.float32)


def _quantization(tensor: Any) -> tuple[Any, Any]:
    """Scales and zero points, or None twice."""
    record = tensor.Quantization()
    if record is None or not record.ScaleLength():
        return None, None
    scale = record.ScaleAsNumpy().astype(np.float64)
    zero = record.ZeroPointAsNumpy().astype(np.float64) if record.ZeroPointLength() else np.zeros(len(scale))
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError("a scale that is none")
    return scale, zero
