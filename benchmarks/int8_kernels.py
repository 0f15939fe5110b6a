"""Would 8 bits make the fused engine faster on processors with AVX2 but without VNNI?

    python benchmarks/int8_kernels.py [ROUNDS]

Compiles int8_kernels.cpp with the engine's kernels by the system's compiler ($CXX, else c++) into a temporary folder.
Runs all layers of MobileNetV2 1.0 at 224 px one after the other, each at its size, by float32 kernels and four ways of
8 bits, which must first give what plain integers give; and in the same rounds whole networks: the fused engine in
float32, and ONNX Runtime and OpenVINO in 8 bits. One thread. A burst of float32 multiply-adds stands before and behind
whatever is timed; where one is more than a tenth slower than the best, that time does not count. Medians.

Ways: `wide` multiplies in 16 bits; `pairs` adds two products of 8 bits in 16; `sums2` and `sums4` two and four such
pairs. What bounds make each exact stands in int8_kernels.cpp, and what they cost in int8_accuracy.py.
An estimated network is the sum of its layers and what the float32 engine takes beside the sum of its own.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import make_random_model
from mobilenetv2.architecture import Architecture, trunk
from mobilenetv2.errors import MissingExtraError
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.quantization.prepare import prepare
from mobilenetv2.runtime.engine import open_session
from mobilenetv2.runtime.engine_openvino import compile_network
from mobilenetv2.runtime.engines import engine_of_model
from mobilenetv2.runtime.graph import network_graph

ROOT = Path(__file__).parents[1]
SIZE_HW = (224, 224)
BURST = 2 * 8 * 2**20  # operations
WAYS = ("float32", "wide", "pairs", "sums2", "sums4")
STEM, POINTWISE, DEPTHWISE = range(3)
CLASSES = {"expand": "expand", "filter": "depthwise", "project": "project"}


class Layer(NamedTuple):
    """numbers: as `Layer` of int8_kernels.cpp has them."""

    group: str
    multiply_adds: int
    numbers: tuple[int, int, int, int, int, int, int]


def network_layers() -> list[Layer]:
    architecture, size_hw, found = Architecture(), SIZE_HW, []
    for plan in trunk(architecture):
        kind = STEM if plan.kernel == 3 and not plan.depthwise else DEPTHWISE if plan.depthwise else POINTWISE
        numbers = (kind, plan.in_channels, plan.out_channels, *size_hw, plan.stride, int(plan.shortcut is not None))
        part = plan.name.rpartition(".")[2]
        group = f"{CLASSES[part]}, map of {size_hw[0]}" if part in CLASSES else part
        found.append(Layer(group, plan.multiply_adds(size_hw), numbers))
        size_hw = plan.out_size(size_hw)
    features, classes = found[-1].numbers[2], architecture.num_classes
    return [*found, Layer("classifier", features * classes, (POINTWISE, features, classes, 1, 1, 1, 0))]


def compiled(folder: Path) -> ctypes.CDLL:
    compiler, library = os.environ.get("CXX", "c++"), folder / "int8_kernels.so"
    native = [str(ROOT / "native" / f"{name}.cpp") for name in ("kernels", "plan", "run", "threads")]
    sources = [*native, str(Path(__file__).with_suffix(".cpp"))]
    table = ["-DKERNELS_TABLE=KERNELS_AVX2", '-DKERNELS_NAME="AVX2 and FMA"']
    options = ["-std=c++20", "-O3", "-mavx2", "-mfma", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread", *table]
    subprocess.run([compiler, *options, *sources, "-o", str(library)], check=True)
    found = ctypes.CDLL(str(library))
    found.burst.restype, found.wrong.restype = ctypes.c_double, ctypes.c_long
    return found


def kernels_of(library: ctypes.CDLL, layers: Sequence[Layer]) -> dict[str, Callable[[], NDArray[np.float64]]]:
    """Of each way what runs all layers and returns the seconds of each."""
    numbers = np.array([layer.numbers for layer in layers], np.int32)
    library.prepare(numbers.ctypes.data_as(ctypes.c_void_p), len(layers))
    for way, name in enumerate(WAYS):
        if way and (wrong := library.wrong(way)):
            raise SystemExit(f"{name}: {wrong} results are not those of plain integers")

    def runner(way: int) -> Callable[[], NDArray[np.float64]]:
        def run() -> NDArray[np.float64]:
            seconds = np.zeros(len(layers))
            library.run(way, seconds.ctypes.data_as(ctypes.c_void_p))
            return seconds

        return run

    return {name: runner(way) for way, name in enumerate(WAYS)}


def engines() -> dict[str, Callable[[], object]]:
    """Random weights, calibrated with random pictures: they take as long as any."""
    random = np.random.default_rng(0)
    model = make_random_model(preprocessing=Preprocessing(size_hw=SIZE_HW), width=1.0, num_classes=1000)
    image = random.normal(0, 1, (1, 3, *SIZE_HW)).astype(np.float32)
    fused = engine_of_model("native", model, threads=1)
    prepared = prepare(model, random.normal(0, 1, (8, 3, *SIZE_HW)).astype(np.float32))
    graph = network_graph(prepared, int8=True)
    session = open_session(graph, threads=1)
    found: dict[str, Callable[[], object]] = {
        "fused engine, float32": lambda: fused.run(image),
        "ONNX Runtime, int8": lambda: session.run(None, {"images": image}),
    }
    try:
        request = compile_network(graph, threads=1, source="random").create_infer_request()
        found["OpenVINO, int8"] = lambda: request.infer({"images": image})
    except MissingExtraError:
        print("openvino is not installed", file=sys.stderr)
    return found


def seconds_of(call: Callable[[], object]) -> NDArray[np.float64]:
    began = time.perf_counter()
    call()
    return np.array(time.perf_counter() - began)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    layers = network_layers()
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(Path(folder))
    kernels, networks = kernels_of(library, layers), engines()
    # Each gives the seconds of a call, or of its parts.
    calls: dict[str, Callable[[], NDArray[np.float64]]] = dict(kernels)
    calls |= {name: partial(seconds_of, network) for name, network in networks.items()}
    # Of each call its times, and the slower of the bursts around each.
    times: dict[str, list[NDArray[np.float64]]] = {name: [] for name in calls}
    bursts: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            # The first run brings its own weights into the caches.
            call()
            before: float = library.burst()
            times[name].append(np.mean([call() for _ in range(3)], axis=0))
            bursts[name].append(max(before, library.burst()))
    best_burst = min(min(found) for found in bursts.values())
    quiet = {
        name: [place for place, burst in enumerate(found) if burst < 1.1 * best_burst] for name, found in bursts.items()
    }
    medians = {name: np.median([found[place] for place in quiet[name]], axis=0) for name, found in times.items()}
    counts = [len(places) for places in quiet.values()]
    peak = BURST / best_burst / 1e9
    print(f"{min(counts)} to {max(counts)} of {rounds} times count; float32 peak {peak:.0f} Gop/s\n")
    print(f"| ms, Gop/s | M multiply-adds | {' | '.join(WAYS)} |\n|-|-|{'-|' * len(WAYS)}")
    for group in dict.fromkeys(layer.group for layer in layers):
        print_row(group, [place for place, layer in enumerate(layers) if layer.group == group], layers, medians)
    print_row("all", range(len(layers)), layers, medians)
    beside = float(medians["fused engine, float32"]) - medians["float32"].sum()
    best = min(float(medians[name]) for name in networks if name.endswith("int8"))
    print(f"\nThe float32 engine takes {beside * 1e3:.2f} ms beside its kernels.\n")
    print("| network | ms | times as fast as the best int8 engine |\n|-|-|-|")
    for name in networks:
        print(f"| {name} | {medians[name] * 1e3:.2f} | {best / medians[name]:.2f} |")
    for name in WAYS[1:]:
        estimate = medians[name].sum() + max(beside, 0.0)
        print(f"| fused, {name}, estimated | {estimate * 1e3:.2f} | {best / estimate:.2f} |")


def print_row(
    group: str, places: Sequence[int], layers: Sequence[Layer], medians: dict[str, NDArray[np.float64]]
) -> None:
    operations = 2 * sum(layers[place].multiply_adds for place in places)
    cells = []
    for way in WAYS:
        seconds = medians[way][list(places)].sum()
        cells.append(f"{seconds * 1e3:.3f}, {operations / seconds / 1e9:.0f}")
    print(f"| {group} | {operations / 2e6:.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
