"""Intervals, the roofline, the table and the picture of a benchmark."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from conftest import RandomDetector, RandomModel, RandomSegmenter
from mobilenetv2.benchmarking import roofline as rooflines
from mobilenetv2.benchmarking.report import BenchmarkReport, BenchmarkRow, Latency
from mobilenetv2.benchmarking.roofline import Roofline, network_multiply_adds
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.engine import all_threads


def row(model: str, batch: int, *, threads: int = 1, accuracy: float | None = None) -> BenchmarkRow:
    latency = Latency(p50=10.0 * batch, p90=11.0 * batch, p99=14.0 * batch, low=9.5 * batch, high=10.5 * batch)
    measured = accuracy is not None
    return BenchmarkRow(
        model=model,
        task="classify",
        engine="onnxruntime",
        precision="float32",
        threads=threads,
        batch=batch,
        latency=latency,
        parts_ms={"network": 8.0 * batch},
        runs=90,
        peak_rss_mb=None,
        cold_start_ms=312.0,
        file_mb=2.5,
        roofline_ms=3.0 * batch,
        accuracy=accuracy,
        measure="top1" if measured else None,
        data="cifar10.zip, val" if measured else None,
    )


def report(*models: str, batches: tuple[int, ...] = (1, 8), accuracy: float | None = None) -> BenchmarkReport:
    return BenchmarkReport(
        rows=tuple(row(model, batch, accuracy=accuracy) for model in models for batch in batches),
        batches=batches,
        rooflines=(Roofline(threads=1, gflops=50.0, gb_per_s=12.0),),
    )


def test_percentiles_are_of_runs_and_the_interval_of_the_median() -> None:
    latency = Latency.of(np.arange(1.0, 102.0).reshape(101, 1))
    assert (latency.p50, latency.p90, latency.p99) == (51, 91, 100)
    # For uniform values the median's standard error is the range / (2 * sqrt(n)): 5, so 1.96 of it is 10.
    assert 38 < latency.low < 44
    assert 58 < latency.high < 64


def test_runs_of_one_round_do_not_count_as_so_many_measurements() -> None:
    slow_rounds = np.repeat(np.arange(10.0), 9).reshape(10, 9)
    shuffled = np.random.default_rng(0).permutation(slow_rounds.reshape(-1)).reshape(90, 1)
    together, apart = Latency.of(slow_rounds), Latency.of(shuffled)
    assert together.p50 == apart.p50
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_equal_runs_have_no_interval() -> None:
    latency = Latency.of(np.full((1, 3), 7.0))
    assert (latency.low, latency.p50, latency.p99, latency.high) == (7, 7, 7, 7)


def test_roofline_is_the_longer_of_arithmetic_and_memory(random_model: RandomModel) -> None:
    card = random_model(preprocessing=Preprocessing(size_hw=(224, 224)), width=1.0, num_classes=1000).card
    assert network_multiply_adds(card) == pytest.approx(300e6, rel=0.01)  # Table 4 of the paper
    much_memory = Roofline(threads=1, gflops=60, gb_per_s=1e6)
    assert much_memory.least_ms(card, batch=1, precision="float32") == pytest.approx(10, rel=0.01)
    assert much_memory.least_ms(card, batch=8, precision="float32") == pytest.approx(80, rel=0.01)
    much_arithmetic = Roofline(threads=1, gflops=1e9, gb_per_s=14)
    assert much_arithmetic.least_ms(card, batch=8, precision="float32") == pytest.approx(1, rel=0.01)  # 3.5 M weights
    assert much_arithmetic.least_ms(card, batch=8, precision="int8") == pytest.approx(0.25, rel=0.01)


def test_multiply_adds_of_every_task(random_detector: RandomDetector, random_segmenter: RandomSegmenter) -> None:
    for make in (random_detector, random_segmenter):
        sides = [
            network_multiply_adds(make(preprocessing=Preprocessing(size_hw=(side, side), resize="stretch")).card)
            for side in (161, 321)
        ]
        assert 3 < sides[1] / sides[0] < 5  # twice the side, four times the pixels


def test_this_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooflines, "SECONDS", 0.02)
    monkeypatch.setattr(rooflines, "COPIED_BYTES", 2**20)
    measured = rooflines.measure(2)
    assert measured.threads == 2
    # Between a slow emulator's and what no machine of today reaches.
    assert 0.01 < measured.gflops < 1e5
    assert 0.01 < measured.gb_per_s < 1e5
    assert all_threads() >= 1


def test_the_machine_is_measured_in_a_process_of_its_own() -> None:
    assert rooflines.measure_roofline(1).gflops > 0.01


def test_table_names_every_number() -> None:
    text = report("a/one.onnx", "b/two.onnx", accuracy=0.9321).to_text()
    lines = text.splitlines()
    latency = next(line for line in lines if line.startswith("one.onnx"))
    words = "one.onnx onnxruntime float32 1 10.00 [9.50, 10.50] 11.00 14.00 3.00 - 312 2.50 93.21% top1"
    assert " ".join(latency.split()) == words
    header = next(line for line in lines if line.startswith("model"))
    assert header.index("p50 ms") + len("p50 ms") == latency.index("10.00") + len("10.00")
    assert [line.split() for line in lines if line.startswith("two.onnx")][1] == ["two.onnx", "1", "100.0", "100.0"]
    assert "1 thread: 50.0 GFLOP/s, 12.0 GB/s" in text
    assert "top1: on cifar10.zip, val." in text
    assert max(map(len, lines)) <= 150


def test_files_of_one_name_are_told_apart() -> None:
    assert report("a/model.onnx", "b/model.onnx").names == ["a/model.onnx", "b/model.onnx"]
    assert report("a/one.onnx", "a/one.onnx").names == ["one.onnx", "one.onnx"]


def test_json_is_a_line_for_each_row() -> None:
    lines = report("one.onnx", "two.onnx").to_json_lines().split("\n")
    assert [(json.loads(line)["model"], json.loads(line)["batch"]) for line in lines] == [
        ("one.onnx", 1),
        ("one.onnx", 8),
        ("two.onnx", 1),
        ("two.onnx", 8),
    ]
    assert json.loads(lines[1])["latency_ms"] == {"p50": 80.0, "p90": 88.0, "p99": 112.0}
    assert json.loads(lines[1])["images_per_s"] == 100.0


def test_picture_has_a_panel_for_what_was_measured() -> None:
    pytest.importorskip("matplotlib")
    widths = [
        Image.open(io.BytesIO(one.picture())).width
        for one in (
            report("$a$.onnx", batches=(1,)),
            report("$a$.onnx"),
            report("$a$.onnx", accuracy=0.9),
        )
    ]
    assert widths[0] * 1.6 < widths[1]
    assert widths[1] * 1.3 < widths[2]
