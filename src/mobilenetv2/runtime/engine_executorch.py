"""Networks exported to ExecuTorch, run by its own runtime."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import MissingExtraError, ModelFileError, UserError
from mobilenetv2.runtime.engine import check_threads
from mobilenetv2.runtime.quiet import quiet

FILE = "model.pte"


class ExecuTorchEngine:
    """`model.pte` on the CPU by ExecuTorch, one picture after the other."""

    # One pool of threads serves the whole process, and engines hold on to the pool that they began with.
    _pool = threading.Lock()
    _alive: ClassVar[weakref.WeakSet[ExecuTorchEngine]] = weakref.WeakSet()

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        """`threads`: of one run; None for what the process has, at first one a core.

        ExecuTorch has one number of threads for the whole process, so engines that are alive together share it.
        Raises ModelFileError if the file is missing or damaged; UserError if another engine has other threads.
        """
        check_threads(threads)
        path = folder / FILE
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
        self._damaged = f"{path}: is damaged, or not a network that this ExecuTorch can run; export the model again"
        with self._pool:
            runtime = _open_runtime(threads, others=len(self._alive))
            try:
                with quiet():
                    # The method reads the program's memory but does not keep it.
                    self._program = runtime.load_program(content)
                    self._method = self._program.load_method("forward")
                    shape = self._method.metadata.input_tensor_meta(0).sizes()
            # A KeyError: it has another method. An IndexError: it takes nothing.
            except (RuntimeError, KeyError, IndexError) as error:
                raise ModelFileError(self._damaged) from error
            self._alive.add(self)
        self._shape = tuple(shape)
        self._turn = threading.Lock()

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """(N, 3, H, W), preprocessed -> the raw outputs that `graph.network_graph` describes, in their order.

        Safe to call from several threads, which wait for each other. Raises ModelFileError where damage shows only now.
        """
        if (1, *images.shape[1:]) != self._shape:
            raise ModelFileError(f"{self._damaged} (it takes {self._shape}, and the pictures are {images.shape})")
        import torch

        pictures = torch.from_numpy(np.array(images, np.float32))
        try:
            with self._turn:
                answers = [self._method.execute([picture[None]]) for picture in pictures]
        except RuntimeError as error:
            raise ModelFileError(self._damaged) from error
        return tuple(torch.cat(parts).numpy() for parts in zip(*answers, strict=True))


def _open_runtime(threads: int | None, *, others: int) -> Any:
    """ExecuTorch with so many threads. Raises MissingExtraError, and UserError if others run with another number."""
    try:
        with quiet():
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime

            present = portable_lib._threadpool_get_thread_count()
            if threads not in (None, present) and not others:
                portable_lib._unsafe_reset_threadpool(threads)
                present = threads
    except ModuleNotFoundError as error:
        raise MissingExtraError("the engine 'executorch'", "executorch") from error
    if threads not in (None, present):
        raise UserError(f"threads {threads} is not possible beside an engine of ExecuTorch that has {present}")
    return Runtime.get()
