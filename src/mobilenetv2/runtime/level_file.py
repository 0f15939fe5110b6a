"""A model in 8 bits as one file: kernels as steps and the width of each output channel's step, all else as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from mobilenetv2.errors import ModelFileError
from mobilenetv2.files import reason
from mobilenetv2.modelfile import CARD_KEY, Card, ModelFile, card_text
from mobilenetv2.runtime.graph_network import quantise_kernel

LEVELS = "levels.safetensors"
_WIDTHS = ".widths"


def level_file(model: ModelFile) -> bytes:
    """Of a model that was prepared for 8 bits (`quantization.prepare`): `read_level_file` gives the same one again."""
    stored: dict[str, NDArray[np.generic]] = {}
    for name, tensor in model.tensors.items():
        # The first layer reads float32, and stays it.
        if tensor.ndim < 2 or tensor.shape[1:] == (3, 3, 3):
            stored[name] = tensor
            continue
        stored[name], stored[name + _WIDTHS] = quantise_kernel(tensor)
    return save_safetensors(stored, metadata={CARD_KEY: model.card.to_json()})


def read_level_file(path: Path) -> ModelFile:
    """Raises ModelFileError for anything that could not be run safely."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {reason(error)}") from error
    card = Card.from_json(card_text(content, str(path)), source=str(path))
    try:
        stored = load_safetensors(content)
        tensors = {
            name: _widened(tensor, stored.get(name + _WIDTHS))
            for name, tensor in stored.items()
            if not name.endswith(_WIDTHS)
        }
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ModelFileError(f"{path}: damaged or cut off ({error})") from error
    return ModelFile(card=card, tensors=tensors)


def _widened(tensor: NDArray[np.generic], widths: NDArray[np.generic] | None) -> NDArray[np.float32]:
    if widths is None:
        return tensor.astype(np.float32)
    return tensor.astype(np.float32) * widths.astype(np.float32).reshape(-1, *(1,) * (tensor.ndim - 1))
