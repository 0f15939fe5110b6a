"""The fused engine against others: the network alone, each engine in a process of its own, by turns.

    python benchmarks/engines.py [--threads 1 2] [--rounds 15] [--only TEXT] [--precision int8]
                                 [--python NAME=PATH ...] [--keep FOLDER]

Random weights, which take as long as any; widths and sizes of the paper's Table 4, SSDLite at 320, and DeepLabv3 for
pictures of 480 x 360. Prints a row of a Markdown table for each network and number of threads: medians in ms, how many
times as long as the fused engine the fastest of the others takes, and how many times as long the fused engine takes as
its multiply-adds would at the speed of a burst on each thread, in float32 whatever the precision.

A turn is two runs that do not count and five that do, or fewer where they are long. Others wait meanwhile, and there
is a pause before it, until their threads sleep: some spin for milliseconds after a run. Before and after it stands a
burst of multiply-adds on as many threads; where one takes more than 1.15 times as long as the row's best, the turn
does not count. An engine runs in this Python if that has what it needs, else in `.export/NAME/bin/python` of
`make test-export`, or where --python says. One that is not there, or does not know the network, is left out.

Exports take minutes. --keep FOLDER has them stay for other runs of the same code; --rounds 0 makes no more than them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from engine_worker import CALIBRATION, MODEL, OWN_LEVELS

from conftest import make_random_detector, make_random_model, make_random_segmenter
from mobilenetv2 import _native
from mobilenetv2.benchmarking.process import thread_environment
from mobilenetv2.benchmarking.roofline import network_multiply_adds
from mobilenetv2.exports import export
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.quantization.prepare import Preparation, prepare

FUSED = "native"
# What tells whether a Python can export for an engine and run it.
ENGINES = {
    FUSED: "mobilenetv2._native",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "litert": "litert_torch",
    "ncnn": "pnnx",
    "executorch": "executorch",
}
PAUSE_SECONDS = 0.05
# A third of a millisecond each. The first ones wake the processor.
BURST_ROUNDS, WAKING, BURSTS = 100_000, 4, 9
NOISE = 1.15
CALIBRATION_PICTURES = 1

Worker = subprocess.Popen[str]


class Case(NamedTuple):
    name: str
    make: Callable[[], ModelFile]
    pictures: int = 1


def classifier(width: float, side: int) -> ModelFile:
    return make_random_model(preprocessing=Preprocessing(size_hw=(side, side)), width=width, num_classes=1000)


def cases() -> Iterator[Case]:
    for width in (0.35, 0.5, 0.75, 1.0, 1.4):
        yield Case(f"MobileNetV2 {width} @ 224", partial(classifier, width, 224))
    for side in (96, 128, 160, 192, 320):
        yield Case(f"MobileNetV2 1.0 @ {side}", partial(classifier, 1.0, side))
    yield Case("MobileNetV2 1.0 @ 224, 8 pictures", partial(classifier, 1.0, 224), pictures=8)
    size = Preprocessing(size_hw=(320, 320))
    yield Case("SSDLite 1.0 @ 320", partial(make_random_detector, preprocessing=size, width=1.0, num_classes=80))
    # The next sides of 16 k + 1, which `camvid` has.
    wide = Preprocessing(size_hw=(369, 481))
    make = partial(make_random_segmenter, preprocessing=wide, width=1.0, num_classes=21)
    yield Case("DeepLabv3 1.0 @ 369 x 481", make)


def save(model: ModelFile, precision: str, folder: Path) -> None:
    """Whatever `engine_worker` wants there."""
    if precision == "int8":
        shape = (CALIBRATION_PICTURES, 3, *model.card.preprocessing.size_hw)
        images = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
        np.save(folder / CALIBRATION, images)
        prepare(model, images, Preparation(levels=export.OWN_LEVELS)).save(folder / OWN_LEVELS)
        model = prepare(model, images)
    model.save(folder / MODEL)


def start(name: str, python: str, folder: Path, threads: int, pictures: int) -> Worker:
    script = Path(__file__).with_name("engine_worker.py")
    return subprocess.Popen(
        [python, str(script), name, str(folder), str(threads), str(pictures)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=thread_environment(threads),
        encoding="utf-8",
    )


def hear(worker: Worker) -> dict[str, Any]:
    assert worker.stdout
    line = worker.stdout.readline()
    found: dict[str, Any] = json.loads(line) if line else {"error": f"its process ended with code {worker.wait()}"}
    return found


def turn(worker: Worker) -> float:
    """Seconds of a run."""
    assert worker.stdin
    worker.stdin.write("go\n")
    worker.stdin.flush()
    found = hear(worker)
    if "error" in found:
        raise SystemExit(found["error"])
    return float(found["seconds"])


def burst(threads: int) -> float:
    """Seconds of an operation on each of so many threads at once: the slowest of the medians of some bursts."""
    with ThreadPoolExecutor(threads) as pool:
        return max(pool.map(lambda _: one_burst(), range(threads)))


def one_burst() -> float:
    found = []
    for _ in range(WAKING + BURSTS):
        began = time.perf_counter()
        operations = _native.burst(BURST_ROUNDS)
        found.append((time.perf_counter() - began) / operations)
    return statistics.median(found[WAKING:])


def measure(workers: dict[str, Worker], threads: int, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Of each engine seconds of a run in every turn that counts; and the best burst."""
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    best = math.inf
    for _ in range(rounds):
        for name, worker in workers.items():
            time.sleep(PAUSE_SECONDS)
            before, taken, after = burst(threads), turn(worker), burst(threads)
            best = min(best, before, after)
            turns[name].append((max(before, after), taken))
    quiet = {name: [taken for slower, taken in found if slower <= NOISE * best] for name, found in turns.items()}
    return quiet, best


def cells(times: dict[str, list[float]], rounds: int, peak: float, least: float) -> Iterator[str]:
    """Of a row. times: of turns that count. peak: operations a second. least: seconds that a run would take at it."""
    medians = {name: statistics.median(found) for name, found in times.items() if found}
    for name in ENGINES:
        yield f"{medians[name] * 1e3:.2f}" if name in medians else "-"
    others = [name for name in medians if name != FUSED]
    fastest = min(others, key=medians.__getitem__, default="")
    yield f"{medians[fastest] / medians[FUSED]:.2f} ({fastest})" if FUSED in medians and fastest else "-"
    yield f"{medians[FUSED] / least:.2f}" if FUSED in medians else "-"
    counts = [len(found) for found in times.values()]
    yield f"{peak / 1e9:.0f}"
    yield f"{min(counts)} to {max(counts)} of {rounds}"


def run_case(case: Case, folder: Path, options: argparse.Namespace, pythons: dict[str, str]) -> None:
    model, engines = case.make(), dict(pythons)
    if not (folder / MODEL).exists():
        folder.mkdir(parents=True, exist_ok=True)
        save(model, options.precision, folder)
    operations = 2 * network_multiply_adds(model.card) * case.pictures
    for threads in options.threads:
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for engine, python in list(engines.items()):
                workers[engine] = stack.enter_context(start(engine, python, folder, threads, case.pictures))
                if refusal := hear(workers[engine]).get("error"):
                    print(f"{case.name}: {engine} is left out: {refusal}", file=sys.stderr, flush=True)
                    del workers[engine], engines[engine]
            if not workers or not options.rounds:
                return
            print(f"{case.name}, {threads} threads: {', '.join(workers)}", file=sys.stderr, flush=True)
            times, best = measure(workers, threads, options.rounds)
        peak = 1 / best
        found = cells(times, options.rounds, peak, operations / peak / threads)
        print(f"| {case.name} | {threads} | {' | '.join(found)} |", flush=True)


def find_python(name: str) -> str:
    other = Path(__file__).parents[1] / ".export" / name / "bin" / "python"
    return str(other) if not find_spec(ENGINES[name]) and other.exists() else sys.executable


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each engine; 0 only exports")
    parser.add_argument("--only", default="", metavar="TEXT", help="networks whose name has this in it")
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where exports stay for other runs")
    parser.add_argument(
        "--python", nargs="+", action="extend", default=[], metavar="NAME=PATH", help="which Python runs an engine"
    )
    options = parser.parse_args()
    given = dict(each.split("=", 1) for each in options.python)
    if unknown := set(given) - set(ENGINES):
        parser.error(f"no engine {', '.join(unknown)}; there are {', '.join(ENGINES)}")
    pythons = {name: given.get(name) or find_python(name) for name in ENGINES}
    columns = [options.precision, "threads", *(f"{name}, ms" for name in ENGINES)]
    columns += [f"fastest other / {FUSED}", f"{FUSED} / roofline", "GFLOP/s a thread", "turns"]
    print(f"| {' | '.join(columns)} |\n|{'-|' * len(columns)}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for case in cases():
            if options.only.lower() in case.name.lower():
                folder = (options.keep or Path(temporary)) / f"{case.name}, {options.precision}"
                run_case(case, folder, options, pythons)


if __name__ == "__main__":
    main()
