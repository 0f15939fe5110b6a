"""What this machine could do at best, and how long a model would take at that speed.

    python -m mobilenetv2.benchmarking.roofline THREADS

prints what `measure` found. The peak of fused multiply-adds is that of NumPy's `sgemm` (single precision), which comes
within some per cent of it; the bandwidth is that of copying an array that no cache holds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from mobilenetv2.architecture import multiply_adds
from mobilenetv2.benchmarking.process import thread_environment
from mobilenetv2.detector import Detector, detector_multiply_adds
from mobilenetv2.errors import UserError
from mobilenetv2.modelfile import Card
from mobilenetv2.segmenter import Segmenter, segmenter_multiply_adds

MATRIX_SIDE = 1024
COPIED_BYTES = 128 * 2**20
SECONDS = 1.0  # of trying for each of the two; the best counts, as others may hold the machine


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The best of this machine at so many threads: 10^9 floating-point operations and 10^9 bytes a second.

    A multiply-add is two operations; a byte that is copied is read and written, so it counts twice.
    """

    threads: int
    gflops: float
    gb_per_s: float

    def least_ms(self, card: Card, *, batch: int, precision: str) -> float:
        """The least time for a batch: its multiply-adds at the peak, or one reading of the weights, if that is longer.

        The peak is that of single precision, so a model of integers may be faster.
        """
        compute_s = 2 * network_multiply_adds(card) * batch / (self.gflops * 1e9)
        weight_bytes = card.parameters * (1 if precision.startswith("int8") else 4)
        return max(compute_s, weight_bytes / (self.gb_per_s * 1e9)) * 1000


def network_multiply_adds(card: Card) -> int:
    """Of a model's network, for one picture."""
    network, size_hw = card.architecture, card.preprocessing.size_hw
    if isinstance(network, Detector):
        return detector_multiply_adds(network, size_hw)
    return (
        segmenter_multiply_adds(network, size_hw) if isinstance(network, Segmenter) else multiply_adds(network, size_hw)
    )


def measure_roofline(threads: int) -> Roofline:
    """In a process of its own, as BLAS reads its number of threads once. Raises UserError if that fails."""
    done = subprocess.run(  # noqa: S603  our own module, and no shell
        [sys.executable, "-P", "-m", "mobilenetv2.benchmarking.roofline", str(threads)],
        env=thread_environment(threads),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
        raise UserError(f"the speed of this machine cannot be measured with {threads} threads ({last})")
    return Roofline(**json.loads(done.stdout))


def measure(threads: int) -> Roofline:
    """In this process, whose BLAS must have that many threads already."""
    matrix = np.full((MATRIX_SIDE, MATRIX_SIDE), 0.5, np.float32)
    product = np.empty_like(matrix)
    gemm_s = _best_s(lambda: np.matmul(matrix, matrix, out=product))
    source, target = (np.ones(COPIED_BYTES // 8, np.float64) for _ in range(2))
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        # NumPy lets go of the interpreter while it copies.
        copy_s = _best_s(lambda: list(pool.map(lambda part: np.copyto(*part), parts)))
    return Roofline(threads=threads, gflops=2 * MATRIX_SIDE**3 / gemm_s / 1e9, gb_per_s=2 * COPIED_BYTES / copy_s / 1e9)


def _best_s(work: Callable[[], object]) -> float:
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    print(json.dumps(asdict(measure(int(sys.argv[1])))))
