"""What was measured of a set of models: rows, JSON, a table, a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.benchmarking.roofline import Roofline

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds: percentiles of single runs, and the 95 % confidence interval of the median (`low` to `high`)."""

    p50: float
    p90: float
    p99: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds_ms: NDArray[np.float64], *, seed: int = 0) -> Latency:
        """rounds_ms: (rounds, runs of a round).

        The interval is a bootstrap over whole rounds, not runs: what slows the machine falls on a round's runs alike.
        """
        p50, p90, p99 = np.percentile(rounds_ms, (50, 90, 99))
        picked = np.random.default_rng(seed).integers(len(rounds_ms), size=(RESAMPLES, len(rounds_ms)))
        medians = np.median(rounds_ms[picked].reshape(RESAMPLES, -1), axis=1)
        low, high = np.percentile(medians, (2.5, 97.5))
        return cls(p50=float(p50), p90=float(p90), p99=float(p99), low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """One model at one number of threads and pictures at once.

    model: as it was given. latency: of a whole `predict`, or `predict_batch` of more than one, of decoded pictures.
    parts_ms: medians of its parts, summed over the pictures; where the file does its own preprocessing, that is part of
        "network". runs: how many were timed.
    peak_rss_mb: the most memory the process held until then, batches growing; None on Windows. cold_start_ms: from the
        start of a process to its first answer. file_mb: of all files of a folder. Both MB are 10^6 bytes.
    roofline_ms: see `Roofline.least_ms`.
    accuracy: a share 0..1 by `measure` ("top1", "AP50", "miou") on `data`; None where no data was given.
    """

    model: str
    task: str
    engine: str
    precision: str
    threads: int
    batch: int
    latency: Latency
    parts_ms: dict[str, float]
    runs: int
    peak_rss_mb: float | None
    cold_start_ms: float
    file_mb: float
    roofline_ms: float
    accuracy: float | None = None
    measure: str | None = None
    data: str | None = None

    @property
    def images_per_s(self) -> float:
        return 1000 * self.batch / self.latency.p50

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `benchmark --json` prints them; times to .001 ms."""
        latency = self.latency
        return {
            "model": self.model,
            "task": self.task,
            "engine": self.engine,
            "precision": self.precision,
            "threads": self.threads,
            "batch": self.batch,
            "latency_ms": {"p50": round(latency.p50, 3), "p90": round(latency.p90, 3), "p99": round(latency.p99, 3)},
            "p50_interval_ms": [round(latency.low, 3), round(latency.high, 3)],
            "parts_ms": {part: round(ms, 3) for part, ms in self.parts_ms.items()},
            "runs": self.runs,
            "images_per_s": round(self.images_per_s, 2),
            "peak_rss_mb": None if self.peak_rss_mb is None else round(self.peak_rss_mb, 1),
            "cold_start_ms": round(self.cold_start_ms, 1),
            "file_mb": round(self.file_mb, 3),
            "roofline_ms": round(self.roofline_ms, 4),
            "accuracy": self.accuracy,
            "measure": self.measure,
            "data": self.data,
        }


@dataclass(frozen=True, kw_only=True)
class BenchmarkReport:
    """rows: by model, then threads, then batch, as `batches` has them. rooflines: one for each number of threads."""

    rows: tuple[BenchmarkRow, ...]
    batches: tuple[int, ...]
    rooflines: tuple[Roofline, ...]

    @property
    def groups(self) -> list[tuple[BenchmarkRow, ...]]:
        """The rows of each model and number of threads, one for each batch."""
        step = len(self.batches)
        return [self.rows[start : start + step] for start in range(0, len(self.rows), step)]

    @property
    def names(self) -> list[str]:
        """What to call the model of each group: the end of its path, where that tells all paths apart."""
        given = [group[0].model for group in self.groups]
        short = {model: Path(model).name for model in given}
        return [short[model] for model in given] if len(set(short.values())) == len(short) else given

    def to_json_lines(self) -> str:
        """An object a line for each row."""
        return "\n".join(json.dumps(row.to_dict(), ensure_ascii=False) for row in self.rows)

    def to_text(self) -> str:
        """For a terminal: latency at the smallest batch, throughput at all, and what this machine could do."""
        least = self.batches[0]
        parts = [
            f"One `predict` of {least} picture{'s' * (least > 1)}, {self.rows[0].runs} runs in interleaved rounds",
            _aligned([_LATENCY_HEADER, *map(_latency_cells, self.names, self.groups)]),
        ]
        if len(self.batches) > 1:
            header = ["images a second at batch", "threads", *map(str, self.batches)]
            lines = [
                [name, str(group[0].threads), *(f"{row.images_per_s:.1f}" for row in group)]
                for name, group in zip(self.names, self.groups, strict=True)
            ]
            parts.append(_aligned([header, *lines]))
        parts.append("\n".join(self._notes()))
        return "\n\n".join(parts)

    def picture(self) -> bytes:
        """Latency, throughput and, where it was measured, accuracy, as PNG. Raises MissingExtraError."""
        from mobilenetv2.benchmarking.picture import benchmark_png

        return benchmark_png(self)

    def _notes(self) -> list[str]:
        speeds = "; ".join(
            f"{roof.threads} thread{'s' * (roof.threads > 1)}: {roof.gflops:.1f} GFLOP/s, {roof.gb_per_s:.1f} GB/s"
            for roof in self.rooflines
        )
        notes = [
            f"This machine, measured by NumPy's sgemm and a copy: {speeds}.",
            "roof: the least ms that the multiply-adds (in single precision) or one reading of the weights take so.",
            "[ ]: 95 % confidence interval of p50. start: from a process's start to its first answer, files cached.",
        ]
        notes += sorted({f"{row.measure}: on {row.data}." for row in self.rows if row.data})
        return notes


_NUMBERS = ("p50 ms", "[95 %]", "p90", "p99", "roof", "peak MB", "start ms", "file MB")
_LATENCY_HEADER = ("model", "engine", "precision", "threads", *_NUMBERS, "accuracy")


def _latency_cells(name: str, group: tuple[BenchmarkRow, ...]) -> list[str]:
    row = group[0]
    latency = row.latency
    peak = "-" if row.peak_rss_mb is None else f"{row.peak_rss_mb:.0f}"
    return [
        name,
        row.engine,
        row.precision,
        str(row.threads),
        f"{latency.p50:.2f}",
        f"[{latency.low:.2f}, {latency.high:.2f}]",
        f"{latency.p90:.2f}",
        f"{latency.p99:.2f}",
        f"{row.roofline_ms:.2f}",
        peak,
        f"{row.cold_start_ms:.0f}",
        f"{row.file_mb:.2f}",
        "-" if row.accuracy is None else f"{row.accuracy:.2%} {row.measure}",
    ]


def _aligned(cells: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: text to the left, numbers to the right. Letters of some scripts are two cells wide."""
    from rich.cells import cell_len

    widths = [max(cell_len(line[column]) for line in cells) for column in range(len(cells[0]))]
    numeric = [not any(letter.isalpha() for letter in text.partition(" ")[0]) for text in cells[-1]]
    lines = []
    for line in cells:
        padded = []
        for text, width, right in zip(line, widths, numeric, strict=True):
            space = " " * (width - cell_len(text))
            padded.append(space + text if right else text + space)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
