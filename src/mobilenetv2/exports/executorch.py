"""Export to ExecuTorch: a `.pte` whose layers run in XNNPACK."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import ExportError, MissingExtraError
from mobilenetv2.exports.torch_network import torch_network
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.runtime.engine_executorch import FILE
from mobilenetv2.runtime.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule


def write_executorch(
    model: ModelFile, folder: Path, *, calibration: NDArray[np.float32] | None = None, taps: bool = False
) -> None:
    """Write `model.pte` into `folder`, for one picture of the card's size.

    calibration: preprocessed pictures (N, 3, H, W), by which convolutions, dense layers and sums become int8: weights
    symmetric with a scale for each output channel, activations static with one a tensor, biases and what lies between
    in float32. Each prediction layer has its own scale, and the raw outputs are joined in float32. None: float32.
    taps: the result of every layer follows the outputs.
    Raises ExportError if a layer would be left to ExecuTorch's own slow kernels; MissingExtraError without ExecuTorch.
    """
    try:
        with quiet():
            import torch
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    except ModuleNotFoundError as error:
        raise MissingExtraError("export to executorch", "executorch") from error
    example = (torch.zeros(1, 3, *model.card.preprocessing.size_hw),)
    with torch.no_grad():
        program = torch.export.export(torch_network(model, taps=taps), example)
        if calibration is not None:
            quantised = _quantise(program.module(), torch.from_numpy(calibration))
            program = torch.export.export(quantised, example)
        edge = to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_skip_dim_order=True),
        )
    left = [str(node.target) for node in edge.exported_program().graph.nodes]
    if any(word in target for target in left for word in ("convolution", "conv2d", "linear", "addmm")):
        raise ExportError(f"XNNPACK does not take every layer of {model.card.name!r}; export it to onnx instead")
    (folder / FILE).write_bytes(edge.to_executorch().buffer)


def _quantise(network: GraphModule, pictures: Tensor) -> GraphModule:
    """PT2E: as ExecuTorch's own XNNPACKQuantizer, which however observes what ReLU6 reads instead of what it gives."""
    import torch
    from torchao.quantization.pt2e import HistogramObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    aten = torch.ops.aten
    layers, sums = (aten.conv2d.default, aten.linear.default), (aten.add.Tensor,)
    activations = (aten.hardtanh.default, aten.hardtanh_.default, aten.relu.default, aten.relu_.default)
    values = QuantizationSpec(
        dtype=torch.int8,
        observer_or_fake_quant_ctr=HistogramObserver,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
    )
    weights = QuantizationSpec(
        dtype=torch.int8,
        observer_or_fake_quant_ctr=PerChannelMinMaxObserver,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    )

    class LayersAndSums(Quantizer):  # type: ignore[misc]  # torchao has no types
        def annotate(self, model: GraphModule) -> GraphModule:
            for node in model.graph.nodes:
                if node.target in layers:
                    inputs = {node.args[0]: values, node.args[1]: weights}
                elif node.target in sums:
                    inputs = dict.fromkeys(node.args[:2], values)
                else:
                    continue
                (reader, *others) = node.users
                fused = not others and reader.target in activations
                last = reader if fused else node
                node.meta["quantization_annotation"] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
                if fused:
                    last.meta["quantization_annotation"] = QuantizationAnnotation(_annotated=True)
                last.meta["quantization_annotation"].output_qspec = values
            return model

        def validate(self, model: GraphModule) -> None:
            pass

    prepared = prepare_pt2e(network, LayersAndSums())
    for picture in pictures:
        prepared(picture[None])
    converted: GraphModule = convert_pt2e(prepared)
    return converted
