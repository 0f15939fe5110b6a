"""Writing ONNX files, as far as our graphs need it, without the `onnx` package (17 MB, .2 s to import).

ONNX is protocol buffers: a message is a row of fields, each a key (number and kind) and a value. Field
numbers are those of `onnx.proto3`; a message is written as `bytes`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# IR 8 and opset 18 are what onnxruntime reads since 1.14.
IR_VERSION = 8
OPSET = 18

# TensorProto.DataType
FLOAT32, UINT8, INT8, INT32, INT64, BOOL, FLOAT64 = 1, 2, 3, 6, 7, 9, 11
_DATA_TYPES = {
    np.dtype(np.float32): FLOAT32,
    np.dtype(np.uint8): UINT8,
    np.dtype(np.int8): INT8,
    np.dtype(np.int32): INT32,
    np.dtype(np.int64): INT64,
    np.dtype(np.bool_): BOOL,
    np.dtype(np.float64): FLOAT64,
}

Attribute = int | float | str | Sequence[int] | bytes
Dimension = int | str  # a name is a size that is known only when the graph runs


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; negative numbers as 64-bit two's complement."""
    if 0 <= value < 0x80:
        return bytes((value,))
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _int(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _bytes(number: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return b"".join((_varint(number << 3 | 2), _varint(len(raw)), raw))


def _tensor_head(name: str, array: NDArray[np.generic]) -> bytes:
    """TensorProto up to the values, which end it: dims, data_type, name, key and length of raw_data."""
    dims = b"".join(_int(1, d) for d in array.shape)
    return dims + _int(2, _DATA_TYPES[array.dtype]) + _bytes(8, name) + _varint(9 << 3 | 2) + _varint(array.nbytes)


def _value_info(name: str, dtype: type[np.generic], shape: Sequence[Dimension] | None) -> bytes:
    """ValueInfoProto: name, type. A shape of None leaves the rank open."""
    kind = _int(1, _DATA_TYPES[np.dtype(dtype)])
    if shape is not None:
        dims = (_bytes(1, _bytes(2, d) if isinstance(d, str) else _int(1, d)) for d in shape)
        kind += _bytes(2, b"".join(dims))
    return _bytes(1, name) + _bytes(2, _bytes(1, kind))


def _attribute(name: str, value: Attribute) -> bytes:
    """AttributeProto: name, value, type. `bytes` are a GraphProto."""
    if isinstance(value, int):
        body, kind = _int(3, value), 2
    elif isinstance(value, float):
        body, kind = _varint(2 << 3 | 5) + struct.pack("<f", value), 1
    elif isinstance(value, str):
        body, kind = _bytes(4, value), 3
    elif isinstance(value, bytes):
        body, kind = _bytes(6, value), 5
    else:
        body, kind = b"".join(_int(8, i) for i in value), 7
    return _bytes(1, name) + body + _int(20, kind)


class GraphBuilder:
    """Collects the nodes, constants, inputs and outputs of one graph.

    `prefix` goes before the names it makes up: a body inside another graph needs names of its own.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._fields: list[bytes | memoryview] = []
        self._count = 0

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{self._prefix}{kind}_{self._count}"

    def constant(self, value: NDArray[np.generic] | np.generic, name: str = "") -> str:
        """An initializer. Returns its name."""
        name = name or self._fresh("constant")
        array = np.asarray(value)
        head = _tensor_head(name, array)
        self._fields.append(_varint(5 << 3 | 2) + _varint(len(head) + array.nbytes) + head)
        # Megabytes, so they are copied once, when the graph is put together.
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        self._fields.append(little.reshape(-1).view(np.uint8).data)
        return name

    def node(self, op: str, *inputs: str, name: str = "", further: Sequence[str] = (), **attributes: Attribute) -> str:
        """One operation. Returns its first output's name, which is the node's too. further: names of the others."""
        name = name or self._fresh(op.lower())
        body = [_bytes(1, i) for i in inputs]
        body += [_bytes(2, output) for output in (name, *further)]
        body += [_bytes(3, name), _bytes(4, op)]
        body += [_bytes(5, _attribute(key, value)) for key, value in attributes.items()]
        self._fields.append(_bytes(1, b"".join(body)))
        return name

    def input(self, name: str, dtype: type[np.generic], shape: Sequence[Dimension] | None) -> str:
        self._fields.append(_bytes(11, _value_info(name, dtype, shape)))
        return name

    def output(self, name: str, dtype: type[np.generic], shape: Sequence[Dimension] | None) -> str:
        self._fields.append(_bytes(12, _value_info(name, dtype, shape)))
        return name

    def graph(self, name: str) -> bytes:
        """GraphProto."""
        return b"".join((_bytes(2, name), *self._fields))


def write_model(graph: bytes, *, producer_version: str, metadata: Mapping[str, str]) -> bytes:
    """ModelProto, complete: the content of an `.onnx` file."""
    entries: Iterable[bytes] = (_bytes(14, _bytes(1, key) + _bytes(2, value)) for key, value in metadata.items())
    return b"".join(
        (
            _int(1, IR_VERSION),
            _bytes(2, "mobilenetv2"),
            _bytes(3, producer_version),
            _bytes(8, _bytes(1, "") + _int(2, OPSET)),
            *entries,
            _bytes(7, graph),
        )
    )
