"""From a model file to ONNX graphs, without torch: for the runtime's engine and for export."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobilenetv2 import __version__
from mobilenetv2.architecture import NUMERICS, plan_network, same_padding
from mobilenetv2.modelfile import CARD_KEY, ModelFile
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.graph_resize import add_resize_rows
from mobilenetv2.runtime.onnx_wire import FLOAT32, GraphBuilder, write_model


def network_graph(model: ModelFile) -> bytes:
    """ONNX: `images` float32 (batch, 3, H, W), preprocessed -> `logits` float32 (batch, num_classes).

    H and W are those of the card; the batch is free.
    """
    graph = GraphBuilder()
    graph.input("images", np.float32, ("batch", 3, *model.card.preprocessing.size_hw))
    _add_network(graph, "images", model, output="logits")
    graph.output("logits", np.float32, ("batch", model.card.architecture.num_classes))
    return _write(graph, model)


def picture_graph(model: ModelFile) -> bytes:
    """ONNX: `image` uint8 RGB (height, width, 3) of any size -> `probabilities` float32 (num_classes,).

    Resize, crop and normalisation are inside, exact to the bit against `preprocessing.preprocess`. The
    card is in the metadata under `mobilenetv2_card`.
    """
    graph = GraphBuilder()
    graph.input("image", np.uint8, ("height", "width", 3))
    images = _add_preprocessing(graph, "image", model.card.preprocessing)
    logits = _add_network(graph, images, model, output="logits")
    probabilities = graph.node("Softmax", logits, axis=1)
    graph.node("Squeeze", probabilities, graph.constant(np.array([0], np.int64)), name="probabilities")
    graph.output("probabilities", np.float32, (model.card.architecture.num_classes,))
    return _write(graph, model)


def _write(graph: GraphBuilder, model: ModelFile) -> bytes:
    content = graph.graph(model.card.name)
    return write_model(content, producer_version=__version__, metadata={CARD_KEY: model.card.to_json()})


def _add_preprocessing(graph: GraphBuilder, image: str, preprocessing: Preprocessing) -> str:
    """uint8 (height, width, 3) -> float32 (1, 3, H, W). The same steps as `preprocessing.preprocess`."""

    def integers(*values: int) -> str:
        return graph.constant(np.array(values, np.int64))

    size = graph.node("Slice", graph.node("Shape", image), integers(0), integers(2))
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
    in_width = graph.node("Slice", size, integers(1), integers(2))
    planes = graph.node("Transpose", image, perm=(2, 0, 1))
    planes = graph.node("Reshape", planes, graph.node("Concat", integers(-1), in_width, axis=0))
    columns = resize_rows(graph.node("Transpose", planes, perm=(1, 0)), 1)
    columns = graph.node("Reshape", columns, integers(width * 3, -1))
    rows = resize_rows(graph.node("Transpose", columns, perm=(1, 0)), 0)
    image = graph.node("Reshape", rows, integers(height, width, 3))
    mean = np.array(preprocessing.mean_rgb, np.float32) * 255
    scale = 1 / (np.array(preprocessing.std_rgb, np.float32) * 255)
    # Not folded into the stem: its padding is of zeros after normalisation.
    pixels = graph.node("Sub", graph.node("Cast", image, to=FLOAT32), graph.constant(mean))
    pixels = graph.node("Mul", pixels, graph.constant(scale))
    planes = graph.node("Transpose", pixels, perm=(2, 0, 1))
    return graph.node("Unsqueeze", planes, integers(0), name="images")


def _add_network(graph: GraphBuilder, images: str, model: ModelFile, *, output: str) -> str:
    architecture, tensors = model.card.architecture, model.tensors
    plan, numerics = plan_network(architecture), NUMERICS[architecture.numerics]
    size_hw = model.card.preprocessing.size_hw
    zero, six = graph.constant(np.float32(0)), graph.constant(np.float32(6))

    def conv(x: str, name: str, *, stride: int = 1, dilation: int = 1, groups: int = 1, linear: bool = False) -> str:
        """Convolution with its batch norm folded in, and ReLU6 unless `linear`."""
        nonlocal size_hw
        kernel, bias = fold_batch_norm(model, name)
        side = kernel.shape[2]
        if numerics.padding == "same":
            (top, bottom), (left, right) = (same_padding(size, side, stride, dilation) for size in size_hw)
        else:
            top = bottom = left = right = (side - 1) // 2 * dilation
        x = graph.node(
            "Conv",
            x,
            graph.constant(kernel, f"{name}.weight"),
            graph.constant(bias, f"{name}.bias"),
            name=f"{name}.conv",
            kernel_shape=(side, side),
            strides=(stride, stride),
            pads=(top, left, bottom, right),
            dilations=(dilation, dilation),
            group=groups,
        )
        size_hw = (-(-size_hw[0] // stride), -(-size_hw[1] // stride))
        return x if linear else graph.node("Clip", x, zero, six, name=f"{name}.relu6")

    x = conv(images, "stem", stride=2)
    for s, stage in enumerate(plan.stages):
        for b, block in enumerate(stage):
            prefix, shortcut = f"stages.{s}.blocks.{b}", x
            if block.expands:
                x = conv(x, f"{prefix}.expand")
            x = conv(
                x, f"{prefix}.filter", stride=block.stride, dilation=block.dilation, groups=block.expanded_channels
            )
            x = conv(x, f"{prefix}.project", linear=True)
            if block.has_shortcut:
                x = graph.node("Add", shortcut, x, name=f"{prefix}.add")
    x = conv(x, "last")
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x, name="pool"), axis=1)
    weight = graph.constant(tensors["classifier.weight"], "classifier.weight")
    bias = graph.constant(tensors["classifier.bias"], "classifier.bias")
    return graph.node("Gemm", x, weight, bias, name=output, transB=1)


def fold_batch_norm(model: ModelFile, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel (out, in / groups, k, k) and bias (out,) that do what convolution and batch norm `name` do.

    Worked out in float64, then rounded once.
    """
    eps = NUMERICS[model.card.architecture.numerics].batch_norm_eps
    kernel, gamma, beta, mean, variance = (
        model.tensors[f"{name}.{part}"].astype(np.float64)
        for part in ("conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    )
    scale = gamma / np.sqrt(variance + eps)
    folded, bias = kernel * scale[:, None, None, None], beta - mean * scale
    return folded.astype(np.float32), bias.astype(np.float32)
