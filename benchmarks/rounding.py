"""How far from float64 the fused engine's answers are, and how far they would be if every sum were exact.

    python benchmarks/rounding.py [NETWORKS]

The drawn networks of tests/unit/test_engine_native.py, by default the thousand of its slow test. Beside the engine
stands the same network in float64 of which only what must be float32 is rounded: weights, with batch norm folded into
them, and maps between layers. What is left there no order of sums can mend. Differences are shares of the largest
output.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/unit"))

from test_engine_native import drawn_model, engine, furthest, in_float64, pictures

from mobilenetv2.networks.restored import network_of

FIRST_SEED = 40  # as the slow test
Network = Callable[[Tensor], Tensor | tuple[Tensor, ...]]


def answers(network: Network, images: NDArray[np.float32]) -> tuple[NDArray[np.float64], ...]:
    with torch.inference_mode():
        found = network(torch.from_numpy(images).double())
    return tuple(each.numpy() for each in (found if isinstance(found, tuple) else (found,)))


def in_float32(values: Tensor) -> Tensor:
    return values.float().double()


def round_weights(network: nn.Module) -> None:
    """Batch norm becomes part of the convolution before it, as in every engine, and that is rounded."""
    for module in network.modules():
        children = list(module.children())
        convolutions = [child for child in children if isinstance(child, nn.Conv2d)]
        norms = [child for child in children if isinstance(child, nn.BatchNorm2d)]
        if not norms:
            continue
        (convolution,), (norm,) = convolutions, norms
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        scale = norm.weight / torch.sqrt(variance + norm.eps)
        convolution.weight.data = in_float32(convolution.weight * scale[:, None, None, None])
        norm.bias.data = in_float32(norm.bias - mean * scale)
        norm.weight.data.fill_(1)
        mean.zero_()
        variance.fill_(1 - norm.eps)


def round_maps(network: nn.Module) -> None:
    """Those of the layers alone, not of the additions of shortcuts."""
    for module in network.modules():
        has_bias = isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None
        if has_bias or isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _module, _inputs, result: in_float32(result))


def differences(seed: int) -> tuple[float, float, float]:
    random = np.random.default_rng(seed)
    model = drawn_model(random)
    images = pictures(model, count=int(random.integers(1, 4)), seed=seed)
    right = in_float64(model, images)
    network = network_of(model).double()
    with torch.no_grad():
        round_weights(network)
        of_weights = answers(network, images)
        both = deepcopy(network)
        round_maps(both)
    return (
        furthest(engine(model).run(images), right),
        furthest(of_weights, right),
        furthest(answers(both, images), right),
    )


def main() -> None:
    count = int(sys.argv[1]) if sys.argv[1:] else 1000
    found = np.array([differences(seed) for seed in range(FIRST_SEED, FIRST_SEED + count)])
    print(f"| of {count} networks | median | largest | below 1e-5 |\n|-|-|-|-|")
    names = ("the fused engine", "exact, but for weights in float32", "exact, but for weights and maps in float32")
    for name, each in zip(names, found.T, strict=True):
        print(f"| {name} | {np.median(each):.1e} | {each.max():.1e} | {np.mean(each < 1e-5):.1%} |")


if __name__ == "__main__":
    main()
