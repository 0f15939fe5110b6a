"""What computes a network, behind one small interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import ModelFileError, UserError
from mobilenetv2.modelfile import CARD_KEY, Card, ModelFile
from mobilenetv2.runtime.graph import network_graph

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class Engine(Protocol):
    """A network ready to run."""

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 3, H, W), preprocessed -> (N, num_classes) logits."""


class OnnxRuntimeEngine:
    """A model file on the CPU by onnxruntime; the graph is built in memory."""

    def __init__(self, model: ModelFile, *, threads: int | None = None) -> None:
        self._session = open_session(network_graph(model), threads=threads)

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        (logits,) = self._session.run(["logits"], {"images": images})
        return np.asarray(logits)


class PictureEngine:
    """An exported `.onnx`, which holds its preprocessing: picture in, probabilities out."""

    def __init__(self, content: bytes, *, source: str, threads: int | None = None) -> None:
        """`source` names the file in errors. Raises ModelFileError if it is damaged, or none of ours."""
        self._refusals = _refusals()
        self._damaged = f"{source}: is damaged, or not an .onnx file that onnxruntime can run"
        try:
            self._session = open_session(content, threads=threads)
            card = self._session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
        except self._refusals as error:
            raise ModelFileError(self._damaged) from error
        if card is None:
            raise ModelFileError(f"{source}: has no model card, so it is no export of ours; see 'mobilenetv2 export'")
        self.card = Card.from_json(card, source=source)
        inputs = [(i.name, i.type) for i in self._session.get_inputs()]
        outputs = [(o.name, o.type, o.shape) for o in self._session.get_outputs()]
        if inputs != [("image", "tensor(uint8)")] or outputs != [
            ("probabilities", "tensor(float)", [len(self.card.labels)])
        ]:
            raise ModelFileError(f"{source}: its inputs and outputs are not those of its model card")

    def run(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB (height, width, 3) of any size -> (num_classes,) probabilities.

        Raises ModelFileError where damage shows only now.
        """
        try:
            (probabilities,) = self._session.run(["probabilities"], {"image": picture})
        except self._refusals as error:
            raise ModelFileError(self._damaged) from error
        return np.asarray(probabilities)


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
    if threads is not None and threads < 1:
        raise UserError(f"threads {threads} is out of range; give 1 or more")
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    # Without its fallback, which prints and tries the same again.
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"], enable_fallback=0)
