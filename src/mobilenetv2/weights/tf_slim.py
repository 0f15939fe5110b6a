"""TF-Slim's variables, as torch would name and lay them out.

Source: TensorFlow, `contrib/layers` (names of variables) and `ExponentialMovingAverage`; TF-Slim's MobileNets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import ModelFileError

_AVERAGE = "/ExponentialMovingAverage"
# What an optimizer keeps about a variable, and the counters of a training.
_SLOT = re.compile(r"/(Momentum|RMSProp|Adam|AdamW|Adagrad|Adadelta|Ftrl)(_\d+)?$")
_COUNTER = re.compile(r"(^|/)(global_step|beta[12]_power)$")
_FAKE_QUANTIZATION = re.compile(r"_quant/")
_NORM_PARTS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def slim_state(variables: Mapping[str, NDArray[Any]], *, source: str) -> dict[str, NDArray[Any]]:
    """Variables by TF-Slim's names -> a state: `LAYER.weight`, `LAYER/BatchNorm.running_mean` and so on.

    Kernels become (out, in / groups, height, width), dense ones (out, in). The running average of a variable is taken
    instead of it, and a batch norm that was trained without gamma gets ones. What only a training needs is left out;
    names that TF-Slim does not have stay as they are.
    Raises ModelFileError for kernels with other axes, and for networks trained for 8 bits, whose ranges a state has
    no place for.
    """
    averaged = {name.removesuffix(_AVERAGE): array for name, array in variables.items() if name.endswith(_AVERAGE)}
    plain = {name: array for name, array in variables.items() if not name.endswith(_AVERAGE)}
    state: dict[str, NDArray[Any]] = {}
    for name, array in (plain | averaged).items():
        if _SLOT.search(name) or _COUNTER.search(name):
            continue
        if _FAKE_QUANTIZATION.search(name):
            raise ModelFileError(
                f"{source}: was trained for 8 bits ({name!r}); take the .tflite file that was made of it instead"
            )
        layer, _, part = name.rpartition("/")
        if part in ("weights", "depthwise_weights"):
            state[f"{layer}.weight"] = _kernel(array, part, f"{source}: {name!r}")
        elif part == "biases":
            state[f"{layer}.bias"] = array
        elif part in _NORM_PARTS:
            state[f"{layer}.{_NORM_PARTS[part]}"] = array
        else:
            state[name] = array
    for name in [name for name in state if name.endswith(".running_var")]:
        state.setdefault(f"{name.removesuffix('.running_var')}.weight", np.ones_like(state[name]))
    return state


def _kernel(array: NDArray[Any], part: str, place: str) -> NDArray[Any]:
    if part == "weights" and array.ndim == 2:
        return np.ascontiguousarray(array.T)
    if array.ndim != 4:
        raise ModelFileError(f"{place} has shape {array.shape}; a kernel has height, width, inputs and outputs")
    if part == "weights":
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    # (height, width, channels, filters for each); torch counts the filters of a channel in a row.
    height, width, channels, filters = array.shape
    return np.ascontiguousarray(array.transpose(2, 3, 0, 1)).reshape(channels * filters, 1, height, width)
