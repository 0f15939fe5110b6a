"""From another framework's tensor names to ours: look up, check the shape, or say what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.architecture import Architecture, parameter_shapes
from mobilenetv2.errors import ModelFileError
from mobilenetv2.modelfile import Tensors

Layout = Callable[[str, NDArray[Any]], NDArray[Any]]


def torch_names(layers: Mapping[str, tuple[str, str]], classifier: str, architecture: Architecture) -> dict[str, str]:
    """Our tensor name -> theirs, for frameworks that call the parts of a layer as torch does.

    layers: our layer -> their (convolution, batch norm); classifier: theirs.
    """
    names = {}
    for name, _ in parameter_shapes(architecture):
        layer, part = name.rsplit(".", 1)
        if layer == "classifier":
            theirs = classifier
        else:
            layer, kind = layer.rsplit(".", 1)
            theirs = layers[layer][kind == "norm"]
        names[name] = f"{theirs}.{part}"
    return names


def rename(
    state: Mapping[str, Any],
    names: Mapping[str, str],
    architecture: Architecture,
    *,
    peer: str,
    source: str = "",
    layout: Layout = lambda _, array: array,
    only: bool = True,
) -> Tensors:
    """Bring `state` (NumPy arrays or torch tensors) to our names, as float32, in the order of computation.

    names: our tensor name -> theirs.
    peer: what `state` should be, for errors; source: the file it came from, for errors.
    layout: (our name, their array) -> the array in our axis order.
    only: whether tensors that the architecture does not need are an error.
    Raises ModelFileError if a tensor is missing, extra, of another shape, or not made of finite numbers.
    """
    place = f"{source}: " if source else ""
    tensors: Tensors = {}
    for name, shape in parameter_shapes(architecture):
        key = names[name]
        if key not in state:
            raise ModelFileError(f"{place}has no tensor {key!r}; this is not {peer}")
        array = layout(name, as_array(state[key]))
        if array.shape != shape:
            raise ModelFileError(
                f"{place}{key!r} has shape {array.shape}, but {peer} with width {architecture.width} and "
                f"{architecture.num_classes} classes needs {shape}"
            )
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ModelFileError(f"{place}{key!r} does not hold finite floating point numbers; the file is damaged")
        if name.endswith(".running_var") and (array < 0).any():
            raise ModelFileError(f"{place}{key!r} holds negative variances; the file is damaged")
        # A copy: the network that `state` came from may train on, and a file's buffer is read-only.
        tensors[name] = np.array(array, dtype=np.float32, order="C")
    known = set(names.values())
    for key in state:
        # A counter that torch keeps for training; it does not change an answer.
        if only and key not in known and not key.endswith("num_batches_tracked"):
            raise ModelFileError(f"{place}has a tensor {key!r} too many; this is not {peer}")
    return tensors


def as_array(tensor: Any) -> NDArray[Any]:
    """A torch tensor, wherever it lives, or anything NumPy takes -> a NumPy array. Does not import torch."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        # NumPy has no bfloat16.
        tensor = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return np.asarray(tensor)
