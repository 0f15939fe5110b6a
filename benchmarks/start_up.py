"""How long a user waits for one `predict`, from process start to answer and to exit, and how much memory it takes.

    python benchmarks/start_up.py [RUNS]

Beside it, in the same interleaved rounds, processes that only start Python, import NumPy or import torch. Machines are
noisy: medians say what was to be had, least values what it takes. Processor time is that of all threads together, so it
has what a second core hid. Memory is the most that was resident at once, and no less than this process's own 14 MiB.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

# Nothing large is imported here: a process counts as its own what its parent had resident when it started it.
PHOTO = """
import sys, numpy, PIL.Image
levels = numpy.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(numpy.uint8)
PIL.Image.fromarray(levels).save(sys.argv[1])
"""
# An installed package has its bytecode; here the first round writes it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Cost(NamedTuple):
    """Of a process: until its first line on stdout, or its exit if it prints none, and until its exit."""

    answer_ms: float
    exit_ms: float
    processor_ms: float
    peak_mib: float


def cost(command: list[str]) -> Cost:
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    assert child.stdout is not None
    line = child.stdout.readline()
    answered = time.perf_counter()
    child.stdout.read()
    # What subprocess's own wait does not tell: what the process used.
    _, status, used = os.wait4(child.pid, 0)
    exited = time.perf_counter()
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {child.returncode}")
    # Linux counts in KiB, macOS in bytes.
    peak_mib = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Cost(
        answer_ms=((answered if line else exited) - began) * 1000,
        exit_ms=(exited - began) * 1000,
        processor_ms=(used.ru_utime + used.ru_stime) * 1000,
        peak_mib=peak_mib,
    )


def import_ms() -> float:
    """What `import mobilenetv2` costs of its own, as -X importtime counts it."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import mobilenetv2"],
        check=True,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    (microseconds,) = re.findall(r"\|\s+(\d+) \| mobilenetv2$", done.stderr, re.MULTILINE)
    return float(microseconds) / 1000


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        subprocess.run([sys.executable, "-c", PHOTO, str(photo)], check=True)
        predict = ["-m", "mobilenetv2", "predict", str(photo)]
        commands = {
            "python -c pass": ["-c", "pass"],
            "import numpy": ["-c", "import numpy"],
            "predict photo.jpg": [*predict, "--engine", "native"],
            "predict photo.jpg --engine onnxruntime": [*predict, "--engine", "onnxruntime"],
        }
        if find_spec("torch"):
            commands["import torch"] = ["-c", "import torch"]
        measured: dict[str, list[Cost]] = {name: [] for name in commands}
        imports = []
        for _ in range(runs + 1):
            imports.append(import_ms())
            for name, command in commands.items():
                measured[name].append(cost([sys.executable, *command]))
    # The first round warms the disk's cache.
    imports = imports[1:]
    print(f"`import mobilenetv2`, of its own: {statistics.median(imports):.1f} ms, least {min(imports):.1f} ms\n")
    print("| median (least) | to its answer | to its exit | processor time | peak RSS |")
    print("|-|-|-|-|-|")
    for name, costs in measured.items():
        *times, peaks = zip(*costs[1:], strict=True)
        cells = [f"{statistics.median(values):.0f} ({min(values):.0f}) ms" for values in times]
        print(f"| `{name}` | {' | '.join(cells)} | {statistics.median(peaks):.1f} MiB |")


if __name__ == "__main__":
    main()
