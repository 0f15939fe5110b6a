"""The fused engine against others: the network alone, one interleaved run.

    python benchmarks/engines.py [THREADS [ROUNDS]]

Random weights, which take as long as any; widths and sizes of the paper's Table 4, SSDLite at 320 and DeepLabv3 at
353 x 481. Each round runs every engine some times in turn and a burst of NumPy's multiply-adds on one thread; rounds in
which that burst is more than a tenth slower than its best do not count. Medians, in ms, and how many times as long
as the fused engine each takes. Engines that are not installed, or that need an export that cannot be made here, are
left out.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

# Read when NumPy loads: its own threads would spin on for a tenth of a second after a burst, beside the first engine.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import make_random_detector, make_random_model, make_random_segmenter
from mobilenetv2.errors import MissingExtraError
from mobilenetv2.exports.target import TARGETS
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.engine import Engine
from mobilenetv2.runtime.engines import engine_class, engine_of_model

Case = tuple[str, Callable[[], ModelFile], int]


def classifier(width: float, side: int) -> ModelFile:
    return make_random_model(preprocessing=Preprocessing(size_hw=(side, side)), width=width, num_classes=1000)


def cases() -> Iterator[Case]:
    for width, side in [(1.0, 224), (0.35, 224), (0.5, 224), (0.75, 224), (1.4, 224)]:
        yield f"MobileNetV2 {width} @ {side}", partial(classifier, width, side), 1
    for side in (96, 128, 160, 192, 320):
        yield f"MobileNetV2 1.0 @ {side}", partial(classifier, 1.0, side), 1
    yield "MobileNetV2 1.0 @ 224, 8 pictures", partial(classifier, 1.0, 224), 8
    size = Preprocessing(size_hw=(320, 320))
    yield "SSDLite 1.0 @ 320", lambda: make_random_detector(preprocessing=size, width=1.0, num_classes=80), 1
    wide = Preprocessing(size_hw=(353, 481))
    yield "DeepLabv3 1.0 @ 353 x 481", lambda: make_random_segmenter(preprocessing=wide, width=1.0, num_classes=21), 1


def export(name: str, model: ModelFile, folder: Path, threads: int) -> Engine:
    TARGETS[name].write(model, folder)
    return engine_class(name)(folder, threads=threads)


def engines(model: ModelFile, threads: int, folder: Path) -> dict[str, Engine]:
    makers: dict[str, Callable[[], Engine]] = {
        name: partial(engine_of_model, name, model, threads=threads) for name in ("native", "onnxruntime", "openvino")
    }
    makers |= {name: partial(export, name, model, folder, threads) for name in ("ncnn", "litert")}
    found: dict[str, Engine] = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except (ImportError, MissingExtraError):
            print(f"{name} is not installed", file=sys.stderr)
    return found


def seconds(call: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 15
    square = np.ones((384, 384), np.float32)
    for name, make, count in cases():
        model = make()
        shape = (count, 3, *model.card.preprocessing.size_hw)
        images = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            running = engines(model, threads, Path(folder))
        times: dict[str, list[float]] = {each: [] for each in running}
        bursts: list[float] = []
        for _ in range(rounds):
            bursts.append(seconds(partial(np.matmul, square, square), 3))
            for each, engine in running.items():
                # Until the threads of the engine before sleep: most spin for some milliseconds after a run.
                time.sleep(0.05)
                seconds(partial(engine.run, images), 2)
                times[each].append(seconds(partial(engine.run, images), 5))
        quiet = [place for place, burst in enumerate(bursts) if burst < 1.1 * min(bursts)]
        medians = {each: statistics.median(found[place] for place in quiet) for each, found in times.items()}
        line = ", ".join(f"{each} {m * 1e3:.2f} ({m / medians['native']:.2f})" for each, m in medians.items())
        print(f"{name}, {threads} threads, {len(quiet)} of {rounds} rounds: {line}", flush=True)


if __name__ == "__main__":
    main()
