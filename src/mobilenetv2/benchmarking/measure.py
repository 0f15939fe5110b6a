"""Any set of models side by side: interleaved rounds, each model in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mobilenetv2.benchmarking.process import Accuracy, Turn, Worker
from mobilenetv2.benchmarking.report import BenchmarkReport, BenchmarkRow, Latency
from mobilenetv2.benchmarking.roofline import Roofline, measure_roofline
from mobilenetv2.errors import UserError
from mobilenetv2.runtime.engine import all_threads
from mobilenetv2.runtime.predictor import find_model

BATCHES = (1, 2, 4, 8, 16, 32)
RUNS_A_TURN = 3  # of one picture; a batch is run once, being as long as several
LEAST_ROUNDS = 5  # of a large batch
STARTS = 3


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A model at one number of threads, in its place, and what is gathered of it."""

    place: int
    model: str
    threads: int
    starts_ms: list[float] = field(default_factory=list)
    turns: dict[int, list[Turn]] = field(default_factory=dict)  # by batch


def benchmark(
    models: Sequence[str],
    *,
    threads: Sequence[int] | None = None,
    batches: Sequence[int] = BATCHES,
    rounds: int = 30,
    data: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchmarkReport:
    """Latency, throughput, memory, cold start, size and, with `data`, accuracy of each model.

    Each model at each number of threads waits in a process of its own, and they take turns: a round asks each once
    for a few runs, so that what slows the machine slows all of them. The first round is not counted. Accuracy comes
    first, with all threads, in processes of its own: an error of the data shows at once.

    models: whatever `runtime.predictor.load` takes. threads: None for 1 and one a processor. batches: pictures at once;
    measured in growing order. rounds: of one picture, 1 or more; a batch of b pictures has a b-th of them, though at
    least 5. data: a data set with labels, which every model must know. progress: is told what is being done.
    Raises UserError, which names the model where one refuses or its process dies.
    """
    counts = tuple(sorted(set(threads if threads is not None else (1, all_threads()))))
    sizes = tuple(sorted(set(batches)))
    _check(models, counts, sizes, rounds)
    file_mb = [_size_mb(find_model(model)) for model in models]
    accuracies: list[Accuracy | None] = [None] * len(models)
    if data is not None:
        accuracies = [_accuracy(model, counts[-1], data, progress) for model in models]
    progress("the speed of this machine")
    rooflines = {count: measure_roofline(count) for count in counts}
    subjects = [
        _Subject(place=place, model=model, threads=count) for place, model in enumerate(models) for count in counts
    ]
    rows: list[BenchmarkRow] = []
    with ExitStack() as stack:
        workers = _started(subjects, stack, progress)
        for batch in sizes:
            _take_turns(subjects, workers, batch, rounds, progress)
        for subject, worker in zip(subjects, workers, strict=True):
            roofline, accuracy = rooflines[subject.threads], accuracies[subject.place]
            rows += [_row(subject, worker, batch, roofline, file_mb[subject.place], accuracy) for batch in sizes]
    return BenchmarkReport(rows=tuple(rows), batches=sizes, rooflines=tuple(rooflines.values()))


def _check(models: Sequence[str], threads: Sequence[int], batches: Sequence[int], rounds: int) -> None:
    if not models:
        raise UserError("there is no model to benchmark; give one or more")
    for name, values in (("threads", threads), ("batches", batches), ("rounds", [rounds])):
        if not values or min(values) < 1:
            shown = ", ".join(map(str, values)) or "none"
            raise UserError(f"{name} {shown}: out of range; give 1 or more")


def _accuracy(model: str, threads: int, data: Path, progress: Callable[[str], None]) -> Accuracy:
    progress(f"{model}: accuracy on {data}")
    with Worker(model, threads=threads) as worker:
        return worker.evaluate(os.fspath(data))


def _started(subjects: Sequence[_Subject], stack: ExitStack, progress: Callable[[str], None]) -> list[Worker]:
    """Every worker started several times, in turns; the last ones stay, until the stack is left."""
    for start in range(STARTS):
        workers = []
        for subject in subjects:
            progress(f"{subject.model}: start {start + 1} of {STARTS}, threads {subject.threads}")
            worker = Worker(subject.model, threads=subject.threads)
            subject.starts_ms.append(worker.cold_start_ms)
            if worker.note and start == 0:
                progress(f"{subject.model}: {worker.note}")
            if start < STARTS - 1:
                worker.close()
            else:
                workers.append(stack.enter_context(worker))
    return workers


def _take_turns(
    subjects: Sequence[_Subject],
    workers: Sequence[Worker],
    batch: int,
    rounds: int,
    progress: Callable[[str], None],
) -> None:
    count = min(rounds, max(LEAST_ROUNDS, rounds // batch))
    for number in range(count + 1):
        progress(f"batch {batch}: round {number} of {count}")
        for subject, worker in zip(subjects, workers, strict=True):
            turn = worker.run(batch=batch, times=RUNS_A_TURN if batch == 1 else 1)
            if number:
                subject.turns.setdefault(batch, []).append(turn)


def _row(
    subject: _Subject, worker: Worker, batch: int, roofline: Roofline, file_mb: float, accuracy: Accuracy | None
) -> BenchmarkRow:
    turns = subject.turns[batch]
    rounds_ms = np.array([turn.ms for turn in turns])
    parts = [run for turn in turns for run in turn.parts]
    return BenchmarkRow(
        model=subject.model,
        task=worker.card.task,
        engine=worker.engine,
        precision=worker.precision,
        threads=subject.threads,
        batch=batch,
        latency=Latency.of(rounds_ms),
        parts_ms={name: float(np.median([run[name] for run in parts])) for name in parts[0]},
        runs=rounds_ms.size,
        peak_rss_mb=turns[-1].peak_rss_mb,
        cold_start_ms=float(np.median(subject.starts_ms)),
        file_mb=file_mb,
        roofline_ms=roofline.least_ms(worker.card, batch=batch, precision=worker.precision),
        **({} if accuracy is None else accuracy._asdict()),
    )


def _size_mb(path: Path) -> float:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1e6
