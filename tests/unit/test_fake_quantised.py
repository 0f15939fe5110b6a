"""Fake quantisation: the rounding itself, where it stands in each network, its gradients, and that networks learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import RandomDetector, RandomModel, RandomSegmenter
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.networks.fake_quantised import (
    MOMENTUM,
    FakeQuantised,
    points,
    round_activation,
    round_weight,
)
from mobilenetv2.networks.layers import ConvNorm
from mobilenetv2.networks.restored import network_of
from mobilenetv2.numerics import NUMERICS
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.quantization.prepare import last_layers
from mobilenetv2.quantization.rounded_weights import rounded
from mobilenetv2.runtime.engine import OnnxRuntimeEngine
from mobilenetv2.runtime.graph_network import WEIGHT_LEVELS, Trace, add_network
from mobilenetv2.runtime.onnx_wire import GraphBuilder

SMALL = Preprocessing(size_hw=(65, 65))
KINDS = [
    "mobilenet_v2",
    "mobilenet_v1",
    "ssdlite on mobilenet_v2",
    "ssd on mobilenet_v1",
    "deeplab_v3 on mobilenet_v2",
    "deeplab_v3 on mobilenet_v1",
]


@pytest.fixture(params=KINDS)
def model(
    request: pytest.FixtureRequest,
    random_model: RandomModel,
    random_detector: RandomDetector,
    random_segmenter: RandomSegmenter,
) -> ModelFile:
    head, _, backbone = request.param.partition(" on ")
    if head.startswith("ssd"):
        return random_detector(preprocessing=SMALL, name=head, backbone=backbone)
    if head == "deeplab_v3":
        has_all = backbone == "mobilenet_v2"
        decoder = "light" if has_all else "none"
        return random_segmenter(preprocessing=SMALL, backbone=backbone, aspp=has_all, decoder=decoder)
    return random_model(preprocessing=SMALL, name=head, width=0.1)


def pictures(count: int = 4, *, side: int = 65, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def first(answer: Any) -> Tensor:
    return answer if isinstance(answer, Tensor) else answer[0]


def test_weights_are_rounded_as_numpy_does_it() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 3, 3, 3)).astype(np.float32)
    weight[2] = 0
    weight[3] *= 1e-6
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / WEIGHT_LEVELS
    expected = np.rint(weight / np.where(scale > 0, scale, 1)) * scale
    np.testing.assert_allclose(round_weight(torch.from_numpy(weight)).numpy(), expected, rtol=1e-5, atol=1e-12)
    # What quantises the model file afterwards finds the same steps.
    np.testing.assert_allclose(expected, rounded(weight.astype(np.float64), WEIGHT_LEVELS), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-2.3, 1.7), (-5.0, 0.0)])
def test_activations_are_rounded_as_numpy_does_it(low: float, high: float) -> None:
    values = np.random.default_rng(0).uniform(-8, 8, 1000).astype(np.float32)
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    expected = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
    got = round_activation(torch.from_numpy(values), torch.tensor(low), torch.tensor(high)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert round_activation(torch.zeros(1), torch.tensor(low), torch.tensor(high)).item() == 0


def test_gradients_go_straight_through_and_stop_outside_the_range() -> None:
    values = torch.tensor([-1.0, 0.1, 3.3, 5.9, 7.0], requires_grad=True)
    round_activation(values, torch.tensor(0.0), torch.tensor(6.0)).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 1, 1, 0]
    weight = pictures().requires_grad_()
    (round_weight(weight) * 3).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert (weight.grad == 3).all()


def test_every_network_is_rounded_where_its_export_is(model: ModelFile) -> None:
    graph, trace = GraphBuilder(), Trace()
    add_network(graph, "images", model, trace=trace)
    raw = {"classifier", *(plan.name for plan in last_layers(model.card))}
    names = [point.name for point in points(network_of(model))]
    assert len(names) == len(set(names))
    assert set(names) == set(trace.points) - raw


def test_it_answers_as_the_exported_network_rounded_alike(model: ModelFile) -> None:
    network = network_of(model)
    quantised, images = FakeQuantised(network), pictures()
    quantised(images)
    quantised.eval()
    with torch.no_grad():
        got, plain = first(quantised(images)).numpy(), first(network(images)).numpy()
    ranges = quantised.activation_ranges()
    kernels = {
        f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    tensors = {
        name: rounded(array.astype(np.float64), WEIGHT_LEVELS).astype(np.float32) if name in kernels else array
        for name, array in model.tensors.items()
    }
    card = replace(model.card, activation_ranges=ranges, activation_levels=256)
    # That one does not round what it reads.
    read = round_activation(images, *torch.tensor(ranges["images"])).numpy()
    reference = OnnxRuntimeEngine(ModelFile(card=card, tensors=tensors)).run(read)[0]
    # Not to the bit: a value halfway between two levels falls to either side.
    assert np.abs(got - reference).mean() < 0.05 * np.abs(plain - reference).mean()


def test_a_layer_equals_numpys_with_batch_norm_folded() -> None:
    layer = ConvNorm(3, 5, numerics=NUMERICS["torch"])
    for index, values in enumerate((layer.norm.weight, layer.norm.bias, layer.norm.running_mean)):
        assert values is not None
        nn.init.normal_(values, generator=torch.Generator().manual_seed(index))
    nn.init.constant_(layer.norm.running_var, 2.0)  # type: ignore[arg-type]
    network = nn.Sequential(layer)
    quantised, images = FakeQuantised(network), pictures(2, side=9)
    got = quantised(images).detach().numpy()

    def levels(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        low, high = min(values.min(), 0), max(values.max(), 0)
        scale = (high - low) / 255
        zero = np.rint(-low / scale)
        return np.asarray((np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale)

    tensors = {name: value.detach().double().numpy() for name, value in layer.state_dict().items()}
    factor = tensors["norm.weight"] / np.sqrt(tensors["norm.running_var"] + layer.norm.eps)
    folded = rounded(tensors["conv.weight"] * factor[:, None, None, None], WEIGHT_LEVELS)[:, :, 0, 0]
    bias = tensors["norm.bias"] - tensors["norm.running_mean"] * factor
    made = np.einsum("oi,nihw->nohw", folded, levels(images.double().numpy())) + bias[:, None, None]
    difference = np.abs(got - levels(np.clip(made, 0, 6)))
    step = made.max().clip(0, 6) / 255
    # A step more or less where a value lies halfway.
    assert difference.max() < 1.01 * step
    assert (difference > 1e-4 * step).mean() < 0.01


def test_ranges_are_moving_means_that_hold_zero_and_are_kept_in_eval() -> None:
    quantised = FakeQuantised(nn.Sequential(ConvNorm(3, 4, numerics=NUMERICS["torch"])))
    batches = [pictures(seed=seed).clamp(min=-0.5) + seed for seed in range(3)]
    for batch in batches:
        quantised(batch)
    low, high = quantised.activation_ranges()["images"]
    # Young means weigh their batches alike. The later two batches have nothing below 0.
    assert low == pytest.approx(-0.5 / 3)
    assert high == pytest.approx(float(torch.stack([batch.max() for batch in batches]).mean()))
    quantised.batches.fill_(10_000)
    quantised(batches[0] * 0 + 100)
    assert quantised.activation_ranges()["images"][1] == pytest.approx(high + MOMENTUM * (100 - high))
    assert quantised.activation_ranges()["0"][1] <= 6
    before = quantised.ranges.clone()
    quantised.eval()(pictures() * 1000)
    assert torch.equal(quantised.ranges, before)


def test_a_layer_of_zeros_has_no_range(random_model: RandomModel) -> None:
    model = random_model(preprocessing=SMALL)
    model.tensors["last.norm.weight"][:] = 0
    model.tensors["last.norm.bias"][:] = -1
    quantised = FakeQuantised(network_of(model))
    answer = quantised(pictures())
    assert torch.isfinite(answer).all()
    assert {"last", "last.pool"} & set(quantised.activation_ranges()) == set()
    # What the card checks.
    replace(model.card, activation_ranges=quantised.activation_ranges())


def test_the_network_itself_stays_as_it_is(model: ModelFile) -> None:
    network, images = network_of(model), pictures()
    names, before = list(network.state_dict()), first(network(images))
    quantised = FakeQuantised(network)
    assert not torch.equal(first(quantised(images)), before)
    # Batch norm took no statistics, and no rounding is left behind.
    assert torch.equal(first(network.eval()(images)), before)
    assert list(network.state_dict()) == names
    assert set(quantised.state_dict()) == {"ranges", "batches", *(f"network.{name}" for name in names)}


def test_a_network_learns_to_bear_8_bits() -> None:
    """It is taught to answer in 8 bits what it answered without; one large weight a channel makes the steps coarse."""
    torch.manual_seed(0)
    numerics = NUMERICS["torch"]
    network = nn.Sequential(
        ConvNorm(3, 16, kernel=3, numerics=numerics),
        ConvNorm(16, 16, kernel=3, groups=16, numerics=numerics),
        ConvNorm(16, 4, activation="linear", numerics=numerics),
    ).eval()
    images = pictures(64, side=8)
    # What the large weights read is 0.
    images[:, 0] = 0
    with torch.no_grad():
        network.get_parameter("0.conv.weight")[:, 0, 0, 0] = WEIGHT_LEVELS / 3
        wanted = network(images)
    quantised = FakeQuantised(network)
    quantised(images)

    def error() -> float:
        with torch.no_grad():
            return float((quantised.eval()(images) - wanted).square().mean())

    before, steps = error(), 60
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(quantised.train()(images), wanted).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        cosine.step()
    assert error() < 0.4 * before
