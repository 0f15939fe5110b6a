"""The model file: weights and a card in one `.safetensors`. Nothing else is needed to run it."""

from __future__ import annotations

import json
import math
import reprlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from mobilenetv2.architecture import Architecture, ParameterShape, count_parameters, parameter_shapes
from mobilenetv2.detector import Detector, detector_shapes
from mobilenetv2.errors import ModelFileError, UserError, did_you_mean
from mobilenetv2.files import reason, write_aside
from mobilenetv2.numerics import NUMERICS
from mobilenetv2.postprocessing import Postprocessing
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.segmenter import Segmenter, segmenter_shapes

Tensors = dict[str, NDArray[Any]]

FORMAT = 1
CARD_KEY = "mobilenetv2_card"
Network = Architecture | Detector | Segmenter
# The record that describes a task's network.
NETWORKS: dict[str, type[Network]] = {"classify": Architecture, "detect": Detector, "segment": Segmenter}
MAX_HEADER_BYTES = 16 * 2**20
LEAST_TRAILING = 31  # pixels a side, of which "trailing" padding leaves one after five strides


def tensor_shapes(architecture: Network) -> list[ParameterShape]:
    """Name and shape of every tensor of a model file, in the order of the torch module."""
    if isinstance(architecture, Detector):
        return detector_shapes(architecture)
    return segmenter_shapes(architecture) if isinstance(architecture, Segmenter) else parameter_shapes(architecture)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model is, what it needs and what it reached; JSON in the metadata of the model file.

    architecture: a `Detector` where the task is "detect", a `Segmenter` where it is "segment".
    labels: class names in the order of the outputs; of a detector without the background.
    postprocessing: of a detector alone, and always there.
    metrics: shares 0..1 by name, with "data" naming what they were measured on.
    training: how the weights came to be; plain values.
    activation_ranges: least and largest value of results in the quantised network that the weights come from, for who
        quantises them again: by the names of convolutions, "NAME.add" and "NAME.pool" of their sums and means, and
        "images"; empty where there was none.
    activation_levels: to how many levels the runtime rounds these results, so that it answers as that network does;
        0 for none. Training does not.
    """

    name: str
    task: str
    architecture: Network
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    postprocessing: Postprocessing | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    licence: str = "unknown"
    description: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    activation_ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    activation_levels: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.task, str) or self.task not in NETWORKS:
            raise UserError(f"task {self.task!r} is not known; it can be {' or '.join(map(repr, NETWORKS))}")
        detects = self.task == "detect"
        if type(self.architecture) is not NETWORKS[self.task]:
            raise UserError(f"task {self.task!r} cannot have {self.architecture.name!r} as its network")
        if (self.postprocessing is not None) is not detects:
            raise UserError(f"task {self.task!r} {'needs' if detects else 'has no'} postprocessing")
        if self.task != "classify" and self.preprocessing.resize != "stretch":
            # Boxes and masks are of the whole picture.
            raise UserError(
                f"resize {self.preprocessing.resize!r} is not possible for task {self.task!r}; it needs 'stretch'"
            )
        for name, ends in self.activation_ranges.items():
            if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or not ends[0] < ends[1]:
                raise UserError(f"activation range {ends!r} of {name!r} must be its least and its largest value")
            if not ends[0] <= 0 <= ends[1]:
                raise UserError(f"activation range {ends!r} of {name!r} must hold 0, which padding is made of")
        if self.activation_levels not in (0, 256):
            raise UserError(f"activation levels {self.activation_levels!r} are not possible; there can be 0 or 256")
        if (
            NUMERICS[self.architecture.numerics].padding == "trailing"
            and min(self.preprocessing.size_hw) < LEAST_TRAILING
        ):
            raise UserError(
                f"numerics {self.architecture.numerics!r} need {LEAST_TRAILING} pixels a side, not "
                "{}x{}; or take 'tf'".format(*self.preprocessing.size_hw)
            )
        if len(self.labels) != self.architecture.num_classes:
            raise UserError(f"{len(self.labels)} labels, but the network has {self.architecture.num_classes} outputs")

    @property
    def classifier(self) -> Architecture:
        """The network of a classifier. Raises UserError if the model does something else."""
        if not isinstance(self.architecture, Architecture):
            raise UserError(f"model {self.name!r} is for task {self.task!r}, not 'classify'")
        return self.architecture

    @property
    def detection(self) -> tuple[Detector, Postprocessing]:
        """The network of a detector and what follows it. Raises UserError if the model does something else."""
        if not isinstance(self.architecture, Detector) or self.postprocessing is None:
            raise UserError(f"model {self.name!r} is for task {self.task!r}, not 'detect'")
        return self.architecture, self.postprocessing

    @property
    def segmenter(self) -> Segmenter:
        """The network of a segmenter. Raises UserError if the model does something else."""
        if not isinstance(self.architecture, Segmenter):
            raise UserError(f"model {self.name!r} is for task {self.task!r}, not 'segment'")
        return self.architecture

    @property
    def parameters(self) -> int:
        """Trained numbers, with those of batch norm."""
        return count_parameters(tensor_shapes(self.architecture))

    def to_json(self) -> str:
        values = asdict(self)
        if self.postprocessing is None:
            del values["postprocessing"]  # which older versions do not know
        if not self.activation_ranges:
            del values["activation_ranges"], values["activation_levels"]
        return json.dumps({"format": FORMAT, **values}, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Card:
        """Read a card. `source` names the file in errors. Raises ModelFileError."""
        try:
            values = json.loads(text, parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError) as error:
            raise ModelFileError(f"{source}: its model card is not JSON ({error})") from error
        if not isinstance(values, dict):
            raise ModelFileError(f"{source}: its model card is not a JSON object")
        found = values.pop("format", None)
        if not isinstance(found, int) or found < 1:
            raise ModelFileError(f"{source}: its model card has no format version")
        if found > FORMAT:
            raise ModelFileError(
                f"{source}: written in format {found}, this version reads up to {FORMAT}; "
                "pip install --upgrade mobilenetv2"
            )
        try:
            # An unknown task is refused with the others, below.
            kind = NETWORKS.get(str(values["task"]), Architecture)
            values["architecture"] = _record(kind, values["architecture"])
            values["preprocessing"] = _record(Preprocessing, values["preprocessing"])
            if values.get("postprocessing") is not None:
                values["postprocessing"] = _record(Postprocessing, values["postprocessing"])
            ranges = values.get("activation_ranges", {})
            if isinstance(ranges, dict):
                values["activation_ranges"] = {name: _frozen(ends) for name, ends in ranges.items()}
            card: Card = _record(cls, values)
        except KeyError as error:
            raise ModelFileError(f"{source}: its model card lacks {error}") from error
        except (TypeError, ValueError, RecursionError, UserError) as error:
            raise ModelFileError(f"{source}: its model card is not valid: {error}") from error
        return card


def _record(kind: type[Any], values: dict[str, Any]) -> Any:
    """Build a record from JSON: lists become tuples; unknown or missing keys and other kinds of values are errors."""
    if not isinstance(values, dict):
        raise ValueError(f"{kind.__name__} is not a JSON object")
    known, hints = {f.name for f in fields(kind)}, get_type_hints(kind)
    for key in values:
        if key not in known:
            raise ValueError(f"{kind.__name__} has no {key!r}{did_you_mean(key, known)}")
    wrong = next((key for key, value in values.items() if not _fits(value, hints[key])), None)
    complaint = f"{kind.__name__} cannot have {reprlib.repr(values[wrong])} as its {wrong}" if wrong else ""
    try:
        record = kind(**{key: _frozen(value) for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(complaint or error) from error
    # What the record itself says of a value is clearer, so it comes first.
    if complaint:
        raise ValueError(complaint)
    return record


def _fits(value: object, hint: Any) -> bool:
    """Whether a value from JSON is of the kind that a record's field has; of its range the record knows more."""
    origin, of = get_origin(hint), get_args(hint)
    if origin is Literal:
        return isinstance(value, str)
    if origin is tuple:
        if not isinstance(value, list):
            return False
        kinds = of[:1] * len(value) if of[-1] is ... else of
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if hint in (int, float):
        # True is an int to Python, but no number.
        return type(value) is int or (hint is float and type(value) is float)
    return isinstance(value, dict if origin is dict else hint)


def _finite(text: str) -> float:
    """A number of JSON; Python's reader takes NaN and infinities too."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number in JSON")
    return value


def _frozen(value: Any) -> Any:
    """Lists inside lists as tuples inside tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelFile:
    """A card and the tensors that its architecture names, as float32 (but see `load_model_file`)."""

    card: Card
    tensors: Tensors

    def __post_init__(self) -> None:
        _check_tensors(self.tensors, self.card.architecture, source=self.card.name)

    def save(self, path: Path, *, half: bool = False) -> None:
        """Write aside and rename. With `half`, kernels are stored as float16 and batch norm as float32.

        Raises UserError if the place cannot be written, or a kernel does not fit float16.
        """
        stored = {}
        for name, tensor in self.tensors.items():
            with np.errstate(over="ignore"):  # found by the next line
                stored[name] = np.asarray(tensor, np.float16 if half and tensor.ndim > 1 else np.float32, order="C")
            if not np.isfinite(stored[name]).all():
                raise UserError(f"{path}: {name!r} does not fit float16; save it in float32")
        write_aside(path, save_safetensors(stored, metadata={CARD_KEY: self.card.to_json()}))


def load_model_file(path: Path, *, to_run: bool = False) -> ModelFile:
    """Read and check a model file. Raises ModelFileError for anything that could not be run safely.

    to_run: kernels that a batch norm is folded into stay float16 where they are stored so. Who runs a model reads each
    of them once, and need not have all of them in memory twice as large.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {reason(error)}") from error
    return parse_model_file(content, source=str(path), to_run=to_run)


def parse_model_file(content: bytes, *, source: str, to_run: bool = False) -> ModelFile:
    """The same from memory; `source` names it in errors."""
    card = Card.from_json(card_text(content, source), source=source)
    try:
        tensors = load_safetensors(content)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ModelFileError(f"{source}: damaged or cut off ({error})") from error
    _check_tensors(tensors, card.architecture, source=source)

    def kind(name: str) -> type[np.floating[Any]]:
        stays = to_run and name.endswith(".conv.weight") and tensors[name].dtype == np.float16
        return np.float16 if stays else np.float32

    return ModelFile(
        card=card,
        tensors={name: tensors[name].astype(kind(name), copy=False) for name, _ in tensor_shapes(card.architecture)},
    )


def card_text(content: bytes, source: str) -> str:
    """The card out of the safetensors header: 8 bytes of length, then JSON (safetensors has no reader for it)."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, MAX_HEADER_BYTES):
        raise ModelFileError(f"{source}: is not a .safetensors file, or is cut off")
    try:
        header = json.loads(content[8 : 8 + length])
        text = header.get("__metadata__", {}).get(CARD_KEY)
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{source}: is not a .safetensors file") from error
    if text is None:
        raise ModelFileError(f"{source}: has weights but no model card; 'mobilenetv2 convert' makes a model file of it")
    if not isinstance(text, str):
        raise ModelFileError(f"{source}: its model card is not text")
    return text


def _check_tensors(tensors: Tensors, architecture: Network, *, source: str) -> None:
    expected = dict(tensor_shapes(architecture))
    for name, shape in expected.items():
        if name not in tensors:
            raise ModelFileError(f"{source}: lacks the tensor {name!r} of its architecture")
        tensor = tensors[name]
        if tensor.shape != shape:
            raise ModelFileError(f"{source}: {name!r} has shape {tensor.shape}, its architecture needs {shape}")
        if tensor.dtype.kind != "f":
            raise ModelFileError(f"{source}: {name!r} holds {tensor.dtype}, not floating point")
        if not np.isfinite(tensor).all():
            raise ModelFileError(f"{source}: {name!r} holds NaN or infinity")
        if name.endswith("running_var") and (tensor < 0).any():
            raise ModelFileError(f"{source}: {name!r} holds negative variances")
    for name in tensors:
        if name not in expected:
            raise ModelFileError(f"{source}: has a tensor {name!r} that its architecture does not know")
