"""Optimizers, parameter groups and the course of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from mobilenetv2.training.recipe import Recipe

# What a training adds to a pretrained backbone, in any of the networks.
HEADS = ("classifier.", "extras.", "class_heads.", "box_heads.", "head.", "decoder.")


class RMSPropTF(Optimizer):
    """RMSProp as TensorFlow defines it, with which the paper trains (Sec. 6.1).

    Against torch's: epsilon stands inside the root, the mean square starts at 1, and the learning rate
    is inside the momentum, so that a change of it does not reach steps already taken.

        s = decay * s + (1 - decay) * g^2;  m = momentum * m + lr * g / sqrt(s + eps);  w = w - m
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.045,
        *,
        decay: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "decay": decay, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["mean_square"] = torch.ones_like(weight)
                    state["momentum"] = torch.zeros_like(weight)
                # TF-Slim's weight decay is part of the loss, and so of the gradient.
                gradient = weight.grad.add(weight, alpha=group["weight_decay"])
                mean_square, momentum = state["mean_square"], state["momentum"]
                mean_square.mul_(group["decay"]).addcmul_(gradient, gradient, value=1 - group["decay"])
                root = mean_square.add(group["eps"]).sqrt_()
                momentum.mul_(group["momentum"]).addcdiv_(gradient, root, value=group["lr"])
                weight.sub_(momentum)
        return loss


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Four groups: head or not, decayed or not. Frozen parameters are in none."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    depthwise = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1
    }
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head = name.startswith(HEADS)
        is_decayed = parameter.ndim > 1 and (recipe.decay_depthwise or name not in depthwise)
        groups.setdefault((is_head, is_decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.head_learning_rate if is_head else recipe.learning_rate,
            "weight_decay": recipe.weight_decay if is_decayed else 0.0,
        }
        for (is_head, is_decayed), parameters in groups.items()
    ]


def build_optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    groups = parameter_groups(network, recipe)
    if recipe.optimizer == "sgd":
        return SGD(groups, momentum=recipe.momentum, nesterov=recipe.nesterov and recipe.momentum > 0)
    if recipe.optimizer == "adamw":
        return AdamW(groups, eps=recipe.optimizer_eps)
    return RMSPropTF(groups, decay=recipe.rms_decay, momentum=recipe.momentum, eps=recipe.optimizer_eps)


def build_schedule(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LambdaLR:
    """The learning rate's factor by step: linear warm-up, then as `recipe.schedule` says."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    total = recipe.epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if recipe.schedule == "exponential":
            return float(recipe.decay_rate ** (step // steps_per_epoch))
        done = (step - warmup) / max(total - warmup, 1)
        if recipe.schedule == "poly":
            return float(max(1 - done, 0) ** recipe.poly_power)
        return 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


def build_average(network: nn.Module, recipe: Recipe) -> AveragedModel:
    """The moving average of weights and batch-norm statistics. Young averages forget faster, as in TensorFlow."""

    def average(mean: Tensor, new: Tensor, steps: Tensor | int) -> Tensor:
        decay = min(recipe.ema_decay, (1 + float(steps)) / (10 + float(steps)))
        return mean + (1 - decay) * (new - mean) if mean.is_floating_point() else new

    return AveragedModel(network, avg_fn=average, use_buffers=True)


def frozen_parts(network: nn.Module, count: int) -> Iterator[nn.Module]:
    """The first `count` of stem and stages; of MobileNetV1, of stem and blocks."""
    trunk = network.get_submodule("backbone") if hasattr(network, "backbone") else network
    rows = trunk.get_submodule("stages" if hasattr(trunk, "stages") else "blocks")
    yield from [trunk.get_submodule("stem"), *rows.children()][:count]
