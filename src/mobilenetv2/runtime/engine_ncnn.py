"""Networks exported to ncnn, which trusts its files: damage there ends the process, so it is looked for before."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import MissingExtraError, ModelFileError
from mobilenetv2.runtime.engine import check_threads

PARAM, BIN = "model.param", "model.bin"
_MAGIC = "7767517"
# A layer: what it is, its name, how many blobs it reads and makes, their names, and its options. An option has a
# number, and a value, values after their count under -23300 and less, or a text.
_VALUE = r"-?\d[\d.]*(?:e[+-]?\d+)?"
_OPTION = re.compile(rf'(\d\d?|-233\d\d)=({_VALUE}(?:,{_VALUE})*|"[^"]*")')
_FLOAT32 = bytes(4)  # before the weights of a layer; other kinds have other numbers
# Layers without weights.
_PLAIN = frozenset(("BinaryOp", "Clip", "Concat", "Flatten", "Input", "Interp", "Permute", "Pooling", "ReLU"))
_PLAIN |= {"Reshape", "Split", "Tile", "UnaryOp"}
# Of layers with weights, the options that say how many results they have, whether as many biases, and their weights.
_WEIGHTS = {
    "Convolution": ("0", "5", "6"),
    "ConvolutionDepthWise": ("0", "5", "6"),
    "InnerProduct": ("0", "1", "2"),
}


class NcnnEngine:
    """`model.param` and `model.bin` on the CPU in float32, one picture after the other."""

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        """`threads`: of one run; None for one a core. Raises ModelFileError if a file is missing or damaged."""
        check_threads(threads)
        try:
            import ncnn
        except ModuleNotFoundError as error:
            raise MissingExtraError("the engine 'ncnn'", "ncnn") from error
        self._source, self._mat = str(folder), ncnn.Mat
        try:
            param, weights = ((folder / file).read_bytes() for file in (PARAM, BIN))
        except OSError as error:
            raise ModelFileError(f"{folder}: {PARAM} and {BIN} cannot be read: {error.strerror}") from error
        try:
            self._input, self._outputs = read_network(param, weights)
        except ValueError as error:
            damaged = f"{folder}: is damaged, or no ncnn network of ours: {error}; export the model again"
            raise ModelFileError(damaged) from error
        self._net = ncnn.Net()
        options = self._net.opt
        options.use_vulkan_compute = False
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_packed = options.use_bf16_storage = False
        if threads is not None:
            options.num_threads = threads
        if self._net.load_param_mem(param.decode()) or self._net.load_model(str(folder / BIN)):
            raise ModelFileError(f"{folder}: is damaged; ncnn cannot load it; export the model again")

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """(N, 3, H, W), preprocessed -> the raw outputs that `graph.network_graph` describes, in their order.

        Safe to call from several threads. Raises ModelFileError where damage shows only now.
        """
        answers = [self._answer(image) for image in np.ascontiguousarray(images)]
        return tuple(np.stack(parts) for parts in zip(*answers, strict=True))

    def _answer(self, image: NDArray[np.float32]) -> list[NDArray[Any]]:
        extractor = self._net.create_extractor()
        # The matrix borrows the image's memory, and `extract` lends its own.
        extractor.input(self._input, self._mat(image))
        found = [extractor.extract(name) for name in self._outputs]
        if any(code for code, _ in found):
            raise ModelFileError(f"{self._source}: is damaged; ncnn cannot run it; export the model again")
        return [np.array(values) for _, values in found]


class _Layer(NamedTuple):
    """One line of a `.param`: what it is, the blobs that it reads and makes, and its options by their number."""

    kind: str
    reads: list[str]
    makes: list[str]
    options: dict[str, str]


def read_network(param: bytes, weights: bytes) -> tuple[str, tuple[str, ...]]:
    """The blob that a network takes and those that it returns, in their order, by name.

    Raises ValueError unless every blob is made before it is read, by a layer that we export, and the weights are
    float32 and as many as the layers need.
    """
    layers = _read_layers(param.decode())
    _check_weights(layers, weights)
    made: set[str] = set()
    unread: list[str] = []
    for layer in layers:
        for blob in layer.reads:
            if blob not in unread:
                raise ValueError(f"a layer {layer.kind} reads {blob!r}, which is not there")
            unread.remove(blob)
        for blob in layer.makes:
            if blob in made:
                raise ValueError(f"two layers make {blob!r}")
            made.add(blob)
            unread.append(blob)
    images = [blob for layer in layers if layer.kind == "Input" for blob in layer.makes]
    if len(images) != 1:
        raise ValueError(f"it takes {len(images)} inputs")
    # pnnx numbers them: out0, out1.
    return images[0], tuple(sorted(unread, key=lambda blob: (len(blob), blob)))


def _read_layers(text: str) -> list[_Layer]:
    """Raises ValueError."""
    lines = text.splitlines()
    if len(lines) < 3 or lines[0] != _MAGIC:
        raise ValueError(f"{PARAM} begins with {text[:20]!r}")
    layers = []
    for line in lines[2:]:
        words = line.split()
        if len(words) < 4 or not (words[2] + words[3]).isdecimal():
            raise ValueError(f"{PARAM} has a line {line[:20]!r}")
        reads, makes = int(words[2]), int(words[3])
        blobs, options = words[4 : 4 + reads + makes], {}
        for word in words[4 + reads + makes :]:
            option = _OPTION.fullmatch(word)
            if not option:
                raise ValueError(f"{PARAM} has an option {word[:20]!r}")
            options[option[1]] = option[2]
        layers.append(_Layer(words[0], blobs[:reads], blobs[reads:], options))
    found = f"{len(layers)} {sum(len(layer.makes) for layer in layers)}"
    if lines[1] != found:
        raise ValueError(f"{PARAM} has {found} layers and blobs instead of {lines[1][:20]!r}")
    return layers


def _check_weights(layers: list[_Layer], weights: bytes) -> None:
    """Raises ValueError."""
    place = 0
    for layer in layers:
        if layer.kind in _PLAIN:
            continue
        if layer.kind not in _WEIGHTS:
            raise ValueError(f"a layer {layer.kind!r}")
        results, biases, count = (int(layer.options.get(option, "0")) for option in _WEIGHTS[layer.kind])
        if weights[place : place + 4] != _FLOAT32:
            raise ValueError(f"{BIN} has other numbers than float32 at byte {place}")
        place += 4 + 4 * count + 4 * results * biases
    if place != len(weights):
        raise ValueError(f"{BIN} has {len(weights)} bytes instead of {place}")
