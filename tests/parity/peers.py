"""Peers with weights that no mistake survives, and how near our answers must be to theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mobilenetv2.architecture import Architecture
from mobilenetv2.modelfile import Tensors
from mobilenetv2.networks.deeplab_v3 import build_segmenter
from mobilenetv2.networks.mobilenet_v1 import MobileNetV1
from mobilenetv2.networks.mobilenet_v2 import MobileNetV2
from mobilenetv2.segmenter import Segmenter
from mobilenetv2.weights.checkpoint import as_array
from mobilenetv2.weights.states import Matched, match_state

# Odd, usual and oblong; small where it shows as much.
SIZES_HW = ((97, 97), (224, 224), (160, 192), (33, 64), (1, 1))


def randomize(network: nn.Module, seed: int) -> nn.Module:
    """Random weights with random batch norm, whose statistics fit the data so that no map dies or saturates.

    Gamma, beta, mean and variance are all different in every channel, so that an exchange of any two shows.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(0, fan_in**-0.5, generator=generator)
        for norm in norms:
            norm.momentum = 1.0
        network.train()(torch.randn(4, 3, 64, 64, generator=generator))
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean += 0.3 * norm.running_var.sqrt() * torch.randn(norm.num_features, generator=generator)
            norm.running_var *= torch.empty(norm.num_features).uniform_(0.5, 2, generator=generator)
            norm.weight.uniform_(0.5, 2, generator=generator)
            norm.bias.normal_(0, 1, generator=generator)
    return network.eval()


def matched(network: nn.Module, **options: Any) -> Matched:
    """What a peer's weights turn out to be."""
    state = {name: as_array(tensor) for name, tensor in network.state_dict().items()}
    return match_state(state, source="net.pth", **options)


def ours(architecture: Architecture | Segmenter, tensors: Tensors) -> nn.Module:
    """Our network in evaluation mode with these tensors, and nothing left as it was initialised."""
    if isinstance(architecture, Segmenter):
        network: nn.Module = build_segmenter(architecture)
    else:
        network = (MobileNetV1 if architecture.name == "mobilenet_v1" else MobileNetV2)(architecture)
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert not unexpected
    return network.eval()


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference by the largest value."""
    assert found.shape == expected.shape
    assert expected.isfinite().all()
    # An answer that does not depend on the picture would prove nothing.
    assert expected.shape[0] == 1 or (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max()
    return float((found - expected).abs().max() / expected.abs().max())


def pictures(size_hw: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(sum(size_hw))
    return torch.randn(2, 3, *size_hw, generator=generator)
