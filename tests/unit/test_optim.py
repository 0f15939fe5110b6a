"""Optimizers, groups and schedules against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mobilenetv2.architecture import Architecture
from mobilenetv2.networks.mobilenet_v2 import MobileNetV2
from mobilenetv2.training.optim import (
    RMSPropTF,
    build_average,
    build_optimizer,
    build_schedule,
    frozen_parts,
    parameter_groups,
)
from mobilenetv2.training.recipes import resolve


def test_rmsprop_is_tensorflows() -> None:
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=5), rng.normal(size=(6, 5))
    weight = torch.nn.Parameter(torch.tensor(start))
    optimizer = RMSPropTF([weight], lr=0.1, decay=0.9, momentum=0.8, eps=1e-2, weight_decay=0.05)
    expected, mean_square, momentum = start.copy(), np.ones(5), np.zeros(5)
    for step, gradient in enumerate(gradients):
        rate = 0.1 * 0.9**step
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        gradient = gradient + 0.05 * expected
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        momentum = 0.8 * momentum + rate * gradient / np.sqrt(mean_square + 1e-2)
        expected = expected - momentum
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("decay_depthwise", [True, False])
def test_batch_norm_and_biases_are_not_decayed(decay_depthwise: bool) -> None:
    network = MobileNetV2(Architecture(width=0.35, num_classes=3))
    recipe = resolve(
        "classify", "transfer", [f"decay_depthwise={str(decay_depthwise).lower()}", "head_learning_rate=0.5"]
    )
    names = {parameter: name for name, parameter in network.named_parameters()}
    seen: set[str] = set()
    for group in parameter_groups(network, recipe):
        for parameter in group["params"]:
            name = names[parameter]
            seen.add(name)
            is_depthwise = ".filter.conv" in name
            is_kernel = parameter.ndim > 1
            assert (group["weight_decay"] > 0) == (is_kernel and (decay_depthwise or not is_depthwise)), name
            assert (group["lr"] == 0.5) == name.startswith("classifier"), name
    assert seen == set(names.values())


def test_frozen_parts_are_in_no_group() -> None:
    network = MobileNetV2(Architecture(width=0.35, num_classes=3))
    for part in frozen_parts(network, 3):
        part.requires_grad_(False)
    left = {
        id(parameter)
        for group in parameter_groups(network, resolve("classify", "transfer"))
        for parameter in group["params"]
    }
    for name, parameter in network.named_parameters():
        frozen = name.startswith(("stem.", "stages.0.", "stages.1."))
        assert (id(parameter) in left) != frozen, name


def test_the_learning_rate_warms_up_and_falls() -> None:
    network = torch.nn.Linear(2, 2)
    recipe = resolve("classify", "transfer", ["epochs=4", "warmup_epochs=1", "learning_rate=1", "head_learning_rate=1"])
    optimizer = build_optimizer(network, recipe)
    schedule = build_schedule(optimizer, recipe, steps_per_epoch=10)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == pytest.approx(1.0)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def test_the_papers_rate_falls_by_two_percent_an_epoch() -> None:
    recipe = resolve("classify", "paper")
    optimizer = build_optimizer(torch.nn.Linear(2, 2), recipe)
    schedule = build_schedule(optimizer, recipe, steps_per_epoch=5)
    for _ in range(15):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.045 * 0.98**3)


def test_the_average_follows_weights_and_statistics() -> None:
    network = torch.nn.BatchNorm1d(2)
    average = build_average(network, resolve("classify", "transfer", ["ema_decay=0.5"]))
    expected = network.running_mean.clone()  # type: ignore[union-attr]
    for step in range(20):
        network.running_mean.fill_(float(step))  # type: ignore[union-attr]
        average.update_parameters(network)
        # The first update copies; afterwards young averages forget faster.
        decay = 0.0 if step == 0 else min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(average.module.running_mean, expected)
