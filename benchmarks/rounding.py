"""How far from float64 the fused engine's answers are, and how far they would be if every sum were exact.

    python benchmarks/rounding.py [NETWORKS]

The drawn networks of tests/unit/test_engine_native.py, by default the thousand of its slow test. Beside the engine
stands the same network in float64 of which only what must be float32 is rounded: weights, with batch norm folded into
them, and maps between layers. What is left there no order of sums can mend. Differences are shares of the largest
output.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/unit"))

from test_engine_native import drawn_model, engine, furthest, in_float64, pictures

from mobilenetv2.exports.torch_network import torch_network

FIRST_SEED = 40  # as the slow test


def answers(network: nn.Module, images: NDArray[np.float32]) -> tuple[NDArray[np.float64], ...]:
    with torch.inference_mode():
        return tuple(each.numpy() for each in network(torch.from_numpy(images).double()))


def round_maps(network: nn.Module) -> None:
    """Those of the layers alone, not of the additions of shortcuts."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _module, _inputs, result: result.float().double())


def differences(seed: int) -> tuple[float, float, float]:
    random = np.random.default_rng(seed)
    model = drawn_model(random)
    images = pictures(model, count=int(random.integers(1, 4)), seed=seed)
    right = in_float64(model, images)
    # Weights in float32, batch norm folded into them; what is computed with them is in float64.
    network = torch_network(model).double()
    of_weights = answers(network, images)
    round_maps(network)
    return (
        furthest(engine(model).run(images), right),
        furthest(of_weights, right),
        furthest(answers(network, images), right),
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
