"""What computes a network, behind one small interface."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import ModelFileError, UserError
from mobilenetv2.modelfile import CARD_KEY, Card, ModelFile
from mobilenetv2.runtime.graph import FORM_KEY, PRECISION_KEY, network_graph, raw_outputs
from mobilenetv2.runtime.graph_detect import IOU_THRESHOLD, SCORE_THRESHOLD
from mobilenetv2.runtime.graph_form import ANY_PICTURES, GraphForm

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class Engine(Protocol):
    """A network ready to run."""

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """(N, 3, H, W), preprocessed -> the raw outputs that `graph.network_graph` describes, in their order."""


@runtime_checkable
class PixelEngine(Engine, Protocol):
    """One that normalises pictures of bytes itself, while it reads them."""

    def run_pixels(self, pixels: NDArray[np.uint8], table: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """(N, H, W, 3) of the network's size; table: (3, 256), what a level of each colour is normalised to."""


class OnnxRuntimeEngine:
    """A model file on the CPU by onnxruntime; the graph is built in memory."""

    def __init__(self, model: ModelFile, *, threads: int | None = None) -> None:
        self._session = open_session(network_graph(model), threads=threads)

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        return tuple(self._session.run(None, {"images": images}))


class PictureEngine:
    """An exported `.onnx`, which holds its preprocessing: pictures in, answers out."""

    def __init__(self, content: bytes, *, source: str, threads: int | None = None) -> None:
        """`source` names the file in errors. Raises ModelFileError if it is damaged, or none of ours."""
        self._refusals = _refusals()
        self._damaged = f"{source}: is damaged, or not an .onnx file that onnxruntime can run"
        try:
            self._session = open_session(content, threads=threads)
            metadata = self._session.get_modelmeta().custom_metadata_map
            card = metadata.get(CARD_KEY)
            ports = _ports(self._session)
        except self._refusals as error:
            raise ModelFileError(self._damaged) from error
        if card is None:
            raise ModelFileError(f"{source}: has no model card, so it is no export of ours; see 'mobilenetv2 export'")
        self.card = Card.from_json(card, source=source)
        # Exports of the first versions do not say.
        self.precision = metadata.get(PRECISION_KEY, "float32")
        form = metadata.get(FORM_KEY)
        self.form = ANY_PICTURES if form is None else GraphForm.from_json(form, source=source)
        if ports != _ports_of(self.card, self.form):
            raise ModelFileError(
                f"{source}: its inputs and outputs are not those of its model card; export the model again"
            )

    def run(self, pictures: NDArray[np.uint8], score_threshold: float | None = None) -> tuple[NDArray[Any], ...]:
        """RGB (N, height, width, 3) -> the answers that `graph.picture_graph` describes, in their order.

        N, height and width are those of its `form`, where it fixes them. score_threshold: of a detector that answers
        with boxes, 0..1; None for that of its card. Raises ModelFileError where damage shows only now.
        """
        # The last axis backwards: the colours.
        inputs: dict[str, NDArray[Any]] = {"images": pictures[..., ::-1] if self.form.bgr else pictures}
        if score_threshold is not None:
            inputs[SCORE_THRESHOLD] = np.array(score_threshold, np.float32)
        try:
            outputs = tuple(self._session.run(None, inputs))
        except self._refusals as error:
            raise ModelFileError(self._damaged) from error
        if not self.form.raw and not _are_possible(outputs, pictures, self.card):
            raise ModelFileError(self._damaged)
        return outputs


def _are_possible(outputs: tuple[NDArray[Any], ...], pictures: NDArray[np.uint8], card: Card) -> bool:
    """Whether classes are those of the card and masks as large as their pictures, which `_ports` cannot tell."""
    if card.task == "classify":
        return True
    places = outputs[2 if card.task == "detect" else 0]
    if card.task == "segment" and places.shape != pictures.shape[:3]:
        return False
    return bool(places.min(initial=0) >= 0 and places.max(initial=0) < len(card.labels))


# Name, kind and shape of an input or output; sizes that are free have names.
_Port = tuple[str, str, list[Any]]


def _ports(session: InferenceSession) -> list[_Port]:
    """What a graph takes, what of it may be left out, and what it returns."""
    optional = sorted(session.get_overridable_initializers(), key=lambda port: str(port.name))
    return [(port.name, port.type, port.shape) for port in (*session.get_inputs(), *optional, *session.get_outputs())]


def _ports_of(card: Card, form: GraphForm) -> list[_Port]:
    """The same, as an export of a model with this card has it."""
    pictures = ("images", "tensor(uint8)", list(form.pictures))
    batch = form.pictures[0]
    if form.raw:
        return [pictures, *((name, "tensor(float)", [batch, *shape]) for name, shape in raw_outputs(card).items())]
    if card.task == "classify":
        return [pictures, ("probabilities", "tensor(float)", [batch, len(card.labels)])]
    if card.task == "segment":
        return [pictures, ("mask", "tensor(uint8)", list(form.pictures[:3]))]
    return [
        pictures,
        (IOU_THRESHOLD, "tensor(float)", []),
        (SCORE_THRESHOLD, "tensor(float)", []),
        ("boxes_xyxy", "tensor(float)", ["detections", 4]),
        ("scores", "tensor(float)", ["detections"]),
        ("labels", "tensor(int64)", ["detections"]),
        ("picture", "tensor(int64)", ["detections"]),
    ]


def _refusals() -> tuple[type[Exception], ...]:
    """What onnxruntime raises for a graph that it cannot load or run."""
    import onnxruntime.capi.onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
        # A damaged name or card; onnxruntime's own messages quote such names too.
        UnicodeDecodeError,
    )


def open_session(graph: bytes, *, threads: int | None) -> InferenceSession:
    """A quiet session on the CPU. `threads`: of one run; None for one a core. Raises what onnxruntime raises."""
    check_threads(threads)
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    # Without its fallback, which prints and tries the same again.
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"], enable_fallback=0)


def check_threads(threads: int | None) -> None:
    """Of one run; None for one a core. Raises UserError for 0 and less."""
    if threads is not None and threads < 1:
        raise UserError(f"threads {threads} is out of range; give 1 or more")


def all_threads() -> int:
    """As many as this process may have processors."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
