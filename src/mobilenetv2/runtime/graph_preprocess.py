"""`preprocessing.preprocess` as ONNX nodes, for pictures of any size: exact to the bit."""

from __future__ import annotations

import numpy as np

from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.graph_resize import add_resize_rows
from mobilenetv2.runtime.graph_sampled import add_sampled
from mobilenetv2.runtime.onnx_wire import FLOAT32, FLOAT64, INT64, GraphBuilder


def add_preprocessing(graph: GraphBuilder, pictures: str, preprocessing: Preprocessing) -> str:
    """uint8 RGB (batch, height, width, 3) -> float32 (batch, 3, H, W), named `preprocessed`."""
    size = _add_size(graph, pictures)
    if preprocessing.resize == "central":
        fraction, real = graph.constant(np.float64(preprocessing.crop_fraction)), graph.node("Cast", size, to=FLOAT64)
        spare = graph.node("Sub", real, graph.node("Mul", real, fraction))
        begins = graph.node("Cast", graph.node("Div", spare, graph.constant(np.float64(2))), to=INT64)
        pictures = graph.node("Slice", pictures, begins, graph.node("Sub", size, begins), _integers(graph, 1, 2))
        size = _add_size(graph, pictures)
    resized, offsets = _add_geometry(graph, size, preprocessing)
    add_levels = add_sampled if preprocessing.interpolation == "sampled" else _add_resized
    planes = add_levels(graph, pictures, size, resized, offsets, preprocessing)
    mean = np.array(preprocessing.mean_rgb, np.float32).reshape(3, 1, 1) * 255
    scale = 1 / (np.array(preprocessing.std_rgb, np.float32).reshape(3, 1, 1) * 255)
    # Not folded into the stem: its padding is of zeros after normalisation.
    pixels = graph.node("Sub", planes, graph.constant(mean))
    return graph.node("Mul", pixels, graph.constant(scale), name="preprocessed")


def _integers(graph: GraphBuilder, *values: int) -> str:
    return graph.constant(np.array(values, np.int64))


def _add_size(graph: GraphBuilder, pictures: str) -> str:
    """Height and width, (2,) int64."""
    return graph.node("Slice", graph.node("Shape", pictures), _integers(graph, 1), _integers(graph, 3))


def _add_geometry(graph: GraphBuilder, size: str, preprocessing: Preprocessing) -> tuple[str, str]:
    """Height and width that pictures of `size` are resized to, and where the window that is kept begins, (2,) int64."""
    out_hw = _integers(graph, *preprocessing.size_hw)
    if preprocessing.resize != "crop":
        return out_hw, _integers(graph, 0, 0)
    # plan_geometry: the shorter side becomes `shorter`; with the shorter one below, one formula does both.
    shorter = _integers(graph, int(preprocessing.size_hw[0] / preprocessing.crop_fraction))
    resized = graph.node("Div", graph.node("Mul", size, shorter), graph.node("ReduceMin", size, keepdims=1))
    spare, two = graph.node("Sub", resized, out_hw), _integers(graph, 2)
    middle = graph.node("Div", spare, two)
    # round() takes a half to the even neighbour: up only where the spare pixels and their half are odd.
    up = graph.node("Mul", graph.node("Mod", spare, two), graph.node("Mod", middle, two))
    return resized, graph.node("Add", middle, up)


def _add_resized(
    graph: GraphBuilder, pictures: str, size: str, resized: str, offsets: str, preprocessing: Preprocessing
) -> str:
    """Pillow's levels, float32 (batch, 3, H, W)."""

    def resize_rows(rows: str, axis: int) -> str:
        index = graph.constant(np.int64(axis))
        return add_resize_rows(
            graph,
            rows,
            in_size=graph.node("Gather", size, index),
            resized_size=graph.node("Gather", resized, index),
            offset=graph.node("Gather", offsets, index),
            out_size=preprocessing.size_hw[axis],
            interpolation=preprocessing.interpolation,
        )

    # Width first, as in `preprocessing.resize`: levels are rounded in between. Each axis in its turn comes
    # first in memory, as gathering whole rows is many times faster than single pixels.
    height, width = preprocessing.size_hw
    in_height, in_width = (
        graph.node("Slice", size, _integers(graph, axis), _integers(graph, axis + 1)) for axis in (0, 1)
    )
    planes = graph.node("Transpose", pictures, perm=(0, 3, 1, 2))
    planes = graph.node("Reshape", planes, graph.node("Concat", _integers(graph, -1), in_width, axis=0))
    columns = resize_rows(graph.node("Transpose", planes, perm=(1, 0)), 1)
    columns = graph.node("Reshape", columns, graph.node("Concat", _integers(graph, -1), in_height, axis=0))
    rows = resize_rows(graph.node("Transpose", columns, perm=(1, 0)), 0)
    planes = graph.node("Reshape", rows, _integers(graph, height * width, -1))
    planes = graph.node("Reshape", graph.node("Transpose", planes, perm=(1, 0)), _integers(graph, -1, 3, height, width))
    return graph.node("Cast", planes, to=FLOAT32)
