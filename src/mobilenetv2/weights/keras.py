"""keras-applications MobileNetV2 as HDF5 (`.h5`): its layer names and tensor layouts.

Keras is not needed and nothing in the file is executed: only arrays are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.architecture import Architecture, parameter_shapes, plan_network
from mobilenetv2.errors import MissingExtraError, ModelFileError
from mobilenetv2.modelfile import Tensors
from mobilenetv2.weights.rename import rename

_NORM_PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def layer_names(architecture: Architecture) -> dict[str, tuple[str, str]]:
    """Our layer -> keras-applications' (convolution, batch norm)."""
    names = {"stem": ("Conv1", "bn_Conv1"), "last": ("Conv_1", "Conv_1_bn")}
    index = 0
    for s, stage in enumerate(plan_network(architecture).stages):
        for b in range(len(stage)):
            theirs = f"block_{index}" if index else "expanded_conv"
            for ours, part in (("expand", "expand"), ("filter", "depthwise"), ("project", "project")):
                names[f"stages.{s}.blocks.{b}.{ours}"] = (f"{theirs}_{part}", f"{theirs}_{part}_BN")
            index += 1
    return names


def read_hdf5(path: Path, architecture: Architecture) -> Tensors:
    """Read the tensors that `architecture` needs; its classifier is the file's last dense layer.

    Raises ModelFileError if the file is no HDF5, or a tensor is missing or has another shape.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("reading a Keras file", "train") from error
    arrays: dict[str, np.ndarray] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            # .../layer/kernel, or .../layer/layer/kernel:0 in files written before Keras 3
            layer, part = name.split("/")[-2:]
            arrays[f"{layer}/{part.split(':')[0]}"] = item[()]

    try:
        with h5py.File(path) as file:
            file["model_weights" if "model_weights" in file else "/"].visititems(visit)
    except (OSError, ValueError, IndexError) as error:
        raise ModelFileError(f"{path}: cannot be read as HDF5 ({error})") from error
    return from_keras(arrays, architecture, source=str(path))


def from_keras(arrays: Mapping[str, Any], architecture: Architecture, *, source: str = "") -> Tensors:
    """Arrays by 'layer/part' -> our tensors. Other layers are left out: a file may hold more than the network.

    Raises ModelFileError if a tensor is missing or has another shape.
    """
    return rename(
        arrays,
        _tensor_names(arrays, architecture),
        architecture,
        peer="MobileNetV2 of keras-applications",
        source=source,
        layout=_layout,
        only=False,
    )


def _tensor_names(arrays: Mapping[str, Any], architecture: Architecture) -> dict[str, str]:
    layers = layer_names(architecture)
    dense = next((name for name in ("predictions", "dense") if f"{name}/kernel" in arrays), "predictions")
    names = {}
    for name, _ in parameter_shapes(architecture):
        if name.startswith("classifier"):
            names[name] = f"{dense}/{'kernel' if name.endswith('weight') else 'bias'}"
            continue
        layer, kind, part = name.rsplit(".", 2)
        convolution, norm = layers[layer]
        names[name] = f"{norm}/{_NORM_PARTS[part]}" if kind == "norm" else f"{convolution}/kernel"
        # Keras before 3 calls a depthwise kernel what it is.
        if f"{convolution}/depthwise_kernel" in arrays and kind == "conv":
            names[name] = f"{convolution}/depthwise_kernel"
    return names


def _layout(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim == 4:
        # Keras: (height, width, in, out), and (height, width, channels, 1) for depthwise.
        return array.transpose((2, 3, 0, 1) if name.endswith(".filter.conv.weight") else (3, 2, 0, 1))
    return array.T if array.ndim == 2 else array
