"""OpenVINO on the CPU. It is in the extra `openvino`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import MissingExtraError, ModelFileError
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.runtime.engine import check_threads
from mobilenetv2.runtime.graph import network_graph

XML = "model.xml"


class OpenVinoEngine:
    """The network of a model file, whose graph is built in memory, or that of an export's folder."""

    def __init__(self, model: ModelFile | Path, *, threads: int | None = None) -> None:
        """`threads`: of one run; None for one a core. Raises ModelFileError if a folder's files are damaged."""
        graph = model / XML if isinstance(model, Path) else network_graph(model)
        self._network = compile_network(graph, threads=threads, source=str(model) if isinstance(model, Path) else "")

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """As `engine.Engine.run`. Every call has a request of its own, so many threads may ask at once."""
        found = self._network.create_infer_request().infer({"images": images})
        # The request's own memory goes with it.
        return tuple(np.array(found[output]) for output in self._network.outputs)


def compile_network(graph: bytes | Path, *, threads: int | None, source: str) -> Any:
    """A network ready to run, in float32 where it is not 8 bits: some processors would take bfloat16 unasked.

    graph: ONNX, or the path of an `.xml`. Raises ModelFileError, which names `source`.
    """
    check_threads(threads)
    openvino = import_openvino()
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    try:
        return core.compile_model(core.read_model(graph), "CPU", options)
    except RuntimeError as error:
        raise ModelFileError(f"{source}: is damaged, or not a model that OpenVINO can run") from error


def import_openvino() -> Any:
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MissingExtraError("OpenVINO", "openvino") from error
    return openvino
