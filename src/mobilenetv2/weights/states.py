"""A state, names and arrays as some library has them, brought to our names by its layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.architecture import Architecture, Convolution, trunk
from mobilenetv2.errors import ModelFileError
from mobilenetv2.modelfile import Tensors, tensor_shapes
from mobilenetv2.numerics import NUMERICS, Dilation, Rounding
from mobilenetv2.segmenter import BACKBONE, Segmenter, segmenter_layers
from mobilenetv2.weights.candidates import candidates
from mobilenetv2.weights.layouts import LAYOUTS, Layout, Pair

State = Mapping[str, NDArray[Any]]

_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")
# Counters and tables that change no answer.
_IDLE = ("num_batches_tracked",)


class Matched(NamedTuple):
    """What a state turned out to be.

    layout: whose names it has. tensors: float32, by our names. eps: of the batch norms, as they were trained.
    """

    layout: Layout
    architecture: Architecture | Segmenter
    tensors: Tensors
    eps: float


def match_state(
    state: State,
    *,
    source: str,
    output_stride: int | None = None,
    dilation: Dilation = "slim",
    rounding: Rounding | None = None,
    numerics: str | None = None,
    eps: float | None = None,
) -> Matched:
    """The network that a state is of, and its tensors under our names.

    output_stride: None for the usual: 32 for a classifier, 16 for a segmenter; a state does not tell.
    rounding, numerics, eps: None for what fits, and for the library's own. eps: with which the batch norms were
        trained; another one than that of the numerics is worked into their weights, so that they do the same.
    Raises ModelFileError if no library has such names, no width and rounding rule fits the shapes, there are layers
    more or less than the network has, or the numbers are not finite.
    """
    state = plain(state)
    layout = next((one for one in LAYOUTS if all(f"{mark}.weight" in state for mark in one.marks)), None)
    if layout is None:
        titles = ", ".join(dict.fromkeys(one.title for one in LAYOUTS))
        raise ModelFileError(f"{source}: its names of tensors are of no library that is known ({titles})")
    stem = state.get(f"{layout.stem.convolution}.weight")
    for architecture, convolutions in candidates(layout.network, numerics=numerics or layout.numerics):
        if rounding not in (None, architecture.rounding):
            continue
        # Most are told by their first layer, before names are made for all.
        if stem is None or stem.shape != convolutions[0].shapes[0].shape:
            continue
        names = layout.layers(architecture)
        if _fits(convolutions, names, state):
            break
    else:
        raise ModelFileError(
            f"{source}: has the names of a {layout.network} of {layout.title}, but its channels are of no known width "
            "and rounding rule"
        )
    segments = bool(layout.head) and all(f"{pair.convolution}.weight" in state for pair in layout.head.values())
    architecture = replace(architecture, output_stride=output_stride or (16 if segments else 32), dilation=dilation)
    if segments:
        network, taken, state = _segmenter(layout, architecture, names, state)
    else:
        network, taken, state = _classifier(layout, architecture, names, state, source)
    own = NUMERICS[network.numerics].batch_norm_eps
    tensors = _tensors(network, taken, state, source)
    return Matched(layout, network, _with_eps(tensors, eps or own, own), eps or own)


def plain(state: State) -> State:
    """Without what wrappers put in front of every name, and with torch's names for Paddle's statistics."""
    for prefix in ("module.", "_orig_mod.", "model."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): array for name, array in state.items()}
    if any(name.endswith("._mean") for name in state):
        ends = {"._mean": ".running_mean", "._variance": ".running_var"}
        state = {_swapped(name, ends): array for name, array in state.items()}
    return state


def _swapped(name: str, ends: Mapping[str, str]) -> str:
    end = next((end for end in ends if name.endswith(end)), None)
    return name if end is None else name.removesuffix(end) + ends[end]


def _fits(plans: Sequence[Convolution], names: Mapping[str, Pair], state: State) -> bool:
    """Whether every kernel but the last one's, which segmenters lack, is there and has the shape of its plan."""
    for plan in plans:
        array = state.get(f"{names[plan.name].convolution}.weight")
        if array is None and plan.name == "last":
            continue
        if array is None or array.shape != plan.shapes[0].shape:
            return False
    return True


# The network, its tensors' names -> theirs, and the state as it is to be read.
_Reading = tuple[Architecture | Segmenter, dict[str, str], State]


def _classifier(
    layout: Layout, architecture: Architecture, names: Mapping[str, Pair], state: State, source: str
) -> _Reading:
    classifier = next((name for name in layout.classifier if f"{name}.weight" in state), None)
    if classifier is None:
        raise ModelFileError(
            f"{source}: is a {layout.network} of {layout.title} without its classifier ({layout.classifier[0]!r}); "
            "take the file that has it"
        )
    weight = state[f"{classifier}.weight"]
    if weight.ndim == 4 and weight.shape[2:] == (1, 1):  # a 1x1 convolution on one pixel
        weight = weight[:, :, 0, 0]
    if weight.ndim == 2 and layout.title == "PaddleClas":  # (in, out)
        weight = weight.T
    bias = state.get(f"{classifier}.bias", np.zeros(weight.shape[:1], np.float32))
    state = {**state, f"{classifier}.weight": weight, f"{classifier}.bias": bias}
    architecture = replace(architecture, num_classes=len(weight))
    taken = {f"classifier.{part}": f"{classifier}.{part}" for part in ("weight", "bias")}
    for plan in trunk(architecture):
        taken |= _names(plan.name, names[plan.name])
    return architecture, taken, state


def _segmenter(layout: Layout, architecture: Architecture, names: Mapping[str, Pair], state: State) -> _Reading:
    segmenter = Segmenter(
        width=architecture.width,
        num_classes=len(state[f"{layout.head['classifier'].convolution}.weight"]),
        numerics=architecture.numerics,
        output_stride=architecture.output_stride,
        rounding=architecture.rounding,
        dilation=architecture.dilation,
    )
    layers = segmenter_layers(segmenter)
    theirs = layout.head["classifier"].convolution
    taken = {f"classifier.{part}": f"{theirs}.{part}" for part in ("weight", "bias")}
    for plan in layers.backbone:
        taken |= _names(plan.name, names[plan.name.removeprefix(f"{BACKBONE}.")])
    for plan in (layers.image, layers.point, layers.project):
        taken |= _names(plan.name, layout.head[plan.name])
    # A classifier's last layers, where the network was first trained on ImageNet, are of no use here.
    rest = (*names["last"], *layout.classifier)
    state = {name: array for name, array in state.items() if name.rpartition(".")[0] not in rest}
    return segmenter, taken, state


def _names(layer: str, pair: Pair) -> dict[str, str]:
    """Our tensors of a convolution and its batch norm -> theirs."""
    return {f"{layer}.conv.weight": f"{pair.convolution}.weight"} | {
        f"{layer}.norm.{part}": f"{pair.norm}.{part}" for part in _NORM_PARTS
    }


def _tensors(network: Architecture | Segmenter, taken: Mapping[str, str], state: State, source: str) -> Tensors:
    tensors: Tensors = {}
    for name, shape in tensor_shapes(network):
        theirs = taken[name]
        if theirs not in state:
            raise ModelFileError(f"{source}: has no tensor {theirs!r}")
        array = state[theirs]
        if array.shape != shape:
            raise ModelFileError(f"{source}: {theirs!r} has shape {array.shape}, the network needs {shape}")
        tensors[name] = _checked(array, f"{source}: {theirs!r}", positive=name.endswith(".running_var"))
    for name in state.keys() - set(taken.values()):
        if name.rpartition(".")[2] not in _IDLE:
            raise ModelFileError(f"{source}: has a tensor {name!r} more than the network; nothing may be left out")
    return tensors


def _with_eps(tensors: Tensors, eps: float, own: float) -> Tensors:
    """Batch norms that were trained with `eps`, changed to do the same with `own`; a head's has its own anyway."""
    if eps == own:
        return tensors
    changed = {}
    for name in tensors:
        if name.endswith(".norm.weight") and not name.startswith("head."):
            variance = tensors[f"{name.removesuffix('.weight')}.running_var"].astype(np.float64)
            changed[name] = (tensors[name] * np.sqrt((variance + own) / (variance + eps))).astype(np.float32)
    return tensors | changed


def _checked(array: NDArray[Any], place: str, *, positive: bool = False) -> NDArray[np.float32]:
    """A copy as float32. Raises ModelFileError that begins with `place` if it has other numbers than finite ones."""
    if array.dtype.kind not in "fV" or not np.isfinite(array.astype(np.float32)).all():
        raise ModelFileError(f"{place} does not hold finite floating point numbers; the file is damaged")
    if positive and (array < 0).any():
        raise ModelFileError(f"{place} holds negative variances; the file is damaged")
    return np.array(array, np.float32, order="C")
