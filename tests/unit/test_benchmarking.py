"""The benchmark from end to end on small models, and what happens when a process dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import RandomModel
from mobilenetv2.benchmarking import measure as measuring
from mobilenetv2.benchmarking.measure import benchmark
from mobilenetv2.benchmarking.process import Turn, Worker, last_line
from mobilenetv2.benchmarking.roofline import Roofline
from mobilenetv2.benchmarking.worker import draw_picture
from mobilenetv2.errors import UserError
from mobilenetv2.evaluation import evaluate
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.predictor import load

PROMISED = {
    "model", "engine", "precision", "threads", "batch", "latency_ms", "images_per_s", "peak_rss_mb", "cold_start_ms",
    "file_mb",
}  # fmt: skip


@pytest.fixture
def small(random_model: RandomModel, tmp_path: Path) -> str:
    """The path of a small classifier of three colours."""
    model = random_model(preprocessing=Preprocessing(size_hw=(32, 32)), num_classes=3)
    path = tmp_path / "small.safetensors"
    ModelFile(card=replace(model.card, labels=("blue", "green", "red")), tensors=model.tensors).save(path)
    return str(path)


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "measure_roofline", lambda count: Roofline(threads=count, gflops=10, gb_per_s=5))


def test_rows_hold_what_was_promised(small: str, colours: Path) -> None:
    told: list[str] = []
    report = benchmark([small], threads=[2, 1], batches=[2, 1], rounds=2, data=colours, progress=told.append)
    rows = [json.loads(line) for line in report.to_json_lines().splitlines()]
    assert [(row["threads"], row["batch"]) for row in rows] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    expected = evaluate(load(small), colours).card_metrics()
    for row in rows:
        assert row.keys() >= PROMISED
        assert row["model"] == small
        assert (row["engine"], row["precision"], row["task"]) == ("native", "float32", "classify")
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p90"] <= row["latency_ms"]["p99"]
        assert row["p50_interval_ms"][0] <= row["latency_ms"]["p50"] <= row["p50_interval_ms"][1]
        assert row["images_per_s"] == pytest.approx(1000 * row["batch"] / row["latency_ms"]["p50"], rel=0.01)
        assert 0 < row["parts_ms"]["network"] < row["latency_ms"]["p99"]
        assert row["cold_start_ms"] > 10 * row["roofline_ms"] > 0
        assert row["file_mb"] == pytest.approx(Path(small).stat().st_size / 1e6, abs=0.001)
        assert (row["accuracy"], row["measure"], row["data"]) == (expected["top1"], "top1", expected["data"])
    assert [row["runs"] for row in rows] == [6, 2, 6, 2]
    assert any("accuracy" in line for line in told)
    assert any("round 2 of 2" in line for line in told)


def test_models_take_turns_and_the_first_round_is_not_counted(monkeypatch: pytest.MonkeyPatch, small: str) -> None:
    order: list[tuple[str, int]] = []
    card = load(small).card

    class Recorded:
        def __init__(self, model: str, *, threads: int) -> None:
            self.model, self.cold_start_ms, self.card = model, 5.0, card
            self.engine, self.note, self.precision = "onnxruntime", "", "float32"

        def run(self, *, batch: int, times: int) -> Turn:
            order.append((Path(self.model).stem, batch))
            ms = 1000.0 if len(order) <= 2 else 1.0
            return Turn([ms] * times, [{"network": ms}] * times, 50.0)

        def close(self) -> None:
            """Nothing was opened."""

        def __enter__(self) -> Recorded:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

    monkeypatch.setattr(measuring, "Worker", Recorded)
    other = Path(small).with_name("other.safetensors")
    other.write_bytes(Path(small).read_bytes())
    report = benchmark([small, str(other)], threads=[1], batches=[1, 4], rounds=2)
    assert order == [("small", 1), ("other", 1)] * 3 + [("small", 4), ("other", 4)] * 3
    assert [row.latency.p99 for row in report.rows] == [1.0] * 4


def test_large_batches_have_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    for batch in (1, 4, 32):
        measuring._take_turns([], [], batch, 30, counted.append)
    last = [line for line in counted if line.split()[3] == line.split()[5]]
    assert last == ["batch 1: round 30 of 30", "batch 4: round 7 of 7", "batch 32: round 5 of 5"]


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "card.json").write_bytes(bytes(500_000))
    (tmp_path / "inner" / "model.bin").write_bytes(bytes(2_000_000))
    assert measuring._size_mb(tmp_path) == 2.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"models": []}, "no model"),
        ({"threads": [0]}, "threads 0: out of range"),
        ({"threads": []}, "threads none"),
        ({"batches": [4, -1]}, "batches -1, 4"),
        ({"rounds": 0}, "rounds 0"),
        ({"models": ["gone.onnx"]}, r"gone\.onnx: no such model file"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        benchmark(**{"models": ["cifar10"], **options})


def test_a_damaged_model_is_named(small: str) -> None:
    Path(small).write_bytes(Path(small).read_bytes()[:5000])
    with pytest.raises(UserError, match=r"small\.safetensors: .*cut off") as caught:
        benchmark([small], threads=[1], batches=[1], rounds=1)
    assert str(caught.value).count("small.safetensors") == 1


def test_data_of_other_classes_is_refused_before_anything_is_timed(small: str, colours: Path) -> None:
    (colours / "val" / "red").rename(colours / "val" / "purple")
    (colours / "train" / "red").rename(colours / "train" / "purple")
    told: list[str] = []
    with pytest.raises(UserError, match="purple"):
        benchmark([small], threads=[1], data=colours, progress=told.append)
    assert len(told) == 1


def test_a_process_that_dies_is_named_with_its_last_line(small: str) -> None:
    with Worker(small, threads=1) as worker:
        with pytest.raises(UserError, match=r"small\.safetensors: its process ended with code 1.*KeyError: 'times'"):
            worker._ask({"do": "run", "batch": 1})
        with pytest.raises(UserError, match="ended with code 1"):
            worker.run(batch=1, times=1)
    with Worker(small, threads=1) as killed:
        killed._process.kill()
        killed._process.wait()
        with pytest.raises(UserError, match=r"ended with code .*it said nothing"):
            killed.run(batch=1, times=1)


def test_what_libraries_print_does_not_reach_the_protocol() -> None:
    program = (
        "import os; from mobilenetv2.benchmarking import worker; answers = worker._private_stdout(); "
        "print('noise'); os.write(1, b'noise of C'); worker._say(answers, {'x': 1})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == '{"x": 1}\n'
    assert "noise of C" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process starts with what its parent held")
def test_peak_memory_is_the_worker_s_own(small: str) -> None:
    held = np.ones(400_000_000, np.uint8)
    with Worker(small, threads=1) as worker:
        peak = worker.run(batch=1, times=1).peak_rss_mb
        larger = worker.run(batch=16, times=1).peak_rss_mb
    assert peak is not None
    assert larger is not None
    assert 20 < peak <= larger < held.nbytes / 1e6


def test_a_worker_does_not_import_what_no_answer_needs() -> None:
    program = "import sys, mobilenetv2.benchmarking.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "matplotlib", "faster_coco_eval", "mobilenetv2.evaluation", "mobilenetv2.plots"}


def test_last_line() -> None:
    with tempfile.TemporaryFile() as file:
        assert last_line(file.fileno()) == ""
        os.write(file.fileno(), b"first\n" * 2000 + b"the \x1b[1mlast\n\n")
        assert last_line(file.fileno()) == "the [1mlast"


def test_the_picture_is_a_photo_s_size_and_not_flat() -> None:
    picture = draw_picture()
    assert picture.shape == (375, 500, 3)
    assert picture.dtype == np.uint8
    assert picture.std(axis=(0, 1)).min() > 40
