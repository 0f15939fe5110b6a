"""The other end of `worker`: a model in a process of its own, and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import Any, NamedTuple

from mobilenetv2.errors import UserError
from mobilenetv2.modelfile import Card

# What the libraries of linear algebra and OpenMP read once, when they are loaded.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Turn(NamedTuple):
    """Some runs: milliseconds of each, of each one's parts by name, and the peak memory (10^6 bytes) until now."""

    ms: list[float]
    parts: list[dict[str, float]]
    peak_rss_mb: float | None


class Accuracy(NamedTuple):
    """A share 0..1, the name of its measure in a card's metrics, and what it was measured on."""

    accuracy: float | None
    measure: str
    data: str


class Worker:
    """A model that waits in a process of its own; a context that ends it.

    cold_start_ms: from the start of the process to its first answer. The file is where the system left it, mostly in
    its cache.
    Every method raises UserError, which names the model, if the process refuses or dies.
    """

    def __init__(self, model: str, *, threads: int) -> None:
        self.model = model
        self.threads = threads
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        start = time.perf_counter()
        self._process = subprocess.Popen(  # noqa: S603  our own module, and no shell
            [sys.executable, "-P", "-m", "mobilenetv2.benchmarking.worker", model, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=thread_environment(threads),
            encoding="utf-8",
        )
        try:
            introduction = self._hear()
        except BaseException:
            self.close()
            raise
        self.cold_start_ms = (time.perf_counter() - start) * 1000
        self.engine: str = introduction["engine"]
        self.note: str = introduction["note"]
        self.precision: str = introduction["precision"]
        self.card = Card.from_json(introduction["card"], source=model)

    def run(self, *, batch: int, times: int) -> Turn:
        """Time `predict` (`predict_batch` of more than one picture) so often."""
        return Turn(**self._ask({"do": "run", "batch": batch, "times": times}))

    def evaluate(self, data: str) -> Accuracy:
        """Measure the model on a data set; raises what `evaluation.evaluate` does, too."""
        return Accuracy(**self._ask({"do": "evaluate", "data": data}))

    def close(self) -> None:
        """End the process, whatever it does: it has nothing to save."""
        self._process.kill()
        self._process.communicate()
        self._complaints.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._death() from error
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            told: str = said["error"]
            raise UserError(told if self.model in told else f"{self.model}: {told}")
        return said

    def _death(self) -> UserError:
        code = self._process.wait()
        complaint = last_line(self._complaints.fileno()) or "it said nothing"
        return UserError(
            f"{self.model}: its process ended with code {code} at {self.threads} threads ({complaint}); "
            "leave it out, or export it again"
        )


def thread_environment(threads: int) -> dict[str, str]:
    """This process's environment, in which libraries take so many threads."""
    return {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}


def last_line(file: int) -> str:
    """The last line that is not empty of an open file, printable and not too long; "" if there is none."""
    size = os.lseek(file, 0, os.SEEK_END)
    os.lseek(file, max(0, size - 4096), os.SEEK_SET)
    lines = os.read(file, 4096).decode("utf-8", "replace").strip().splitlines()
    return "".join(letter for letter in lines[-1] if letter.isprintable())[:300] if lines else ""
