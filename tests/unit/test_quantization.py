"""Preparations for 8 bits: what they leave as it was, and what they make better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conftest import make_random_detector, make_random_model, make_random_segmenter
from mobilenetv2.errors import UserError
from mobilenetv2.exports.calibration import calibration_images, calibration_pictures
from mobilenetv2.modelfile import ModelFile, load_model_file
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.quantization.equalise import CEILING, equalise
from mobilenetv2.quantization.folded import fold, pairs, rows, unfold
from mobilenetv2.quantization.observed import observe
from mobilenetv2.quantization.prepare import Preparation, last_layers, prepare
from mobilenetv2.quantization.rounded_weights import round_weights, rounded
from mobilenetv2.runtime.engine import OnnxRuntimeEngine, open_session
from mobilenetv2.runtime.graph import network_graph
from mobilenetv2.runtime.graph_network import quantise_kernel
from mobilenetv2.runtime.predictor import find_model

SIZE = Preprocessing(size_hw=(64, 48))


def classifier() -> ModelFile:
    return make_random_model(preprocessing=SIZE)


def first_version() -> ModelFile:
    return make_random_model(preprocessing=SIZE, name="mobilenet_v1", width=0.25, numerics="tf")


def detector() -> ModelFile:
    return make_random_detector(preprocessing=SIZE)


def segmenter() -> ModelFile:
    return make_random_segmenter(preprocessing=SIZE)


def segmenter_with_decoder() -> ModelFile:
    return make_random_segmenter(preprocessing=SIZE, decoder="light", aspp=True)


KINDS = [classifier, first_version, detector, segmenter, segmenter_with_decoder]
each_kind = pytest.mark.parametrize("kind", KINDS)


def images(count: int = 6, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (count, 3, *SIZE.size_hw)).astype(np.float32)


def largest_difference(first: ModelFile, second: ModelFile, seen: NDArray[np.float32]) -> float:
    """In shares of the largest output."""
    outputs = zip(OnnxRuntimeEngine(first).run(seen), OnnxRuntimeEngine(second).run(seen), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in outputs)


@each_kind
def test_folding_and_unfolding_changes_nothing(kind: Callable[[], ModelFile]) -> None:
    model = kind()
    names = {plan.name for row in rows(model.card.architecture) for plan in row}
    folded = fold(model)
    assert set(folded) == names
    assert largest_difference(model, unfold(model, folded), images()) < 1e-5


@each_kind
@pytest.mark.parametrize("weights", ["channel", "tensor"])
def test_every_pair_may_be_scaled(kind: Callable[[], ModelFile], weights: str) -> None:
    """By less than 1, as ReLU6 then cuts nothing that it did not cut before: only results below 6 are looked at."""
    model = kind()
    layers = {
        # Small enough that no result comes near 6.
        name: replace(layer, kernel=layer.kernel * 0.3, bias=layer.bias * 0.1)
        for name, layer in fold(model).items()
    }
    model = unfold(model, layers)
    random = np.random.default_rng(1)
    found = list(pairs(model.card.architecture))
    assert len(found) > 20
    for first, second in found:
        scales = random.uniform(0.3, 1, first.out_channels)
        here, there = layers[first.name], layers[second.name]
        layers[first.name] = replace(here, kernel=here.kernel * scales[:, None, None, None], bias=here.bias * scales)
        shape = (-1, 1, 1, 1) if there.depthwise else (1, -1, 1, 1)
        layers[second.name] = replace(there, kernel=there.kernel / scales.reshape(shape))
    assert largest_difference(model, unfold(model, layers), images()) < 1e-4


@each_kind
def test_equalising_keeps_the_answers_and_the_ceiling(kind: Callable[[], ModelFile]) -> None:
    model, seen = kind(), images()
    before = observe(model, seen)
    better = equalise(model, before)
    assert largest_difference(model, better, seen) < 1e-4
    after = observe(better, seen)
    changed = 0
    for first, _ in pairs(model.card.architecture):
        old, new = before.layers[first.name].most, after.layers[first.name].most
        changed += int((np.abs(new - old) > 1e-3).any())
        if first.activation == "relu6":
            cut = old >= CEILING
            np.testing.assert_allclose(new[cut], old[cut], rtol=1e-4)
            assert (new[~cut] <= CEILING * 1.001).all()
    assert changed > 10


@pytest.mark.slow
def test_equalising_saves_the_trained_network_from_one_scale_for_all_weights(shared_data: Path) -> None:
    """The known collapse of MobileNetV2 (Nagel et al., ICCV 2019), on the model in the box and training pictures."""
    model = load_model_file(find_model("cifar10"))
    tree, names = calibration_pictures(shared_data / "cifar10-train.zip", model.card, count=428)
    seen = calibration_images(tree, names, model.card)
    calibration, others = seen[::4], np.delete(seen, np.s_[::4], axis=0)
    (truth,) = OnnxRuntimeEngine(model).run(others)

    def agreement(prepared: ModelFile, *, correct: bool) -> float:
        observed = observe(prepared, calibration)
        rounded_model = round_weights(prepared, observed, levels=127, per_tensor=True, correct=correct)
        (found,) = OnnxRuntimeEngine(rounded_model).run(others)
        return float((found.argmax(axis=1) == truth.argmax(axis=1)).mean())

    collapsed, corrected = (agreement(model, correct=correct) for correct in (False, True))
    equal = equalise(model, observe(model, calibration), weights="tensor")
    saved = agreement(equal, correct=True)
    print(f"answered as in float32: {collapsed:.1%}, with corrected biases {corrected:.1%}, equalised too {saved:.1%}")
    assert collapsed < 0.6
    # Of what corrected biases leave wrong, equalising leaves less than a third.
    assert saved > 0.98
    assert 1 - saved < (1 - corrected) / 3


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(4, 3, 3, 3), (5, 1, 3, 3), (7, 6, 1, 1), (3, 8)]),
    seed=st.integers(0, 2**16),
    exponent=st.integers(-20, 12),
    levels=st.sampled_from([63, 127]),
)
def test_a_quantised_kernel_is_within_half_a_step(
    shape: tuple[int, ...], seed: int, exponent: int, levels: int
) -> None:
    kernel = (np.random.default_rng(seed).normal(0, 1, shape) * 2.0**exponent).astype(np.float32)
    kernel[0] = 0
    steps, scales = quantise_kernel(kernel, levels)
    back = steps.astype(np.float64) * scales.reshape(-1, *(1,) * (kernel.ndim - 1))
    half = scales.reshape(-1, *(1,) * (kernel.ndim - 1)) * 0.5001
    assert (np.abs(back - kernel) <= half).all()
    assert np.abs(steps).reshape(len(steps), -1).max(axis=1)[1:].min() == levels
    assert (steps[0] == 0).all()


def test_rounding_again_changes_nothing() -> None:
    """So that the tools of other runtimes find the same levels."""
    kernel = np.random.default_rng(0).normal(0, 1, (6, 5, 3, 3))
    for per_tensor in (False, True):
        once = rounded(kernel, 127, per_tensor=per_tensor)
        np.testing.assert_allclose(rounded(once, 127, per_tensor=per_tensor), once, rtol=1e-6, atol=1e-9)
    assert len(np.unique(rounded(kernel, 63, per_tensor=True))) <= 127


@each_kind
def test_biases_make_up_for_what_rounding_moves(kind: Callable[[], ModelFile]) -> None:
    model, seen = kind(), images(12) + np.float32(1.5)
    observed = observe(model, seen)
    plain, corrected = (round_weights(model, observed, levels=15, correct=correct) for correct in (False, True))
    second = next(iter(pairs(model.card.architecture)))[1].name

    def moved(other: ModelFile) -> float:
        """Of the means of the first layer's results, which correction is about."""
        found = observe(other, seen).layers
        return float(np.abs(found[second].input_mean - observed.layers[second].input_mean).mean())

    assert moved(corrected) < 0.7 * moved(plain)


def ideal(graph: bytes, seen: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Operator by operator in float32, as the graph says."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"images": seen}))


@each_kind
def test_eight_bits_answer_nearly_as_before_and_on_every_processor_alike(kind: Callable[[], ModelFile]) -> None:
    model, seen = kind(), images(8)
    prepared = prepare(model, seen)
    graph = network_graph(prepared, int8=True)
    exact = OnnxRuntimeEngine(model).run(seen)
    fast = open_session(graph, threads=1).run(None, {"images": seen})
    for truth, quick, slow in zip(exact, fast, ideal(graph, seen), strict=True):
        size = float(np.abs(truth).max())
        # Sums of 8-bit products must not overflow in 16 bits; what is left is rounding that falls the other way.
        assert float(np.abs(quick - slow).max()) < 0.1 * size
        assert 0 < float(np.sqrt(np.mean((quick - truth) ** 2))) < 0.15 * size


def test_raw_outputs_have_no_range() -> None:
    model = detector()
    prepared = prepare(model, images())
    ranges = prepared.card.activation_ranges
    assert {plan.name for plan in last_layers(model.card)}.isdisjoint(ranges)
    assert all(low <= 0 <= high for low, high in ranges.values())
    assert "images" in ranges
    assert sum(name.endswith(".add") for name in ranges) == sum(
        each.shortcut is not None for row in rows(model.card.architecture) for each in row
    )


def test_a_model_that_knows_its_ranges_needs_no_pictures() -> None:
    model = classifier()
    with pytest.raises(UserError, match=r"^model 'random' does not know the ranges.*--calibrate DIR$"):
        prepare(model, None)
    known = prepare(model, images(), Preparation(equalise=False))
    again = prepare(known, None)
    assert again.card.activation_ranges == known.card.activation_ranges
    assert all(np.array_equal(known.tensors[name], again.tensors[name]) for name in known.tensors)
