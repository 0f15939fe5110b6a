"""One model in a process of its own, asked from outside: a JSON object a line on stdin, and one back on stdout.

    python -m mobilenetv2.benchmarking.worker MODEL THREADS

The first line comes by itself, after the first answer: engine, a note on it, precision and card. Then {"do": "run",
"batch": b, "times": n} gives the milliseconds of n runs, their parts and the peak memory until now, and {"do":
"evaluate", "data": PATH} the accuracy. An error of the user is {"error": LINE}. Nothing that a first answer does not
need is imported before it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import UserError
from mobilenetv2.runtime.predictor import Predictor, load

# What the benchmark calls accuracy, by the model's task: names of the card's metrics.
MEASURES = {"classify": "top1", "detect": "AP50", "segment": "miou"}
PARTS = ("decode", "preprocess", "network", "postprocess")
HEIGHT, WIDTH = 375, 500


def main() -> None:
    model, threads = sys.argv[1], int(sys.argv[2])
    answers = _private_stdout()
    try:
        predictor = load(model, threads=threads)
        predictor.predict(draw_picture())
        _say(answers, _introduction(predictor))
        for line in sys.stdin:
            _say(answers, _obey(predictor, json.loads(line)))
    except UserError as error:
        _say(answers, {"error": str(error)})


def draw_picture() -> NDArray[np.uint8]:
    """(375, 500, 3): waves of colour. Drawn with little memory and time, which would count as the model's."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32) / WIDTH
    waves = np.stack([np.sin(9 * x + 4 * y), np.cos(14 * y * x), np.sin(23 * (x - y) ** 2)], axis=-1)
    return (127.5 + 127.5 * waves).astype(np.uint8)


def peak_rss_mb() -> float | None:
    """The most memory that this process has held at once, in 10^6 bytes; None on Windows."""
    if sys.platform == "linux":
        # ru_maxrss would begin with what the parent held when it started this process.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    elif sys.platform == "win32":
        return None
    else:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6


def _private_stdout() -> TextIO:
    """stdout for our lines alone: what libraries print goes to stderr, also from C."""
    sys.stdout.flush()
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "w", encoding="utf-8")


def _say(answers: TextIO, line: dict[str, Any]) -> None:
    answers.write(json.dumps(line) + "\n")
    answers.flush()


def _introduction(predictor: Predictor) -> dict[str, Any]:
    return {
        "engine": predictor.engine_name,
        "note": predictor.engine_note,
        "precision": predictor.precision,
        "card": predictor.card.to_json(),
    }


def _obey(predictor: Predictor, order: dict[str, Any]) -> dict[str, Any]:
    if order["do"] == "run":
        return _run(predictor, batch=order["batch"], times=order["times"])
    from mobilenetv2.evaluation import evaluate

    measured = evaluate(predictor, Path(order["data"])).card_metrics()
    measure = MEASURES[predictor.card.task]
    return {"measure": measure, "accuracy": measured[measure], "data": measured["data"]}


def _run(predictor: Predictor, *, batch: int, times: int) -> dict[str, Any]:
    """Milliseconds of each run, and of each part of it, summed over its pictures."""
    pictures = [draw_picture()] * batch
    # Others had the processor's caches since the last turn.
    predictor.predict(pictures[0])
    ms, parts = [], []
    for _ in range(times):
        start = time.perf_counter()
        answers = predictor.predict_batch(pictures) if batch > 1 else [predictor.predict(pictures[0])]
        ms.append((time.perf_counter() - start) * 1000)
        parts.append({part: sum(getattr(answer.ms, part) for answer in answers) for part in PARTS})
    return {"ms": ms, "parts": parts, "peak_rss_mb": peak_rss_mb()}


if __name__ == "__main__":
    main()
