"""Networks exported to LiteRT (TensorFlow Lite), run by its interpreter with XNNPACK. It is in the extra `litert`."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import MissingExtraError, ModelFileError
from mobilenetv2.runtime.engine import check_threads
from mobilenetv2.runtime.quiet import quiet

FILE = "model.tflite"
INPUT = "images"
# The outputs of all tasks, in the order in which `graph.network_graph` has them; files order theirs as they like.
OUTPUTS = ("logits", "class_logits", "box_codes")


def tap_name(place: int) -> str:
    """Of the output that shows the result of the layer at a place, if a file has such."""
    return f"tap_{place:03d}"


class LiteRtEngine:
    """`model.tflite` on the CPU, one picture after the other."""

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        """`threads`: of one run; None for one a core. Raises ModelFileError if the file is missing or damaged."""
        check_threads(threads)
        path = folder / FILE
        self._damaged = f"{path}: is damaged, or not a network that this LiteRT can run; export the model again"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            with quiet():
                from ai_edge_litert.interpreter import Interpreter

                # It knows no number that stands for all cores.
                interpreter = Interpreter(model_content=content, num_threads=threads or os.cpu_count() or 1)
                interpreter.allocate_tensors()
                self._signature = interpreter.get_signature_runner()
        except ModuleNotFoundError as error:
            raise MissingExtraError("the engine 'litert'", "litert") from error
        # What it raises for other files, for layers that it does not have, and for a file without signature.
        except (ValueError, RuntimeError) as error:
            raise ModelFileError(self._damaged) from error
        inputs, outputs = self._signature.get_input_details(), self._signature.get_output_details()
        taps = [name for name in map(tap_name, range(len(outputs))) if name in outputs]
        self._outputs = [*(name for name in OUTPUTS if name in outputs), *taps]
        if set(inputs) != {INPUT} or set(outputs) != set(self._outputs):
            raise ModelFileError(self._damaged)
        self._shape = tuple(int(size) for size in inputs[INPUT]["shape"])
        self._turn = threading.Lock()

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """(N, 3, H, W), preprocessed -> the raw outputs that `graph.network_graph` describes, in their order.

        Safe to call from several threads, which wait for each other. Raises ModelFileError where damage shows only now.
        """
        pictures = np.moveaxis(images, 1, 3)
        if (1, *pictures.shape[1:]) != self._shape:
            raise ModelFileError(f"{self._damaged} (it takes {self._shape}, and the pictures are {pictures.shape})")
        try:
            with self._turn:
                answers = [self._signature(**{INPUT: np.ascontiguousarray(picture[None])}) for picture in pictures]
        except (ValueError, RuntimeError) as error:
            raise ModelFileError(self._damaged) from error
        return tuple(_channels_first(np.concatenate([answer[name] for answer in answers])) for name in self._outputs)


def _channels_first(values: NDArray[Any]) -> NDArray[Any]:
    """Maps, (N, H, W, C), as (N, C, H, W); anything else as it is."""
    return np.ascontiguousarray(np.moveaxis(values, 3, 1)) if values.ndim == 4 else values
