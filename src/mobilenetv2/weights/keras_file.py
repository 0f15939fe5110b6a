"""Keras weight files without Keras: HDF5 (`.h5`) of Keras 2 and 3, `.weights.h5` and `.keras` of Keras 3.

A damaged file can make libhdf5 crash, loop, or ask for any amount of memory, so files are opened by a process of its
own, which has little memory (on Linux) and time and hands back plain arrays.
Source: Keras 3, `saving/saving_lib.py` and `legacy/saving/legacy_h5_format.py`.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from mobilenetv2.errors import MissingExtraError, ModelFileError

Arrays = Mapping[str, NDArray[Any]]

HDF5, ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
SECONDS = 60  # that a file may take; 20 MB take 0.5
MAX_OBJECTS = 20_000  # groups and arrays in a file; a MobileNetV2 has 600
MAX_DEPTH = 16  # of groups in groups
MAX_INFLATION = 4  # of what is in a zip, against the zip, beyond 1 MB; Keras does not compress
SPARE_BYTES = 64 << 20  # of address space for the reader, besides multiples of the file's size
_REFUSED = 3  # exit code of the reader that has said why

_WEIGHTS = "model.weights.h5"
# Where Keras 3 keeps the layers of a model; the second in files of Keras 2.12 to 2.15.
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
_PARTS = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# What a layer's variables are, in the order of their numbers, by how Keras 3 names its class.
_VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("depthwise_kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}
_ORDERED = re.compile(r"(conv2d|depthwise_conv2d|batch_normalization|dense)(?:_([1-9][0-9]{0,3}))?")
# What makes training random; no answer depends on it.
_IDLE = "seed_generator"


def read_keras(content: bytes, *, source: str) -> dict[str, NDArray[Any]]:
    """The tensors of a file under the names and with the axes that torch would give them.

    Layers have their names of keras-applications, also where the file only has their classes and order. Where there is
    one dense layer, it is called `predictions`, whatever its own name.
    source: what error messages call the file.
    Raises ModelFileError for what is damaged, too large for what it holds, sharded, chunked or compressed, and for a
    file of Keras 3 that is of no MobileNet; MissingExtraError without h5py.
    """
    if content.lstrip()[:1] == b"{" and b'"weight_map"' in content:
        raise ModelFileError(
            f"{source}: is the index of sharded weights; save the model as one file (without max_shard_size)"
        )
    if not content.startswith((HDF5, ZIP)):
        raise ModelFileError(f"{source}: is neither HDF5 nor a .keras file")
    if importlib.util.find_spec("h5py") is None:
        raise MissingExtraError("reading a Keras file", "convert")
    return named(_read_apart(content, source), source=source)


def _read_apart(content: bytes, source: str) -> Arrays:
    """What `read_arrays` gives, in a process of its own."""
    # It must find the same packages, and neither start threads nor load plug-ins for HDF5.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "HDF5_PLUGIN_PRELOAD": "::",
    }
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as complaint:
        given.write(content)
        given.seek(0)
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "mobilenetv2.weights.keras_file"],
                stdin=given,
                stdout=answer,
                stderr=complaint,
                env=environment,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ModelFileError(f"{source}: takes more than {SECONDS} s to read; the file is damaged") from error
        if done.returncode:
            raise ModelFileError(f"{source}: {_reason(complaint, done.returncode)}")
        if answer.seek(0, os.SEEK_END) > answer_limit(len(content)):
            raise ModelFileError(f"{source}: is damaged (it yields more than it holds)")
        answer.seek(0)
        try:
            return safetensors.numpy.load(answer.read())
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise ModelFileError(f"{source}: is damaged (its reader answered nonsense)") from error


def _reason(complaint: IO[bytes], code: int) -> str:
    """Why the reader gave up, as one printable line."""
    complaint.seek(max(0, complaint.seek(0, os.SEEK_END) - 4096))
    lines = complaint.read().decode("utf-8", "replace").strip().splitlines()
    last = "".join(letter for letter in (lines or [f"code {code}"])[-1] if letter.isprintable())[:300]
    return last if code == _REFUSED else f"is damaged, or cut off (its reader stopped: {last})"


def answer_limit(size: int) -> int:
    """How many bytes the arrays of a file of `size` bytes may take, with their names."""
    return (MAX_INFLATION + 1) * size + (2 << 20)


def limit_process(size: int) -> None:
    """Bind this process to what a file of `size` bytes may take: memory beyond what it has (Linux), time, output."""
    if sys.platform == "win32":
        return
    import resource

    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        # The file, what it is unpacked to, libhdf5's buffers, the arrays, and the arrays as one answer.
        space = pages * resource.getpagesize() + SPARE_BYTES + 4 * MAX_INFLATION * size
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (answer_limit(size), answer_limit(size)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def read_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a model's layers by their paths in the file. To be called by a process that may come to harm.

    Raises ModelFileError without the file's name, and whatever zipfile and h5py raise for what is damaged.
    """
    import h5py

    if content.startswith(ZIP):
        content = _unpacked(content)
    found: dict[str, NDArray[Any]] = {}
    held = 0
    with h5py.File(io.BytesIO(content), "r") as file:
        for path, item in _datasets(file):
            layout = item.id.get_create_plist()
            if layout.get_layout() not in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS) or layout.get_external_count():
                raise ModelFileError(f"{path!r} is chunked, compressed or in another file; Keras writes plain arrays")
            held += math.prod(item.shape) * item.dtype.itemsize
            if held > len(content):
                raise ModelFileError(f"is damaged: the arrays up to {path!r} take more bytes than the file has")
            if item.dtype.kind not in "fiu":
                raise ModelFileError(f"{path!r} holds {item.dtype}, not numbers")
            found[path] = np.asarray(item[()], item.dtype.newbyteorder("="))
    if not found:
        raise ModelFileError("holds no arrays where Keras keeps the weights of layers")
    return found


def _datasets(file: Any) -> Iterator[tuple[str, Any]]:
    """Every array of the model's layers, without an optimizer's, with its path."""
    import h5py

    names = list(file)
    top = next((name for name in ("model_weights", *_CONTAINERS) if name in names), None)
    rest = [(file, name, name) for name in ([top] if top else names)]
    count = len(rest)
    while rest:
        group, name, path = rest.pop()
        # Others lead to other files, or nowhere.
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ModelFileError(f"{path!r} is a link; Keras writes none")
        item = group[name]
        if isinstance(item, h5py.Dataset):
            yield path, item
        elif not isinstance(item, h5py.Group) or path.count("/") >= MAX_DEPTH:
            raise ModelFileError(f"{path!r} is neither an array nor a group of them")
        else:
            count += len(item)
            if count > MAX_OBJECTS:
                raise ModelFileError(f"holds more than {MAX_OBJECTS:,} groups and arrays; no MobileNet does")
            rest.extend((item, child, f"{path}/{child}") for child in item)


def _unpacked(content: bytes) -> bytes:
    """The weights in a .keras file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        if _WEIGHTS not in names:
            raise ModelFileError(f"is a zip without {_WEIGHTS!r}; save the model as one .keras or .h5 file")
        info = archive.getinfo(_WEIGHTS)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ModelFileError(f"{_WEIGHTS!r} in it is compressed in a way that Keras does not use")
        if info.file_size > MAX_INFLATION * len(content) + (1 << 20):
            raise ModelFileError(f"{_WEIGHTS!r} in it would be {info.file_size:,} bytes, out of {len(content):,}")
        with archive.open(info) as member:
            return member.read(info.file_size)


def named(arrays: Arrays, *, source: str) -> dict[str, NDArray[Any]]:
    """Arrays by their paths in the file -> a state, by `LAYER.weight`, with torch's axes."""
    arrays = {path: array for path, array in arrays.items() if _IDLE not in path.split("/")}
    modern = any(path.split("/")[0] in _CONTAINERS for path in arrays)
    state: dict[str, NDArray[Any]] = {}
    for layer, part, array in _of_keras_3(arrays, source) if modern else _of_legacy(arrays):
        name = f"{layer}.{_PARTS.get(part, part)}"
        if name in state:
            raise ModelFileError(f"{source}: has two tensors {name!r}; which one is the network's cannot be told")
        state[name] = _transposed(layer, part, array)
    dense = [name for name, array in state.items() if array.ndim == 2 and name.endswith(".weight")]
    if len(dense) == 1:
        layer = dense[0].removesuffix(".weight")
        for part in ("weight", "bias"):
            if f"{layer}.{part}" in state:
                state[f"predictions.{part}"] = state.pop(f"{layer}.{part}")
    return state


def _transposed(layer: str, part: str, array: NDArray[Any]) -> NDArray[Any]:
    if part not in ("kernel", "depthwise_kernel"):
        return array
    if array.ndim == 4:
        height, width = array.shape[:2]
        if part == "depthwise_kernel" or "depthwise" in layer or "conv_dw" in layer:
            # (height, width, channels, multiplier); torch counts the results of a channel one after the other, too.
            array = array.reshape(height, width, 1, array.shape[2] * array.shape[3])
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    return np.ascontiguousarray(array.T)


def _of_legacy(arrays: Arrays) -> Iterator[tuple[str, str, NDArray[Any]]]:
    """Layer, part and array from paths that end with them: `.../Conv1/kernel`, or `.../Conv1/kernel:0` of Keras 2."""
    for path, array in arrays.items():
        *_, layer, part = ("", *path.split("/"))
        yield layer, part.split(":")[0], array


def _of_keras_3(arrays: Arrays, source: str) -> Iterator[tuple[str, str, NDArray[Any]]]:
    """Layer, part and array from paths such as `layers/functional/layers/conv2d_1/vars/0`.

    Layers are numbered by class, in the order of the model; the model that has depthwise layers is the MobileNet.
    """
    layers: dict[tuple[str, str, int], dict[int, NDArray[Any]]] = defaultdict(dict)
    for path, array in arrays.items():
        *above, layer, last, number = ("", "", *path.split("/"))
        found = _ORDERED.fullmatch(layer)
        if found and last == "vars" and above[-1] in _CONTAINERS and number in ("0", "1", "2", "3"):
            layers["/".join(above), found[1], int(found[2] or 0)][int(number)] = array
        else:
            # No MobileNet has it: whoever takes the state may not overlook it.
            yield path.rpartition("/")[0], number, array
    counts = Counter((model, kind) for model, kind, _ in layers)
    networks = [(model, count) for (model, kind), count in counts.items() if kind == "depthwise_conv2d"]
    if len(networks) != 1 or networks[0][1] not in _NAMES:
        depthwise = " and ".join(str(count) for _, count in networks) or "no"
        raise ModelFileError(
            f"{source}: has {depthwise} depthwise layers, where MobileNetV1 has 13 and MobileNetV2 17; if it is one of "
            "several shards, save the model as one file"
        )
    network, depth = networks[0]
    for (model, kind, index), variables in layers.items():
        parts = _VARIABLES[kind]
        if index >= counts[model, kind]:
            raise ModelFileError(
                f"{source}: lacks some of the layers before {kind}_{index}; save the model as one file"
            )
        if sorted(variables) != list(range(len(variables))) or (kind == "batch_normalization" and len(variables) != 4):
            raise ModelFileError(f"{source}: {kind}_{index} has not the variables of such a layer ({', '.join(parts)})")
        own = _NAMES[depth].get(kind, []) if model == network else []
        name = own[index] if index < len(own) else f"{kind}_{index}" if index else kind
        for place, array in variables.items():
            yield name, parts[place] if place < len(parts) else str(place), array


def _by_class(convolutions: list[str], norms: list[str]) -> dict[str, list[str]]:
    """Names of layers, in the order of the model, by class."""
    depthwise = [name for name in convolutions if "depthwise" in name or "conv_dw" in name]
    return {
        "conv2d": [name for name in convolutions if name not in depthwise],
        "depthwise_conv2d": depthwise,
        "batch_normalization": norms,
    }


def _mobilenet_v1() -> dict[str, list[str]]:
    body = ["conv1", *(f"conv_{kind}_{number}" for number in range(1, 14) for kind in ("dw", "pw"))]
    return _by_class([*body, "conv_preds"], [f"{name}_bn" for name in body])


def _mobilenet_v2() -> dict[str, list[str]]:
    blocks = [f"block_{number}_{part}" for number in range(1, 17) for part in ("expand", "depthwise", "project")]
    body = ["expanded_conv_depthwise", "expanded_conv_project", *blocks]
    return _by_class(["Conv1", *body, "Conv_1"], ["bn_Conv1", *(f"{name}_BN" for name in body), "Conv_1_bn"])


# keras-applications' names by the number of depthwise layers.
_NAMES = {13: _mobilenet_v1(), 17: _mobilenet_v2()}


def _main() -> int:
    """What the process apart does: a file on the standard input, its arrays as safetensors on the output."""
    import h5py  # noqa: F401 - what it takes is not the file's

    content = sys.stdin.buffer.read()
    limit_process(len(content))
    try:
        arrays = read_arrays(content)
    except ModelFileError as error:
        print(error, file=sys.stderr)
        return _REFUSED
    sys.stdout.buffer.write(safetensors.numpy.save(arrays))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
