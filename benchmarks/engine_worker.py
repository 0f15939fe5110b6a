"""One engine with one network, in a process of its own that `engines.py` asks for turns.

    python benchmarks/engine_worker.py ENGINE FOLDER THREADS PICTURES

The folder holds MODEL and, where it is to run in 8 bits, CALIBRATION and OWN_LEVELS too: the model with as many levels
as tools that quantise by themselves have. Engines that run exports find theirs there, or have a further process write
it, so that this one has never done anything but run. The first line on stdout, after a first run, is {}, or
{"error": LINE}; then each line on stdin is a turn of some calls at PICTURES at once, and gives {"seconds": of one}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import UserError
from mobilenetv2.exports.target import TARGETS
from mobilenetv2.modelfile import load_model_file
from mobilenetv2.runtime.engine import open_session
from mobilenetv2.runtime.engine_openvino import XML, import_openvino
from mobilenetv2.runtime.engines import FROM_EXPORTS, FUSED_ENGINE, engine_class, engine_of_model
from mobilenetv2.runtime.graph import network_graph

MODEL, OWN_LEVELS, CALIBRATION = "model.safetensors", "own_levels.safetensors", "calibration.npy"
UNCOUNTED, COUNTED, MOST_SECONDS = 2, 5, 0.5  # calls of a turn; long ones are counted less often

Shape = tuple[int, ...]
Run = Callable[[NDArray[np.float32]], object]


def main() -> None:
    name, folder, threads, pictures = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print

    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=answers, flush=True)

    try:
        shape = (pictures, 3, *load_model_file(folder / MODEL).card.preprocessing.size_hw)
        run = start(name, folder, threads, shape)
        call = partial(run, np.random.default_rng(0).normal(0, 1, shape).astype(np.float32))
        call()
    except (ImportError, UserError) as error:
        say({"error": str(error)})
        return
    say({})
    for _ in sys.stdin:
        calls = min(COUNTED, max(1, int(MOST_SECONDS / seconds(call, UNCOUNTED))))
        say({"seconds": seconds(call, calls)})


def start(name: str, folder: Path, threads: int, shape: Shape) -> Run:
    int8 = (folder / CALIBRATION).exists()
    if name in FROM_EXPORTS and name != FUSED_ENGINE:
        place, aside = folder / name, folder / f"{name}, unfinished"
        if not place.exists():
            aside.mkdir(exist_ok=True)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                refusal = pool.submit(export, name, folder, aside, int8, shape).result()
            if refusal:
                raise UserError(refusal)
            aside.rename(place)
        return engine_class(name)(place, threads=threads).run
    model = load_model_file(folder / MODEL)
    if int8 and name == "onnxruntime":
        session = open_session(network_graph(model, int8=True), threads=threads)
        return lambda images: session.run(None, {"images": images})
    if int8:
        # Other Pythons than the fused engine's may lack it.
        from mobilenetv2.runtime.engine_native import NativeEngine

        return NativeEngine(model, threads=threads, int8=True).run
    return engine_of_model(name, model, threads=threads).run


def export(name: str, folder: Path, place: Path, int8: bool, shape: Shape) -> str:
    """Write it to a place; returns why it cannot be, if so."""
    try:
        if name == "openvino":
            openvino = import_openvino()
            network = openvino.Core().read_model(network_graph(load_model_file(folder / MODEL), int8=int8))
            # As the package writes it, it takes any number of pictures, and more time.
            network.reshape(list(shape))
            openvino.save_model(network, place / XML, compress_to_fp16=False)
        elif int8:
            calibration = np.load(folder / CALIBRATION)
            TARGETS[name].write(load_model_file(folder / OWN_LEVELS), place, calibration=calibration)
        else:
            TARGETS[name].write(load_model_file(folder / MODEL), place)
    except (ImportError, UserError) as error:
        return str(error)
    return ""


def seconds(call: Callable[[], object], times: int) -> float:
    """Of one of so many calls."""
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


if __name__ == "__main__":
    main()
