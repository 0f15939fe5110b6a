"""Sec. 5.1: a bottleneck in t parts of its expansion, so that the wide tensors never exist whole.

F(x) = sum over i of (A_i . N . B_i)(x): the same function, the same multiply-adds, less memory. (TF-Slim's
`split_expansion` is another thing: a grouped convolution, which changes the function.)
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mobilenetv2.networks.complexity import trace
from mobilenetv2.networks.layers import ConvNorm, pad_same
from mobilenetv2.networks.mobilenet_v2 import InvertedResidual, MobileNetV2


class SplitInvertedResidual(InvertedResidual):
    """An inverted residual whose expansion is computed in `splits` parts, one after another; for inference.

    It shares the layers of `block`, under the same names. Shapes as there. Channels that do not divide evenly
    make parts that differ by one; more splits than channels are as many as there are channels.
    ValueError: for less than one split. RuntimeError: in training mode, where batch norm sees the whole batch.
    """

    def __init__(self, block: InvertedResidual, splits: int) -> None:
        nn.Module.__init__(self)
        if splits < 1:
            raise ValueError(f"{splits} splits are not possible; give 1 or more")
        self.splits = splits
        self.has_shortcut = block.has_shortcut
        self.expand, self.filter, self.project = block.expand, block.filter, block.project
        self.train(block.training)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("a split bottleneck is for inference: call eval() on the network")
        total: Tensor | None = None
        for channels in self._parts():
            filtered = _part(self.filter, self._expansion(x, channels), channels)
            total = self._add_projection(total, filtered, channels)
            del filtered  # or it would still be there beside the next part
        if total is None:
            raise AssertionError("a block has at least one channel")
        y = _norm(self.project, total)
        return y.add_(x) if self.has_shortcut else y

    def contract(self, x: Tensor, expansion: Tensor) -> Tensor:
        raise NotImplementedError("a split bottleneck never has its whole expansion; use the block it was made from")

    def _parts(self) -> Iterator[slice]:
        inner = self.filter.conv.out_channels
        parts = min(self.splits, inner)
        edges = [inner * part // parts for part in range(parts + 1)]
        return (slice(first, last) for first, last in itertools.pairwise(edges))

    def _expansion(self, x: Tensor, channels: slice) -> Tensor:
        # With t = 1 the block has no expansion, and its input is what is split.
        return _part(self.expand, x, channels) if isinstance(self.expand, ConvNorm) else x[:, channels]

    def _add_projection(self, total: Tensor | None, filtered: Tensor, channels: slice) -> Tensor:
        """Adds A_i to the sum where it lies; a convolution would need a second tensor of its size."""
        weight = self.project.conv.weight[:, channels].flatten(1)
        size, out_channels = filtered.shape[0], weight.shape[0]
        columns = filtered.flatten(2)
        if total is None:
            total = filtered.new_empty(size, out_channels, *filtered.shape[2:])
            torch.bmm(weight.expand(size, -1, -1), columns, out=total.view(size, out_channels, -1))
        else:
            total.view(size, out_channels, -1).baddbmm_(weight.expand(size, -1, -1), columns)
        return total


def split_network(network: MobileNetV2, splits: int) -> MobileNetV2:
    """Replaces every block, in place, by its split one; weights and names stay. Returns the network."""
    for stage in network.stages:
        blocks = cast(nn.ModuleList, stage.blocks)
        for index, block in enumerate(blocks):
            blocks[index] = SplitInvertedResidual(cast(InvertedResidual, block), splits)
    return network


def _part(layer: ConvNorm, x: Tensor, channels: slice) -> Tensor:
    """Some output channels of a layer. x: all input channels, or of a depthwise layer just the same ones."""
    conv = layer.conv
    padding = cast(tuple[int, int], conv.padding)
    if layer.pads_by_size:
        x = pad_same(x, conv)
    weight = conv.weight[channels]
    groups = 1 if conv.groups == 1 else len(weight)
    y = F.conv2d(x, weight, None, cast(Any, conv.stride), padding, cast(Any, conv.dilation), groups)
    return _norm(layer, y, channels)


def _norm(layer: ConvNorm, y: Tensor, channels: slice = slice(None)) -> Tensor:
    """Batch norm of some channels and the activation, in place."""
    norm = layer.norm
    mean, variance = cast(Tensor, norm.running_mean)[channels], cast(Tensor, norm.running_var)[channels]
    scale = norm.weight[channels] * torch.rsqrt(variance + norm.eps)
    shift = norm.bias[channels] - mean * scale
    activated: Tensor = layer.activation(y.mul_(scale[:, None, None]).add_(shift[:, None, None]))
    return activated


class MemoryMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that exist while it is entered, as torch allocates them, and the most at one time.

    What a kernel uses and gives back within one call is not seen. In channels last that is nothing for a block with
    an expansion, as torch's profiler confirms; in NCHW, oneDNN copies both sides of a depthwise convolution into
    a layout of its own, and the allocator's true peak is 1.2 to 1.6 times as high.
    `given` are tensors that exist already.
    """

    def __init__(self, *given: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak_bytes = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        for tensor in given:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        if isinstance(answer, Tensor) and not _is_view(func):
            self._add(answer)
        return answer

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def freed(_: Any) -> None:
            del self._known[key]
            self.bytes -= size

        self._known[key] = weakref.ref(storage, freed)
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)


def _is_view(func: Any) -> bool:
    """Whether the answer only looks at what was given: views, and what is written in place."""
    return any(answer.alias_info is not None for answer in func._schema.returns)


@dataclass(frozen=True, kw_only=True)
class SplitMemory:
    """One block in t parts, at its peak.

    formula: input, output and a t-th of both wide tensors (Sec. 5.1). measured: by `MemoryMeter`.
    """

    path: str
    splits: int
    formula_bytes: int
    measured_bytes: int


def measure_split_memory(
    network: MobileNetV2, size_hw: tuple[int, int], *, paths: Sequence[str], splits: Sequence[int] = range(1, 11)
) -> tuple[SplitMemory, ...]:
    """Peak memory of single blocks for every number of splits, at batch 1 and 32 bits, in channels last.

    paths: of blocks, such as "stages.1.blocks.0". size_hw: of the network's input in pixels.
    """
    whole = trace(network, size_hw)
    rows = []
    for path in paths:
        block = cast(InvertedResidual, network.get_submodule(path)).eval()
        # The formula counts every part alike; with channels that do not divide, the largest decides.
        merged = {t: whole.merged([(path,)], splits=t) for t in splits}
        for t in splits:
            (operator,) = (operator for operator in merged[t].operators if operator.path == path)
            x = torch.zeros(operator.input_shapes[0]).to(memory_format=torch.channels_last)
            split = SplitInvertedResidual(block, t)
            with torch.inference_mode(), MemoryMeter(x) as meter:
                split(x)
            rows.append(
                SplitMemory(
                    path=path,
                    splits=t,
                    formula_bytes=operator.live_elements * x.element_size(),
                    measured_bytes=meter.peak_bytes,
                )
            )
    return tuple(rows)
