"""How long a user waits: importing the package, and a whole `predict` from process start to answer.

    python benchmarks/start_up.py [RUNS]

Beside them, in the same interleaved rounds, a process that only starts Python and one that imports torch; medians,
since machines are noisy.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def import_ms() -> float:
    """What `import mobilenetv2` costs of its own, as -X importtime counts it."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import mobilenetv2"], check=True, capture_output=True, text=True
    )
    (microseconds,) = re.findall(r"\|\s+(\d+) \| mobilenetv2$", done.stderr, re.MULTILINE)
    return float(microseconds) / 1000


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        levels = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
        Image.fromarray(levels).save(photo)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "import torch": [sys.executable, "-c", "import torch"],
            "mobilenetv2 predict photo.jpg": [sys.executable, "-m", "mobilenetv2", "predict", str(photo)],
        }
        measured: dict[str, list[float]] = {name: [] for name in commands}
        imports = []
        for _ in range(runs + 1):
            imports.append(import_ms())
            for name, command in commands.items():
                measured[name].append(seconds(command))
    print(f"{'import mobilenetv2':32} {statistics.median(imports[1:]):8.1f} ms")
    for name, values in measured.items():
        # The first round warms the disk's cache.
        print(f"{name:32} {statistics.median(values[1:]) * 1000:8.0f} ms")


if __name__ == "__main__":
    main()
