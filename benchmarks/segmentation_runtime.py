"""What a segmenter costs at use: the network, the mask in original size, and the memory of a 24-megapixel picture.

    python benchmarks/segmentation_runtime.py [MODEL.safetensors [PICTURE]]

The network alone and the network with enlarging and choosing the class run on the same engine by turns; medians, since
machines are noisy. Memory is the peak resident size (VmHWM) of a process of its own that answers one picture of
6000 x 4000 pixels: whole, and by tiles.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from mobilenetv2.modelfile import load_model_file
from mobilenetv2.runtime.drawn import draw_pictures
from mobilenetv2.runtime.engine import OnnxRuntimeEngine
from mobilenetv2.runtime.images import open_image
from mobilenetv2.runtime.predictor import find_model
from mobilenetv2.runtime.scorers import PillowScorer
from mobilenetv2.segmenter import segmenter_multiply_adds

ROUNDS = 21
LARGE_WH = (6000, 4000)
PEAK = """
import re, sys, time
from pathlib import Path
import mobilenetv2

def peak_kb():
    return re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]

model = mobilenetv2.load(sys.argv[1], tiles=sys.argv[3] == "tiles")
before = peak_kb()
began = time.perf_counter()
model.predict(sys.argv[2])
print(before, peak_kb(), time.perf_counter() - began)
"""


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def main() -> None:
    path = find_model(sys.argv[1] if len(sys.argv) > 1 else "camvid")
    model = load_model_file(path)
    picture = open_image(sys.argv[2]) if len(sys.argv) > 2 else Image.fromarray(draw_pictures()[6])
    engine = OnnxRuntimeEngine(model)
    scorer = PillowScorer(engine, model.card)
    prepared = scorer.prepare(picture)
    alone, whole = [], []
    for _ in range(ROUNDS):
        alone.append(milliseconds(lambda: engine.run(prepared[0][None])))
        whole.append(milliseconds(lambda: scorer.score([prepared])))
    network, both = statistics.median(alone), statistics.median(whole)
    height, width = model.card.preprocessing.size_hw
    madds = segmenter_multiply_adds(model.card.segmenter, (height, width))
    print(f"{model.card.name}: {madds / 1e6:,.0f} M multiply-adds at {width} x {height}")
    size = f"{picture.width} x {picture.height}"
    print(f"network {network:.1f} ms, with the mask at {size} {both:.1f} ms, {both / network:.2f} times as long")
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.jpg"
        picture.resize(LARGE_WH).save(large)
        print("24 megapixels       before, MB    peak, MB   seconds")
        for how in ("whole", "tiles"):
            words = [sys.executable, "-c", PEAK, str(path), str(large), how]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            before, peak, seconds = map(float, done.stdout.split())
            print(f"{how:20}{before / 1000:10.0f}{peak / 1000:12.0f}{seconds:10.1f}")


if __name__ == "__main__":
    main()
