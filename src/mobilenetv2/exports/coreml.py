"""Export to Core ML: an ML program in a `.mlpackage`. Core ML runs on Apple's systems alone: nothing here runs it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import ExportError, MissingExtraError
from mobilenetv2.exports.torch_network import torch_network
from mobilenetv2.modelfile import CARD_KEY, ModelFile
from mobilenetv2.quantization.folded import fold
from mobilenetv2.runtime.graph import raw_outputs
from mobilenetv2.runtime.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = "model.mlpackage"
# Of the largest weight of a layer.
ROUNDING = 1e-6
# Of a weight in 8 bits, in steps.
_HALF = 0.5 + 1e-3


def write_coreml(model: ModelFile, folder: Path, *, calibration: NDArray[np.float32] | None = None) -> None:
    """Write `model.mlpackage` into `folder`, for one picture of the card's size, in float32; it was not run.

    It takes `images` (1, 3, H, W), preprocessed, returns the outputs of `graph.network_graph` under their names, and
    holds the card in its metadata. From iOS 16 and macOS 13 on.
    calibration: if given, weights are 8 bits, symmetric with a scale for each output channel; the pictures are not
    looked at, as coremltools measures activations by running Core ML. So activations stay float32.
    Raises ExportError where `check_coreml` finds a difference; MissingExtraError without coremltools.
    """
    with _coremltools() as (coremltools, optimize):
        import torch

        example = torch.zeros(1, 3, *model.card.preprocessing.size_hw)
        converted = coremltools.convert(
            _exported(model, example),
            inputs=[coremltools.TensorType("images", shape=tuple(example.shape), dtype=np.float32)],
            outputs=[coremltools.TensorType(name, dtype=np.float32) for name in raw_outputs(model.card)],
            convert_to="mlprogram",
            compute_precision=coremltools.precision.FLOAT32,
            minimum_deployment_target=coremltools.target.iOS16,
            skip_model_load=True,
        )
        if calibration is not None:
            kind = optimize.OpLinearQuantizerConfig(
                mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=0
            )
            converted = optimize.linear_quantize_weights(converted, optimize.OptimizationConfig(global_config=kind))
        converted.user_defined_metadata[CARD_KEY] = model.card.to_json()
        converted.save(str(folder / PACKAGE))
        # Of no use but to debuggers of ExecuTorch.
        (folder / PACKAGE / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    check_coreml(folder, model)


def check_coreml(folder: Path, model: ModelFile) -> None:
    """What can be checked where there is no Core ML: the package is read again, and nothing is run.

    Its input and outputs must have the names and shapes of `graph.network_graph`, and every layer the model's weights
    with the batch norm folded in: within 1e-6 of the layer's largest, in 8 bits within half a step. What is computed
    with them is not checked.
    Raises ExportError, which names the first difference.
    """
    with _coremltools() as (coremltools, optimize):
        package = coremltools.models.MLModel(str(folder / PACKAGE), skip_model_load=True)
        found = optimize.get_weights_metadata(package, weight_threshold=0)
    described = package.get_spec().description
    ports = {port.name: tuple(port.type.multiArrayType.shape) for port in (*described.input, *described.output)}
    outputs = {name: (1, *shape) for name, shape in raw_outputs(model.card).items()}
    expected = {"images": (1, 3, *model.card.preprocessing.size_hw), **outputs}
    if ports != expected:
        raise ExportError(f"{PACKAGE} has the inputs and outputs {ports} instead of {expected}")
    for name, layer in fold(model).items():
        has_norm = f"{name}.conv.weight" in model.tensors
        stem = "p_" + (f"{name}.conv" if has_norm else name).replace(".", "_")
        values = {each: part.val for each, part in found.items() if each.startswith(f"{stem}_")}
        if not _holds(values, f"{stem}_weight", layer.kernel) or not _holds(values, f"{stem}_bias", layer.bias):
            raise ExportError(f"{PACKAGE} does not hold the weights of the model's layer {name!r}")


def _holds(values: dict[str, NDArray[Any]], name: str, expected: NDArray[np.float64]) -> bool:
    """Whether the values of that name, or the 8 bits that stand for them, are those."""
    tolerance: Any = ROUNDING * np.abs(expected).max()
    if name in values:
        found = values[name].astype(np.float64)
    else:
        # coremltools puts a number behind the names of what it adds.
        parts = [
            [part.astype(np.float64) for each, part in values.items() if each.startswith(f"{name}_quantized_{kind}")]
            for kind in ("quantized_data", "zero_point", "scale")
        ]
        if any(len(found) != 1 for found in parts):
            return False
        (levels,), (zeros,), (scales,) = parts
        by_channel = (-1, *(1,) * (levels.ndim - 1))
        found = (levels - zeros.reshape(by_channel)) * scales.reshape(by_channel)
        tolerance = tolerance + _HALF * np.abs(scales).reshape(-1, *(1,) * (expected.ndim - 1))
    # A dense layer has its kernel without the pixel.
    if found.size != expected.size or len(found) != len(expected):
        return False
    return bool((np.abs(found.reshape(expected.shape) - expected) <= tolerance).all())


def _exported(model: ModelFile, example: Tensor) -> Any:
    """In the dialect that coremltools takes."""
    import torch

    with torch.no_grad():
        return torch.export.export(torch_network(model), (example,)).run_decompositions({})


@contextlib.contextmanager
def _coremltools() -> Iterator[tuple[Any, Any]]:
    """coremltools and its `optimize.coreml`, without their progress bars."""
    try:
        with quiet():
            import coremltools
            import coremltools.optimize.coreml as optimize
    except ModuleNotFoundError as error:
        raise MissingExtraError("export to coreml", "coreml") from error
    # The bars go wherever sys.stderr does, which may be a notebook.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        yield coremltools, optimize
