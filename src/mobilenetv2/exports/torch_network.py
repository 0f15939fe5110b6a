"""The torch network that converters take: without batch norm, with its outputs in the order of our graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mobilenetv2.modelfile import ModelFile
from mobilenetv2.runtime.graph import layer_names

if TYPE_CHECKING:
    from torch import Tensor, nn


def torch_network(model: ModelFile, *, taps: bool = False) -> nn.Module:
    """(N, 3, H, W), preprocessed -> a tuple of the outputs of `graph.network_graph`, of the taps too if asked for.

    Batch norm is folded into the convolutions in float64. Converters would fold too, in float32, with twice the time
    for everything before, and lose the layers' names.
    """
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    from mobilenetv2.networks.layers import ConvNorm
    from mobilenetv2.networks.mobilenet_v2 import InvertedResidual
    from mobilenetv2.networks.restored import network_of

    network = network_of(model).double()
    for module in network.modules():
        if isinstance(module, ConvNorm):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()  # type: ignore[assignment]
    network.float()
    results: dict[str, Tensor] = {}

    def keep(module: nn.Module, name: str) -> None:
        def hook(module: nn.Module, taken: Any, result: Tensor) -> None:
            results[name] = result

        module.register_forward_hook(hook)

    names = layer_names(model) if taps else []
    for name in names:
        block = network.get_submodule(name.rpartition(".")[0])
        # The shortcut belongs to the result of the layer that it joins.
        adds = isinstance(block, InvertedResidual) and block.has_shortcut and name.endswith(".project")
        keep(block if adds else network.get_submodule(name), name)

    def answer(network: nn.Module, taken: Any, answer: Any) -> tuple[Tensor, ...]:
        outputs = tuple(answer) if isinstance(answer, tuple) else (answer,)
        # XNNPACK's converter stumbles over a value that is returned twice, and sees through a copy.
        return (*outputs, *(results[name] * 1 for name in names))

    network.register_forward_hook(answer)
    return network
