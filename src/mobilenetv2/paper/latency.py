"""Networks timed side by side on this machine, as a ratio to one of them (the CPU columns of Tables 4 and 6).

The engine is PyTorch, eager, on the CPU, alike for all: inference mode, batch norm folded into the convolutions,
channels last. It is not TF-Lite on a Pixel 1, so ratios are compared and not milliseconds, and a network of many
small operators (NASNet-A) pays more for each of them here. ONNX Runtime would be nearer to what is shipped,
but PyTorch cannot export all of these networks to it without further packages.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import comb
from time import perf_counter
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mobilenetv2.networks.layers import channels_last

Key = TypeVar("Key", bound=Hashable)

MAX_DIFFERENCE = 1e-3  # that folding may make, relative to the largest output


class Subject(NamedTuple):
    """A network to time, and the height and width of its input in pixels."""

    network: nn.Module
    size_hw: tuple[int, int]


class Spread(NamedTuple):
    """The middle of some measurements, its 95 % confidence interval, and the quartiles."""

    p50: float
    low: float
    high: float
    p25: float
    p75: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds for one picture, one number a round."""

    rounds_ms: tuple[float, ...]

    @property
    def ms(self) -> Spread:
        return spread(self.rounds_ms)

    def ratio_to(self, other: Latency) -> Spread:
        """This latency over the other's, round by round: what slows the whole machine falls on both."""
        pairs = zip(self.rounds_ms, other.rounds_ms, strict=True)
        return spread([mine / theirs for mine, theirs in pairs])


class LatencyRow(NamedTuple):
    """A network's latency and its ratio to the reference, here and in the paper."""

    network: str
    ms: Spread
    ratio: Spread
    paper_ms: float | None
    paper_ratio: float | None


def measure_latency(
    subjects: Mapping[Key, Subject],
    *,
    rounds: int = 30,
    limit_s: float | None = None,
    threads: int = 1,
    seed: int = 0,
) -> dict[Key, Latency]:
    """Time every network at batch 1, in interleaved rounds.

    A round runs every network twice in a random order and times the second run: the first brings its weights
    and kernels back into the caches that the others have filled. The networks themselves stay as they are.

    rounds: at least 1. limit_s: no new round begins after this many seconds of rounds. threads: of PyTorch, given
        back afterwards. seed: of the pictures (noise) and the order.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds are too few; give at least 1")
    random = np.random.default_rng(seed)
    noise = torch.Generator().manual_seed(seed)
    rounds_ms: dict[Key, list[float]] = {key: [] for key in subjects}
    keys = list(subjects)
    with _threads(threads):
        prepared = {}
        for key, (network, size_hw) in subjects.items():
            pictures = torch.randn(2, 3, *size_hw, generator=noise)
            picture = pictures[:1].contiguous(memory_format=torch.channels_last)
            prepared[key] = prepare(network, pictures), picture
        begin = perf_counter()
        with torch.inference_mode():
            for _ in range(rounds):
                for index in random.permutation(len(keys)):
                    network, picture = prepared[keys[index]]
                    network(picture)
                    start = perf_counter()
                    network(picture)
                    rounds_ms[keys[index]].append((perf_counter() - start) * 1000)
                if limit_s is not None and perf_counter() - begin > limit_s:
                    break
    return {key: Latency(rounds_ms=tuple(measured)) for key, measured in rounds_ms.items()}


def compare(
    latencies: Mapping[str, Latency], *, reference: str, paper_ms: Mapping[str, float | None]
) -> tuple[LatencyRow, ...]:
    """A row for each network: its ratio to `reference` here, beside the ratio of the paper's milliseconds.

    A network that `paper_ms` lacks, or has None for, has no ratio there.
    """
    reference_ms = paper_ms[reference]
    if reference_ms is None:
        raise ValueError(f"the paper has no latency for the reference {reference!r}")
    rows = []
    for name, latency in latencies.items():
        ms = paper_ms.get(name)
        ratio = None if ms is None else ms / reference_ms
        rows.append(LatencyRow(name, latency.ms, latency.ratio_to(latencies[reference]), ms, ratio))
    return tuple(rows)


def spread(values: tuple[float, ...] | list[float]) -> Spread:
    """Median, quartiles, and the interval between two of the values that holds the true median in 95 of 100 cases.

    The interval assumes nothing about the distribution but independence; below six values it is their whole range.
    """
    ordered = sorted(values)
    # The true median is below the k-th smallest (from 0) of n values with the chance of at most k heads in n throws.
    count, outside, tail = len(ordered), 0, 0.5 ** len(ordered)
    while outside < count // 2:
        chance = comb(count, outside + 1) * 0.5**count
        if tail + chance > 0.025:
            break
        tail += chance
        outside += 1
    p25, p50, p75 = (float(value) for value in np.percentile(ordered, (25, 50, 75)))
    return Spread(p50, ordered[outside], ordered[count - 1 - outside], p25, p75)


def prepare(network: nn.Module, pictures: Tensor) -> nn.Module:
    """A copy of the network as it would be deployed: evaluating, batch norm folded, channels last.

    pictures: (N, 3, H, W), N at least 2. Batch norm takes its statistics from them: with those of a network that
        was never trained, values could shrink to denormal numbers, with which a processor is many times slower.

    A batch norm is folded where it stands beside its convolution as `norm` beside `conv`, as in `ConvNorm`.
    Another one stays, such as the one over two joined convolutions in NASNet-A's reductions.
    RuntimeError: if folding changes what the network answers.
    """
    network = copy.deepcopy(network)
    with torch.no_grad():
        _calibrate(network, pictures)
        network.eval()
        channels_last(network)
        picture = pictures[:1].contiguous(memory_format=torch.channels_last)
        expected = _tensors(network(picture))
        answered = _tensors(network(picture)) if fold_batch_norm(network) else expected
    for before, after in zip(expected, answered, strict=True):
        difference = (after - before).abs().max() / before.abs().max()
        if not difference <= MAX_DIFFERENCE:
            raise RuntimeError(f"{type(network).__name__} answers otherwise with its batch norm folded: {difference}")
    return network


def fold_batch_norm(network: nn.Module) -> int:
    """Replace every `conv` and `norm` of one module by a convolution with bias, in place; in evaluation mode only.

    Returns how many batch norms are gone.
    """
    folded = 0
    for module in network.modules():
        conv, norm = getattr(module, "conv", None), getattr(module, "norm", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(conv, norm)
            module.norm = nn.Identity()
            folded += 1
    return folded


def _calibrate(network: nn.Module, pictures: Tensor) -> None:
    """Give every batch norm these pictures' means by channel, and their variance as one number for all channels."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
    network.train()
    network(pictures)
    for variances in (norm.running_var for norm in norms):
        # On a map of one pixel a channel has only two values, which may be nearly equal.
        if variances is not None:
            variances.fill_(variances.mean())


def _tensors(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, tuple | list):
        return [tensor for part in output for tensor in _tensors(part)]
    raise TypeError(f"a network answers with {type(output).__name__}; tensors and tuples of them can be compared")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
