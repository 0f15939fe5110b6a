"""The fused engine in 8 bits: what float32 on the same levels answers, by all kernels, threads and batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import mobilenetv2
from conftest import make_random_detector, make_random_model, make_random_segmenter
from mobilenetv2.errors import ExportError, ModelFileError, UserError
from mobilenetv2.exports.export import export_model
from mobilenetv2.exports.native import write_native
from mobilenetv2.exports.target import TARGETS
from mobilenetv2.modelfile import ModelFile, load_model_file
from mobilenetv2.preprocessing import Preprocessing, preprocess
from mobilenetv2.quantization.folded import rows
from mobilenetv2.quantization.prepare import prepare
from mobilenetv2.runtime.drawn import draw_pictures
from mobilenetv2.runtime.engine import OnnxRuntimeEngine
from mobilenetv2.runtime.level_file import LEVELS, level_file, read_level_file
from mobilenetv2.runtime.predictor import find_model

native = pytest.importorskip("mobilenetv2._native", reason="this installation has no fused engine")

from mobilenetv2.runtime.engine_native import NativeEngine  # noqa: E402 - needs it

# Those without multiply-adds in one instruction round a little otherwise.
SAME_BITS = [name for name in native.LevelNetwork.kernels() if name != "portable"]
MODELS: dict[str, Any] = {
    "classify": make_random_model,
    "first": lambda **options: make_random_model(name="mobilenet_v1", **options),
    "detect": make_random_detector,
    "segment": make_random_segmenter,
    "decode": lambda **options: make_random_segmenter(decoder="light", **options),
    "dilated": lambda **options: make_random_model(output_stride=8, **options),
}


def pictures(model: ModelFile, count: int = 4) -> NDArray[np.float32]:
    shape = (count, 3, *model.card.preprocessing.size_hw)
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


def prepared(name: str, size_hw: tuple[int, int] = (97, 65), **options: Any) -> ModelFile:
    model: ModelFile = MODELS[name](preprocessing=Preprocessing(size_hw=size_hw), **options)
    return prepare(model, pictures(model))


def on_levels(model: ModelFile) -> ModelFile:
    """The same computed in float32 and rounded where the fused engine rounds: not before a shortcut or a sum, and what
    is joined keeps its own levels."""
    convolutions = [plan for row in rows(model.card.architecture) for plan in row]
    between = {plan.name for plan in convolutions if plan.shortcut} | {"head.joined", "decoder.skip", "decoder.deep"}
    ranges = {name: ends for name, ends in model.card.activation_ranges.items() if name not in between}
    return replace(model, card=replace(model.card, activation_ranges=ranges, activation_levels=256))


def share_of_noise(found: tuple[NDArray[Any], ...], right: tuple[NDArray[Any], ...]) -> float:
    """Of any output, the standard deviation of the difference in shares of that of the output."""
    assert [each.shape for each in found] == [each.shape for each in right]
    return max(float((a - b).std() / b.std()) for a, b in zip(found, right, strict=True))


@pytest.mark.parametrize("kernels", native.LevelNetwork.kernels())
@pytest.mark.parametrize("name", MODELS)
def test_a_network_answers_as_in_float32_on_its_levels(name: str, kernels: str) -> None:
    model = prepared(name)
    images = pictures(model)
    right = OnnxRuntimeEngine(on_levels(model)).run(images)
    found = NativeEngine(model, threads=2, int8=True, kernels=kernels).run(images)
    assert share_of_noise(found, right) < 0.08


@pytest.mark.parametrize("name", MODELS)
def test_threads_batches_and_kernels_change_no_bit(name: str) -> None:
    model = prepared(name)
    images = pictures(model, 3)
    right = NativeEngine(model, threads=1, int8=True, kernels=SAME_BITS[0] if SAME_BITS else "").run(images)
    for kernels in SAME_BITS:
        for threads in (1, 2, 3):
            engine = NativeEngine(model, threads=threads, int8=True, kernels=kernels)
            for a, b in zip(engine.run(images), right, strict=True):
                np.testing.assert_array_equal(a, b)
            for a, b in zip(engine.run(images[1:2]), right, strict=True):
                np.testing.assert_array_equal(a[0], b[1])


def plain(
    levels: NDArray[np.int64],
    zero: int,
    steps: NDArray[np.int8],
    stride: int,
    dilation: int,
    pads: tuple[int, int],
    out_hw: tuple[int, int],
) -> NDArray[np.int64]:
    """Sums of a convolution in whole numbers: levels (in, H, W), steps (out, in or 1, k, k)."""
    kernel, depthwise = steps.shape[2], steps.shape[1] == 1 and len(levels) > 1
    wide = np.zeros(
        (len(levels), levels.shape[1] + 2 * kernel * dilation, levels.shape[2] + 2 * kernel * dilation), np.int64
    )
    top, left = pads
    wide[:, top : top + levels.shape[1], left : left + levels.shape[2]] = levels - zero
    sums = np.zeros((len(steps), *out_hw), np.int64)
    for y in range(kernel):
        for x in range(kernel):
            rows_of = slice(y * dilation, y * dilation + stride * (out_hw[0] - 1) + 1, stride)
            columns = slice(x * dilation, x * dilation + stride * (out_hw[1] - 1) + 1, stride)
            part, weights = wide[:, rows_of, columns], steps[:, :, y, x].astype(np.int64)
            sums += weights[:, :, None] * part if depthwise else np.tensordot(weights, part, 1)
    return sums


@pytest.mark.parametrize("kernels", native.LevelNetwork.kernels())
@pytest.mark.parametrize("seed", range(24))
def test_a_block_is_what_whole_numbers_give(seed: int, kernels: str) -> None:
    random = np.random.default_rng(seed)
    height, width = (int(each) for each in random.integers(1, 60, 2))
    first, expanded, last = (int(each) for each in random.integers(1, 50, 3))
    stride, dilation = int(random.integers(1, 3)), int(random.integers(1, 4))
    pads = int(random.integers(0, 2)) * dilation, int(random.integers(0, 2)) * dilation
    before_hw = (height + 1) // 2, (width + 1) // 2
    out_hw = (before_hw[0] + stride - 1) // stride, (before_hw[1] + stride - 1) // stride
    network = native.LevelNetwork(height, width, 1 + seed % 3, kernels)
    picture = random.integers(0, 256, (1, 3, height, width)).astype(np.float32)

    # The stem takes every second pixel of one colour as it is.
    colours = random.integers(0, 3, first)
    taken = np.zeros((first, 3, 3, 3), np.float32)
    taken[np.arange(first), colours, 1, 1] = 1
    zero = int(random.integers(0, 256))
    nothing = np.zeros(first, np.float32)
    stem = network.stem(((taken, nothing - zero, -1e9, 1e9, None, 1.0, zero), (1, 1), before_hw))
    levels = picture[0, colours, ::2, ::2].astype(np.int64)

    def layer(out: int, inputs: int, kernel: int, to: tuple[float, int]) -> tuple[Any, ...]:
        steps = random.integers(-63, 64, (out, inputs, kernel, kernel)).astype(np.int8)
        widths = random.uniform(0.5, 2, out).astype(np.float32) * np.float32(2.0**-9)
        return steps, random.normal(0, 8, out).astype(np.float32), -1e9, 1e9, widths, *to

    def result(made: tuple[Any, ...], sums: NDArray[np.int64], scale: float) -> NDArray[np.float64]:
        bias: NDArray[np.float64] = made[1].astype(np.float64)
        widths: NDArray[np.float64] = made[4].astype(np.float64)
        return sums * (scale * widths)[:, None, None] + bias[:, None, None]

    def rounded(values: NDArray[np.float64], to: tuple[float, int]) -> NDArray[np.int64]:
        return np.clip(np.rint(values / to[0] + to[1]), 0, 255).astype(np.int64)

    to_expand, to_filter = (
        (float(random.uniform(1, 4)), int(random.integers(0, 256))),
        (2.0, int(random.integers(0, 256))),
    )
    expand, taps = layer(expanded, first, 1, to_expand), layer(expanded, 1, 3, to_filter)
    project = layer(last, expanded, 1, (0.0, 0))
    value = network.block(stem, expand, None, (taps, stride, dilation, pads, out_hw), project, False)
    network.output(value, False)
    network.finish()
    found = np.full((1, last, *out_hw), np.nan, np.float32)
    network.run(picture, [found])

    levels = rounded(result(expand, plain(levels, zero, expand[0], 1, 1, (0, 0), before_hw), 1.0), to_expand)
    sums = plain(levels, to_expand[1], taps[0], stride, dilation, pads, out_hw)
    levels = rounded(result(taps, sums, to_expand[0]), to_filter)
    right = result(project, plain(levels, to_filter[1], project[0], 1, 1, (0, 0), out_hw), 2.0)
    # A level that lies between two others may fall to either; the rest is float32's rounding.
    far = np.abs(found[0] - right) > 1e-5 * np.abs(right).max() + 1e-6
    assert far.mean() < 0.02
    assert np.abs(found[0] - right).max() < 0.03 * np.abs(right).max() + 0.1


def test_a_picture_of_bytes_is_one_of_floats_by_its_table() -> None:
    model = make_random_model(preprocessing=Preprocessing(size_hw=(49, 70)))
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3, 49, 70, 3)).astype(np.uint8)
    table = random.normal(0, 1, (3, 256)).astype(np.float32)
    images = np.stack([table[colour][pixels[..., colour]] for colour in range(3)], axis=1)
    for int8 in (False, True):
        engine = NativeEngine(prepare(model, pictures(model)) if int8 else model, threads=2, int8=int8)
        np.testing.assert_array_equal(engine.run_pixels(pixels, table)[0], engine.run(images)[0])


def test_a_file_in_8_bits_holds_the_same_model(tmp_path: Path) -> None:
    model = prepared("classify")
    (tmp_path / LEVELS).write_bytes(level_file(model))
    again = read_level_file(tmp_path / LEVELS)
    assert again.card == model.card
    images = pictures(model)
    right = NativeEngine(model, threads=1, int8=True).run(images)
    np.testing.assert_array_equal(NativeEngine(tmp_path, threads=1).run(images)[0], right[0])
    content = (tmp_path / LEVELS).read_bytes()
    for damaged in (content[:-9], content[: len(content) // 2], b"", content.replace(b".widths", b".widtha", 1)):
        (tmp_path / LEVELS).write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"levels\.safetensors|random"):
            NativeEngine(tmp_path, threads=1)
    (tmp_path / LEVELS).unlink()
    with pytest.raises(ModelFileError, match="cannot be read"):
        NativeEngine(tmp_path, threads=1)


def test_an_export_answers_as_the_model(tmp_path: Path) -> None:
    model = load_model_file(find_model("cifar10"))
    shown = np.stack([preprocess(Image.fromarray(each), model.card.preprocessing) for each in draw_pictures()])
    report = export_model(model, TARGETS["native"], tmp_path / "small", int8=True, calibration=shown)
    assert report.agreement is not None
    assert report.file_bytes < 2.7e6
    loaded = mobilenetv2.load(tmp_path / "small")
    assert loaded.engine_name == "native"
    with pytest.raises(ExportError, match="add --int8"):
        write_native(model, tmp_path)


def test_a_range_that_the_card_lacks_is_named() -> None:
    model = prepared("classify")
    ranges = dict(model.card.activation_ranges)
    name, _ = ranges.popitem()
    less = replace(model, card=replace(model.card, activation_ranges=ranges))
    with pytest.raises(UserError, match=f"needs the range of '{name}'"):
        NativeEngine(less, threads=1, int8=True)


def test_weights_that_16_bits_cannot_sum_are_refused() -> None:
    network = native.LevelNetwork(8, 8, 1)
    nothing = np.zeros(8, np.float32)
    stem = network.stem(((np.zeros((8, 3, 3, 3), np.float32), nothing, 0.0, 6.0, None, 1.0, 0), (1, 1), (4, 4)))
    steps = np.full((8, 8, 1, 1), 100, np.int8)
    with pytest.raises(ValueError, match="two weights side by side are too large together"):
        network.pointwise(stem, (steps, nothing, 0.0, 6.0, nothing + 1, 1.0, 0))
    with pytest.raises(ValueError, match="steps do not fit"):
        network.pointwise(stem, (steps, nothing, 0.0, 6.0, None, 1.0, 0))
    with pytest.raises(ValueError, match="an output must be floats"):
        network.output(stem, True)
