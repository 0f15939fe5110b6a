"""`preprocessing.preprocess` as ONNX nodes, for pictures of any size: exact to the bit."""

from __future__ import annotations

import numpy as np

from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.graph_resize import add_resize_rows
from mobilenetv2.runtime.onnx_wire import FLOAT32, GraphBuilder


def add_preprocessing(graph: GraphBuilder, pictures: str, preprocessing: Preprocessing) -> str:
    """uint8 RGB (batch, height, width, 3) -> float32 (batch, 3, H, W), named `preprocessed`."""

    def integers(*values: int) -> str:
        return graph.constant(np.array(values, np.int64))

    size = graph.node("Slice", graph.node("Shape", pictures), integers(1), integers(3))
    out_hw = integers(*preprocessing.size_hw)
    if preprocessing.resize == "stretch":
        resized, offsets = out_hw, integers(0, 0)
    else:
        # plan_geometry: the shorter side becomes `shorter`; with the shorter one below, one formula does both.
        shorter = integers(int(preprocessing.size_hw[0] / preprocessing.crop_fraction))
        resized = graph.node("Div", graph.node("Mul", size, shorter), graph.node("ReduceMin", size, keepdims=1))
        spare, two = graph.node("Sub", resized, out_hw), integers(2)
        middle = graph.node("Div", spare, two)
        # round() takes a half to the even neighbour: up only where the spare pixels and their half are odd.
        up = graph.node("Mul", graph.node("Mod", spare, two), graph.node("Mod", middle, two))
        offsets = graph.node("Add", middle, up)

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
    in_height, in_width = (graph.node("Slice", size, integers(axis), integers(axis + 1)) for axis in (0, 1))
    planes = graph.node("Transpose", pictures, perm=(0, 3, 1, 2))
    planes = graph.node("Reshape", planes, graph.node("Concat", integers(-1), in_width, axis=0))
    columns = resize_rows(graph.node("Transpose", planes, perm=(1, 0)), 1)
    columns = graph.node("Reshape", columns, graph.node("Concat", integers(-1), in_height, axis=0))
    rows = resize_rows(graph.node("Transpose", columns, perm=(1, 0)), 0)
    planes = graph.node("Reshape", rows, integers(height * width, -1))
    planes = graph.node("Reshape", graph.node("Transpose", planes, perm=(1, 0)), integers(-1, 3, height, width))
    mean = np.array(preprocessing.mean_rgb, np.float32).reshape(3, 1, 1) * 255
    scale = 1 / (np.array(preprocessing.std_rgb, np.float32).reshape(3, 1, 1) * 255)
    # Not folded into the stem: its padding is of zeros after normalisation.
    pixels = graph.node("Sub", graph.node("Cast", planes, to=FLOAT32), graph.constant(mean))
    return graph.node("Mul", pixels, graph.constant(scale), name="preprocessed")
