"""Export to LiteRT (TensorFlow Lite): a `.tflite` that takes and computes pictures with the channels last."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import MissingExtraError
from mobilenetv2.exports.torch_network import torch_network
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.runtime.engine_litert import FILE, INPUT, tap_name
from mobilenetv2.runtime.graph import raw_outputs
from mobilenetv2.runtime.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import GraphModule

# litert_torch's name for the only function of a file.
_SIGNATURE = "serving_default"


def write_litert(
    model: ModelFile, folder: Path, *, calibration: NDArray[np.float32] | None = None, taps: bool = False
) -> None:
    """Write `model.tflite` into `folder`, for one picture of the card's size.

    It takes `images` (1, H, W, 3) and returns the outputs of `graph.network_graph` by their names, maps as
    (1, H, W, C), all float32.
    calibration: preprocessed pictures (N, 3, H, W), by which everything else becomes int8: weights symmetric with a
    scale for each output channel, activations static with one a tensor. Each prediction layer of a detector has its
    own scale, and the raw outputs are joined in float32. None: float32.
    taps: the result of every layer is an output too.
    Raises MissingExtraError without litert-torch or ai-edge-quantizer.
    """
    try:
        # Where Python's streams are not those of the process, as in notebooks, `quiet` alone leaves the progress.
        with quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            content = _convert(model, taps=taps)
            if calibration is not None:
                content = _share_vectors(_quantise(content, calibration, model.card.task))
    except ModuleNotFoundError as error:
        raise MissingExtraError("export to litert", "litert") from error
    (folder / FILE).write_bytes(content)


def _convert(model: ModelFile, *, taps: bool) -> bytes:
    import litert_torch
    import torch

    images = torch.zeros(1, *model.card.preprocessing.size_hw, 3)
    with torch.no_grad():
        network = _channels_last(torch_network(model, taps=taps), list(raw_outputs(model.card)))
        exported = torch.export.export(network, (), {INPUT: images})
        edge = litert_torch.convert(_without_expand(exported.module()), sample_kwargs={INPUT: images})
        content: bytes = edge.model_content()
    return content


def _channels_last(network: nn.Module, names: list[str]) -> nn.Module:
    """The same for (N, H, W, C), with outputs that have names; what follows those is taps."""
    from torch import nn

    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            outputs = self.network(images.permute(0, 3, 1, 2))
            taps = [tap_name(place) for place in range(len(outputs) - len(names))]
            return {
                name: output.permute(0, 2, 3, 1) if output.ndim == 4 else output
                for name, output in zip([*names, *taps], outputs, strict=True)
            }

    return ChannelsLast().eval()


def _without_expand(network: GraphModule) -> GraphModule:
    """Image pooling spreads one pixel over a map by resizing, as litert_torch mixes up the axes of `expand`."""
    import torch

    aten = torch.ops.aten
    for node in list(network.graph.nodes):
        if node.target == aten.expand.default:
            size_hw = list(node.meta["val"].shape[2:])
            with network.graph.inserting_before(node):
                spread = network.graph.call_function(aten.upsample_bilinear2d.vec, (node.args[0], size_hw, True, None))
            node.replace_all_uses_with(spread)
            network.graph.erase_node(node)
    network.recompile()
    return network


def _quantise(content: bytes, pictures: NDArray[np.float32], task: str) -> bytes:
    """The tool's ranges are moving averages of those of the pictures, and lose less than the widest of them."""
    from ai_edge_quantizer import quantizer, recipe

    tool = quantizer.Quantizer(content, recipe.static_wi8_ai8())
    # What the caller sees, and what joins the prediction layers of a detector.
    floats = ["INPUT", "OUTPUT", *(["RESHAPE", "CONCATENATION"] if task == "detect" else [])]
    for kind in floats:
        tool.update_quantization_recipe(".*", kind, algorithm_key="no_quantize")
    # A list of views, as they are gone through twice: the first time to count them.
    samples = [{INPUT: np.moveaxis(picture, 0, 2)[None]} for picture in pictures]
    # It would take 16 threads.
    ranges = tool.calibrate({_SIGNATURE: samples}, num_threads=os.cpu_count() or 1)
    result = tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _share_vectors(content: bytes) -> bytes:
    """The same file with equal vectors written once: every channel has a zero point of 8 bytes, which is always 0."""
    import flatbuffers
    from ai_edge_litert.tools import flatbuffer_utils

    class Sharing(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers has no types
        written: dict[tuple[str, bytes], int]

        def CreateNumpyVector(self, values: NDArray[Any]) -> int:  # noqa: N802 - the name that it has there
            key = (values.dtype.str, values.tobytes())
            if key not in self.written:
                # As the schema wants the data of tensors.
                self.Prep(16, values.nbytes)
                self.written[key] = super().CreateNumpyVector(values)
            return self.written[key]

    builder = Sharing()
    builder.written = {}
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
