"""The fused engine: what torch answers in float64, whatever the network, its size, the batch and the threads."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import mobilenetv2
from conftest import make_random_detector, make_random_model, make_random_segmenter
from mobilenetv2.errors import UserError
from mobilenetv2.modelfile import ModelFile, load_model_file
from mobilenetv2.networks.restored import network_of
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime import engines
from mobilenetv2.runtime.engine import Engine, OnnxRuntimeEngine
from mobilenetv2.runtime.predictor import find_model

native = pytest.importorskip("mobilenetv2._native", reason="this installation has no fused engine")

# Of the largest output. Random networks enlarge the rounding of their weights and maps, in every engine: of a hundred
# the furthest was 1.9e-5 away from float64 here and in onnxruntime, of a thousand 2.8e-5 here.
ROUNDING = 3e-5


def engine(model: ModelFile, threads: int = 1, kernels: str = "") -> Engine:
    from mobilenetv2.runtime.engine_native import NativeEngine

    return NativeEngine(model, threads=threads, kernels=kernels)


def pictures(model: ModelFile, count: int = 2, seed: int = 0) -> NDArray[np.float32]:
    shape = (count, 3, *model.card.preprocessing.size_hw)
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def in_float64(model: ModelFile, images: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    with torch.inference_mode():
        found = network_of(model).double()(torch.from_numpy(images).double())
    return [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]


def furthest(found: tuple[NDArray[Any], ...], right: list[NDArray[np.float64]]) -> float:
    """The largest difference of any output, in shares of its largest value."""
    assert [each.shape for each in found] == [each.shape for each in right]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, right, strict=True))


def drawn_model(random: np.random.Generator) -> ModelFile:
    """Any network that the engine knows, small enough for a reference in float64."""
    kind = random.choice(["classify", "detect", "segment"])
    backbone = str(random.choice(["mobilenet_v2", "mobilenet_v2", "mobilenet_v1"]))
    width = float(random.choice([0.1, 0.25, 0.35, 0.5, 0.75, 1.0]))
    options: dict[str, Any] = {
        "preprocessing": Preprocessing(size_hw=(int(random.integers(31, 120)), int(random.integers(31, 120)))),
        "seed": int(random.integers(1000)),
        "width": width,
        "num_classes": int(random.integers(1, 30)),
        "numerics": str(random.choice(["torch", "tf"])),
    }
    stride = int(random.choice([32, 16, 8]))
    if kind == "detect":
        return make_random_detector(backbone=backbone, **options)
    if kind == "segment":
        decoder = random.choice(["none", "light"])
        return make_random_segmenter(backbone=backbone, output_stride=stride, decoder=decoder, **options)
    if backbone == "mobilenet_v2":
        options |= {
            "expands_first": bool(random.random() < 0.2),
            "rounding": str(random.choice(["slim", "ceil8", "int"])),
            "dilation": str(random.choice(["slim", "smp", "mmseg"])),
        }
    options["numerics"] = str(random.choice(["torch", "tf", "keras"]))
    return make_random_model(name=backbone, output_stride=stride, **options)


def check_drawn(seed: int) -> float:
    random = np.random.default_rng(seed)
    model = drawn_model(random)
    images = pictures(model, count=int(random.integers(1, 4)), seed=seed)
    kernels = native.Network.kernels()[seed % len(native.Network.kernels())]
    found = engine(model, int(random.integers(1, 5)), kernels).run(images)
    return furthest(found, in_float64(model, images))


@pytest.mark.parametrize("seed", range(40))
def test_any_network_answers_as_in_float64(seed: int) -> None:
    assert check_drawn(seed) < ROUNDING


@pytest.mark.slow
def test_a_thousand_networks_answer_as_in_float64() -> None:
    found = np.array([check_drawn(seed) for seed in range(40, 1040)])
    print(f"median {np.median(found):.1e}, largest {found.max():.1e}, {np.mean(found < 1e-5):.1%} below 1e-5")
    assert found.max() < ROUNDING
    assert np.median(found) < 5e-6


@pytest.mark.parametrize("kernels", native.Network.kernels())
@pytest.mark.parametrize("name", ["cifar10", "bccd", "camvid"])
def test_the_models_in_the_box(name: str, kernels: str) -> None:
    model = load_model_file(find_model(name))
    images = pictures(model)
    assert furthest(engine(model, 2, kernels).run(images), in_float64(model, images)) < 1e-5


@pytest.mark.parametrize("numerics", ["torch", "tf", "keras"])
@pytest.mark.parametrize("size_hw", [(224, 224), (225, 323)])
def test_large_maps_between_blocks_are_never_whole(numerics: str, size_hw: tuple[int, int]) -> None:
    model = make_random_model(preprocessing=Preprocessing(size_hw=size_hw), width=1.0, numerics=numerics)
    images = pictures(model, count=1)
    right = engine(model).run(images)
    assert furthest(right, in_float64(model, images)) < ROUNDING
    for threads in (2, 3):
        np.testing.assert_array_equal(engine(model, threads).run(images)[0], right[0])


def test_a_classifier_runs_in_the_memory_of_table_3() -> None:
    from mobilenetv2.runtime.engine_native import NativeEngine

    model = make_random_model(preprocessing=Preprocessing(size_hw=(224, 224)), width=1.0, num_classes=1000)
    fused = NativeEngine(model, threads=1)
    fused.run(pictures(model, count=1))
    # Its largest entry, 112 x 112 x 16, is 400 Kb in 16 bits; here it is 32. Every map and all working memory.
    assert fused.arena_bytes <= 112 * 112 * 16 * 4


@pytest.mark.parametrize("make", [make_random_model, make_random_detector, make_random_segmenter])
def test_threads_batches_and_other_runs_change_no_bit(make: Any) -> None:
    model = make(preprocessing=Preprocessing(size_hw=(97, 65)))
    images = pictures(model, count=3)
    right = engine(model).run(images)
    for threads in (1, 2, 3, 8):
        found = engine(model, threads=threads)
        for _ in range(3):
            for a, b in zip(found.run(images), right, strict=True):
                np.testing.assert_array_equal(a, b)
        for place in range(3):
            for a, b in zip(found.run(images[place : place + 1]), right, strict=True):
                np.testing.assert_array_equal(a[0], b[place])


def test_many_threads_of_the_caller_share_an_engine() -> None:
    model = make_random_model(preprocessing=Preprocessing(size_hw=(64, 64)))
    shared, images = engine(model, threads=2), pictures(model, count=32)
    (right,) = shared.run(images)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: shared.run(image[None])[0][0], images))
    np.testing.assert_array_equal(found, right)


def _in_a_child(shared: Engine, images: NDArray[np.float32], answers: Any) -> None:
    answers.put(shared.run(images)[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_child_of_a_fork_has_threads_of_its_own() -> None:
    model = make_random_model(preprocessing=Preprocessing(size_hw=(64, 64)))
    shared, images = engine(model, threads=2), pictures(model)
    (right,) = shared.run(images)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_in_a_child, args=(shared, images, answers))
    child.start()
    np.testing.assert_array_equal(answers.get(timeout=60), right)
    child.join(timeout=60)
    assert child.exitcode == 0
    np.testing.assert_array_equal(shared.run(images)[0], right)


UNKNOWN: dict[str, Callable[[Preprocessing], ModelFile]] = {
    "extras.0.filter": lambda size: make_random_detector(preprocessing=size, name="ssd"),
    "full 3x3 convolutions": lambda size: make_random_segmenter(preprocessing=size, aspp=True),
}


@pytest.mark.parametrize("part", UNKNOWN)
def test_what_it_does_not_know_is_named(part: str) -> None:
    model = UNKNOWN[part](Preprocessing(size_hw=(64, 64)))
    with pytest.raises(UserError, match=f"engine 'native' does not know .*{part}.*; use 'onnxruntime' for it"):
        engine(model)
    assert OnnxRuntimeEngine(model).run(pictures(model))


def test_an_installation_without_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mobilenetv2._native", None)
    monkeypatch.delitem(sys.modules, "mobilenetv2.runtime.engine_native", raising=False)
    monkeypatch.delattr(mobilenetv2, "_native", raising=False)
    with pytest.raises(UserError, match=r"is not part of this installation, .*; use 'onnxruntime'"):
        mobilenetv2.load(engine="native")
    usual = mobilenetv2.load()
    assert usual.engine_name == "onnxruntime"
    assert usual.engine_note.startswith("onnxruntime is used: engine 'native' is not part of this installation")


def test_onnxruntime_is_chosen_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.Network, "kernels", lambda: [engines.PORTABLE_KERNELS])
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    slow = mobilenetv2.load()
    assert slow.engine_name == "onnxruntime"
    assert slow.engine_note == "onnxruntime is used: engine 'native' is slow on an x86 processor without AVX2"
    assert mobilenetv2.load(engine="native").engine_name == "native"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert mobilenetv2.load().engine_name == "native"


def test_it_is_chosen_where_it_knows_all_parts(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    fused, usual = mobilenetv2.load(), mobilenetv2.load(engine="onnxruntime")
    assert (fused.engine_name, fused.engine_note) == ("native", "")
    assert (usual.engine_name, usual.engine_note) == ("onnxruntime", "")
    pyramid = tmp_path / "pyramid.safetensors"
    make_random_segmenter(preprocessing=Preprocessing(size_hw=(64, 64)), aspp=True).save(pyramid)
    other = mobilenetv2.load(pyramid)
    assert other.engine_name == "onnxruntime"
    assert other.engine_note == (
        "onnxruntime is used: engine 'native' does not know the pyramid's full 3x3 convolutions of 'random'"
    )
    ours, theirs = fused.predict(picture).to_dict(), usual.predict(picture).to_dict()
    assert [each["name"] for each in ours["labels"]] == [each["name"] for each in theirs["labels"]]


@pytest.fixture
def network() -> Any:
    return native.Network(32, 48, 1)


def layer(out_channels: int, in_channels: int, taps: int = 1) -> tuple[Any, ...]:
    kernel = np.zeros((out_channels, in_channels, taps, taps), np.float32)
    return kernel, np.zeros(out_channels, np.float32), 0.0, 6.0, None, 0.0, 0


def test_layers_that_do_not_fit_are_refused_before_anything_runs(network: Any) -> None:
    stem = network.stem((layer(8, 3, 3), (1, 1), (16, 24)))
    out_hw = ((1, 1), (16, 24))
    refused: dict[str, Callable[[], Any]] = {
        "there is no map 7": lambda: network.pointwise(7, layer(8, 8)),
        "the convolution does not fit": lambda: network.pointwise(stem, layer(8, 16)),
        "the stem reads three colours": lambda: network.stem((layer(8, 4, 3), (1, 1), (16, 24))),
        "a kernel has another size": lambda: network.pointwise(stem, layer(8, 8, 3)),
        "the filter does not fit": lambda: network.block(
            stem, None, None, (layer(16, 1, 3), 1, 1, *out_hw), layer(8, 16), False
        ),
        "the projection does not fit": lambda: network.block(
            stem, None, None, (layer(8, 1, 3), 1, 1, *out_hw), layer(8, 16), False
        ),
        "the shortcut does not fit": lambda: network.block(
            stem, None, None, (layer(8, 1, 3), 1, 1, *out_hw), layer(16, 8), True
        ),
        "the filter's result is larger": lambda: network.block(
            stem, None, None, (layer(8, 1, 3), 1, 1, (1, 1), (100, 24)), layer(8, 8), False
        ),
        "the stem's result is larger": lambda: network.stem((layer(8, 3, 3), (1, 1), (18, 24))),
        "not finished": lambda: network.run(np.zeros((1, 3, 32, 48), np.float32), []),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()
    network.output(stem, True)
    network.finish()
    right = np.empty((1, 16, 24, 8), np.float32)
    for images, outputs in (
        (np.zeros((1, 3, 48, 32), np.float32), [right]),
        (np.zeros((1, 3, 32, 48), np.float32), []),
        (np.zeros((2, 3, 32, 48), np.float32), [right]),
    ):
        with pytest.raises(ValueError, match=r"another (size|number)"):
            network.run(images, outputs)
    network.run(np.zeros((1, 3, 32, 48), np.float32), [right])
    with pytest.raises(ValueError, match="the network is finished"):
        network.pointwise(stem, layer(8, 8))


@pytest.mark.parametrize("size", [(0, 32), (32, -1), (1 << 20, 32)])
def test_sizes_that_cannot_be_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no size, or is too large"):
        native.Network(*size, 1)
    with pytest.raises(ValueError, match="threads"):
        native.Network(32, 32, 0)
    with pytest.raises(ValueError, match="this processor runs no kernels 'none'"):
        native.Network(32, 32, 1, "none")
