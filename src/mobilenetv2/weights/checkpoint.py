"""A checkpoint of any kind, known by its content: read into layers or named arrays, without running any of it."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from mobilenetv2.errors import MissingExtraError, ModelFileError
from mobilenetv2.files import reason
from mobilenetv2.modelfile import CARD_KEY
from mobilenetv2.weights.keras_file import HDF5, read_keras
from mobilenetv2.weights.tf_checkpoint import is_checkpoint_index, read_checkpoint_files
from mobilenetv2.weights.tf_slim import slim_state
from mobilenetv2.weights.tflite import Graph, read_tflite

MAX_BYTES = 1 << 30  # the largest MobileNet is a fiftieth of this
MAX_LABELS_BYTES = 1 << 20
MAX_CONFIG_BYTES = 4 << 20
_GZIP = b"\x1f\x8b"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a folder as the hub has them
_ENDINGS = (".safetensors", ".keras", ".h5", ".weights", ".index", ".ckpt", ".tgz", ".tflite", ".pth", ".pt")
_CONFIGS = ("config.json", "preprocessor_config.json")

# What torch's reader says to a file that is something else; on arbitrary bytes it stumbles in many ways.
_UNREADABLE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, EOFError, RuntimeError, OSError, AssertionError),
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError, struct.error),
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a file holds, before anyone knows which network it is of.

    kind: of the file, for people. sha256: of its content, in hex. state: arrays by the names the file has, as torch
        would name and lay them out; of a TFLite file its `graph` instead.
    labels: names of the classes, where the file has them. config: what lies beside it in a folder of a hub.
    """

    path: Path
    kind: str
    sha256: str
    state: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    graph: Graph | None = None
    labels: tuple[str, ...] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the file, without what says its kind; of a folder's, the folder's."""
        if self.path.name in _WEIGHTS:
            return self.path.resolve().parent.name
        name = self.path.name.partition(".data-")[0]
        for ending in _ENDINGS:
            name = name.removesuffix(ending)
        return name


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of any kind that is known, or a folder with one.

    Known are TFLite files, Keras' `.h5`, `.keras` and `.weights.h5`, TensorFlow checkpoints (the `.index` file, their
    prefix, a folder or a `.tgz` of one), `.safetensors`, and what torch.save writes, of which only tensors are read.
    Raises ModelFileError for everything else, and for what is damaged; MissingExtraError.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.exists() and path.with_name(f"{path.name}.index").is_file():
        path = path.with_name(f"{path.name}.index")
    content = _content(path)
    source = str(path)
    sha256 = hashlib.sha256(content).hexdigest()
    if content[4:8] == b"TFL3":
        graph = read_tflite(content, source=source)
        return Checkpoint(path=path, kind="TFLite", sha256=sha256, graph=graph, labels=_tflite_labels(content))
    if content.startswith(HDF5) or _holds(content, "model.weights.h5"):
        return Checkpoint(path=path, kind="Keras", sha256=sha256, state=read_keras(content, source=source))
    if is_checkpoint_index(content) or _is_archive(content) or _is_shard(path):
        variables = read_checkpoint_files(path)
        return Checkpoint(path=path, kind="TensorFlow", sha256=sha256, state=slim_state(variables, source=source))
    if _is_safetensors(content):
        return Checkpoint(path=path, kind="safetensors", sha256=sha256, state=_read_safetensors(content, source))
    if content.startswith((b"PK\x03\x04", b"\x80")):
        return Checkpoint(path=path, kind="torch", sha256=sha256, state=_read_torch(content, source))
    raise ModelFileError(
        f"{path}: is no checkpoint that is known; known are TFLite, Keras (.h5, .keras), TensorFlow (.index), "
        ".safetensors and .pth"
    )


def _read_folder(folder: Path) -> Checkpoint:
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        indices = sorted(folder.glob("*.index"))
        if len(indices) != 1:
            raise ModelFileError(f"{folder}: has no {_WEIGHTS[0]}, nor just one TensorFlow checkpoint; name the file")
        return read_checkpoint(indices[0])
    found = read_checkpoint(weights)
    config: dict[str, Any] = {}
    for path in (folder / name for name in _CONFIGS):
        if path.is_file():
            config |= _read_config(path)
    return Checkpoint(path=weights, kind=found.kind, sha256=found.sha256, state=found.state, config=config)


def _read_config(path: Path) -> dict[str, Any]:
    content = _content(path, MAX_CONFIG_BYTES)
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ModelFileError(f"{path}: is not a JSON object")
    return config


def _content(path: Path, limit: int = MAX_BYTES) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {reason(error)}") from error
    if len(content) > limit:
        raise ModelFileError(f"{path}: has more than {limit >> 20} MB; no MobileNet has")
    if not content:
        raise ModelFileError(f"{path}: is empty")
    return content


def _is_shard(path: Path) -> bool:
    """Whether a TensorFlow checkpoint's index lies beside it, whose data it is; data alone have no mark."""
    prefix, _, rest = path.name.partition(".data-")
    return bool(rest) and path.with_name(f"{prefix}.index").is_file()


def _is_archive(content: bytes) -> bool:
    return content.startswith(_GZIP) or content[257:262] == b"ustar"


def _holds(content: bytes, member: str) -> bool:
    """Whether it is a zip file with a file of that name in its folder."""
    if not content.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return member in archive.namelist()
    except _UNREADABLE:
        return False


def _is_safetensors(content: bytes) -> bool:
    length = int.from_bytes(content[:8], "little")
    return content[8:9] == b"{" and length <= len(content) - 8


def _read_safetensors(content: bytes, source: str) -> dict[str, NDArray[Any]]:
    length = int.from_bytes(content[:8], "little")
    if f'"{CARD_KEY}"'.encode() in content[8 : 8 + length]:
        raise ModelFileError(f"{source}: is a model file of ours already; there is nothing to convert")
    try:
        return dict(load_safetensors(content))
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelFileError(f"{source}: is not a whole .safetensors file ({error})") from error


def _read_torch(content: bytes, source: str) -> dict[str, NDArray[Any]]:
    """Only tensors, by torch's restricted reader."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("reading a .pth file", "train") from error
    try:
        with warnings.catch_warnings():
            # Of odd protocols and old formats; what it then cannot read, it says.
            warnings.simplefilter("ignore")
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ModelFileError(
            f"{source}: is not a file of tensors alone, as torch.save writes it ({type(error).__name__}); "
            "nothing in it was run"
        ) from error
    # Trainings keep more than weights; their running average is what they evaluate.
    for name in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) and not value.is_sparse
        for name, value in found.items()
    ):
        raise ModelFileError(f"{source}: holds something else than a state dict of tensors")
    return {name: as_array(value) for name, value in found.items()}


def as_array(tensor: Any) -> NDArray[Any]:
    """A torch tensor, wherever it lives -> a NumPy array. NumPy has no bfloat16: that becomes float32."""
    tensor = tensor.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


def _tflite_labels(content: bytes) -> tuple[str, ...] | None:
    """The lines of the first text file that is packed behind a TFLite file, as its metadata has it."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            member = next((each for each in archive.infolist() if each.filename.endswith(".txt")), None)
            if member is None or member.file_size > MAX_LABELS_BYTES:
                return None
            return tuple(archive.read(member).decode("utf-8").splitlines())
    except _UNREADABLE:
        # Bytes of a network that happen to look like the end of a zip file; the labels are an extra.
        return None


def read_labels(path: Path) -> tuple[str, ...]:
    """One name a line; numbers at the beginning of every line, as some lists have, are left out.

    Raises ModelFileError if it cannot be read as text.
    """
    try:
        lines = [line.strip() for line in _content(path, MAX_LABELS_BYTES).decode("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: is not text in UTF-8") from error
    lines = [line for line in lines if line]
    numbered = [line.split(maxsplit=1) for line in lines]
    if all(len(parts) == 2 and parts[0].rstrip(":,") == str(at) for at, parts in enumerate(numbered)):
        lines = [parts[1] for parts in numbered]
    return tuple(lines)
