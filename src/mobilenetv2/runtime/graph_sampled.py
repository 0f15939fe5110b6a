"""TensorFlow 1's `resize_bilinear` as ONNX nodes: the float32 arithmetic of `preprocessing.resize`, step by step.

Why not the operator `Resize`: runtimes compute positions and weights in another order, so some levels would be off by
one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.onnx_wire import FLOAT32, INT64, GraphBuilder


def add_sampled(
    graph: GraphBuilder, pictures: str, size: str, resized: str, offsets: str, preprocessing: Preprocessing
) -> str:
    """uint8 (batch, height, width, 3) -> whole levels, float32 (batch, 3, H, W).

    size, resized, offsets: names of (2,) int64: height and width before and after, and where the window of the
        input's size begins that is kept of the latter.
    """
    rows, columns = (
        _add_neighbours(
            graph,
            *(graph.node("Gather", each, graph.constant(np.int64(axis))) for each in (size, resized, offsets)),
            out_size=preprocessing.size_hw[axis],
        )
        for axis in (0, 1)
    )
    # Whole rows first: nothing else of a large picture is copied.
    picked = graph.node("Gather", pictures, graph.node("Concat", rows.first, rows.second, axis=0), axis=1)
    here, beside = (
        graph.node("Cast", graph.node("Gather", picked, places, axis=2), to=FLOAT32)
        for places in (columns.first, columns.second)
    )
    mixed = _add_mix(graph, here, beside, graph.node("Reshape", columns.share, _integers(graph, -1, 1)))
    height = preprocessing.size_hw[0]
    above, below = (
        graph.node("Slice", mixed, *(_integers(graph, each) for each in (begin, begin + height, 1)))
        for begin in (0, height)
    )
    values = _add_mix(graph, above, below, graph.node("Reshape", rows.share, _integers(graph, -1, 1, 1)))
    levels = graph.node("Floor", graph.node("Add", values, graph.constant(np.float32(0.5))))
    return graph.node("Transpose", levels, perm=(0, 3, 1, 2))


class _Neighbours(NamedTuple):
    """Names: of each output the two pixels it lies between, int64, and how much of the second, float32; (out,)."""

    first: str
    second: str
    share: str


def _add_neighbours(graph: GraphBuilder, in_size: str, resized_size: str, offset: str, *, out_size: int) -> _Neighbours:
    """in_size, resized_size, offset: names of int64 scalars."""
    sides = (graph.node("Cast", side, to=FLOAT32) for side in (in_size, resized_size))
    outputs = graph.node("Add", graph.constant(np.arange(out_size, dtype=np.int64)), offset)
    position = graph.node("Mul", graph.node("Cast", outputs, to=FLOAT32), graph.node("Div", *sides))
    before = graph.node("Floor", position)
    one = graph.constant(np.int64(1))
    last = graph.node("Sub", in_size, one)
    first = graph.node("Cast", before, to=INT64)
    second = graph.node("Min", graph.node("Add", first, one), last)
    return _Neighbours(graph.node("Min", first, last), second, graph.node("Sub", position, before))


def _add_mix(graph: GraphBuilder, first: str, second: str, share: str) -> str:
    return graph.node("Add", first, graph.node("Mul", graph.node("Sub", second, first), share))


def _integers(graph: GraphBuilder, *values: int) -> str:
    return graph.constant(np.array(values, np.int64))
