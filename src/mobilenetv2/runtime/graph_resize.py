"""Pillow's `Image.resize` as ONNX nodes, exact to the last bit.

Why not the operator `Resize`: runtimes compute its weights in float32, so about one level in a hundred is
off by one, and many of them ignore `antialias`. This is Pillow's own fixed-point arithmetic
(`Resample.c`: `precompute_coeffs`, `normalize_coeffs_8bpc`), made of operators that every runtime has.
"""

from __future__ import annotations

import numpy as np

from mobilenetv2.preprocessing import Interpolation
from mobilenetv2.runtime.onnx_wire import FLOAT64, INT32, INT64, UINT8, GraphBuilder

# Bits after the point of a weight: what 32 bits leave beside a sum of levels (8 bits, and 2 to spare).
_PRECISION_BITS = 32 - 8 - 2
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
_CUBIC_A = -0.5


def add_resize_rows(
    graph: GraphBuilder,
    rows: str,
    *,
    in_size: str,
    resized_size: str,
    offset: str,
    out_size: int,
    interpolation: Interpolation,
) -> str:
    """One pass over the first axis: uint8 levels (in_size, n) -> (out_size, n).

    rows: name of the levels. in_size, resized_size, offset: names of int64 scalars: the axis' size before
        and after, and where the window of `out_size` begins that is kept of it. Only that window is
        computed.
    """
    positions, weights = _add_weights(graph, in_size, resized_size, offset, out_size, interpolation)
    first = graph.constant(np.int64(0))
    # The sum begins at one half, so that the final division rounds.
    half = graph.constant(np.int32(1 << (_PRECISION_BITS - 1)))
    shape = graph.node("Shape", graph.node("Gather", rows, graph.node("Gather", positions, first)))
    start = graph.node("Expand", half, shape)
    # One tap a turn: all taps at once would take as many times the memory.
    body = GraphBuilder(prefix=f"{start}.")
    turn = body.input(f"{start}.turn", np.int64, ())
    go_on = body.input(f"{start}.go_on", np.bool_, ())
    total = body.input(f"{start}.total", np.int32, None)
    levels = body.node("Cast", body.node("Gather", rows, body.node("Gather", positions, turn)), to=INT32)
    levels = body.node("Mul", levels, body.node("Gather", weights, turn))
    body.output(body.node("Identity", go_on), np.bool_, ())
    body.output(body.node("Add", total, levels), np.int32, None)
    taps = graph.node("Gather", graph.node("Shape", positions), first)
    total = graph.node("Loop", taps, graph.constant(np.bool_(True)), start, body=body.graph("taps"))
    # What is below zero is cut to zero: first, so that the division only meets what it rounds down.
    total = graph.node("Max", total, graph.constant(np.int32(0)))
    total = graph.node("Div", total, graph.constant(np.int32(1 << _PRECISION_BITS)))
    return graph.node("Cast", graph.node("Min", total, graph.constant(np.int32(255))), to=UINT8)


def _add_weights(
    graph: GraphBuilder, in_size: str, resized_size: str, offset: str, out_size: int, interpolation: Interpolation
) -> tuple[str, str]:
    """(taps, out) int64 positions along the axis and (taps, out, 1) int32 weights, of sum 2^22.

    Taps beyond the window or the picture have weight 0 and some position inside.
    """

    def number(value: float) -> str:
        return graph.constant(np.float64(value))

    def real(name: str) -> str:
        return graph.node("Cast", name, to=FLOAT64)

    half, zero, one, last = number(0.5), number(0), number(1), graph.node("Sub", real(in_size), number(1))
    scale = graph.node("Div", real(in_size), real(resized_size))
    # Enlarging interpolates between neighbours; shrinking widens the filter, which is the antialiasing.
    filter_scale = graph.node("Max", scale, one)
    support = graph.node("Mul", filter_scale, number(_SUPPORT[interpolation]))
    outputs = graph.node("Add", graph.constant(np.arange(out_size, dtype=np.float64)), real(offset))
    center = graph.node("Mul", graph.node("Add", outputs, half), scale)
    # C's conversion to int cuts towards zero, and what is below zero is cut to zero anyway: floor will do.
    begin = graph.node("Sub", center, support)
    begin = graph.node("Max", graph.node("Floor", graph.node("Add", begin, half)), zero)
    end = graph.node("Add", center, support)
    end = graph.node("Min", graph.node("Floor", graph.node("Add", end, half)), real(in_size))
    count = graph.node("ReduceMax", graph.node("Sub", end, begin), keepdims=0)
    taps = graph.node("Range", zero, count, one)
    taps = graph.node("Unsqueeze", taps, graph.constant(np.array([1], np.int64)))
    position = graph.node("Add", taps, begin)
    distance = graph.node("Add", graph.node("Sub", position, center), half)
    # Pillow multiplies with the reciprocal.
    distance = graph.node("Abs", graph.node("Mul", distance, graph.node("Div", one, filter_scale)))
    weight = _add_filter(graph, distance, interpolation)
    weight = graph.node("Where", graph.node("Less", position, end), weight, zero)
    total = graph.node("ReduceSum", weight, graph.constant(np.array([0], np.int64)), keepdims=1)
    weight = graph.node("Mul", graph.node("Div", weight, total), number(1 << _PRECISION_BITS))
    # Half away from zero: cut (weight +- .5) towards zero, as the cast does.
    weight = graph.node("Add", weight, graph.node("Mul", graph.node("Sign", weight), half))
    weight = graph.node("Unsqueeze", graph.node("Cast", weight, to=INT32), graph.constant(np.array([2], np.int64)))
    return graph.node("Cast", graph.node("Min", position, last), to=INT64), weight


def _add_filter(graph: GraphBuilder, distance: str, interpolation: Interpolation) -> str:
    """The filter's value at a distance >= 0; beyond its support it is 0."""

    def number(value: float) -> str:
        return graph.constant(np.float64(value))

    zero, one = number(0), number(1)
    if interpolation == "bilinear":
        return graph.node("Max", graph.node("Sub", one, distance), zero)

    def polynomial(*coefficients: float) -> str:
        """Horner's scheme, highest power first: Pillow's order of operations."""
        value = number(coefficients[0])
        for coefficient in coefficients[1:]:
            value = graph.node("Add", graph.node("Mul", value, distance), number(coefficient))
        return value

    near = polynomial(_CUBIC_A + 2, -(_CUBIC_A + 3), 0, 1)
    far = graph.node("Mul", polynomial(1, -5, 8, -4), number(_CUBIC_A))
    beyond = graph.node("Where", graph.node("Less", distance, number(2)), far, zero)
    return graph.node("Where", graph.node("Less", distance, one), near, beyond)
