"""Tables 1 to 4, the network and classification: ours is counted on the live network, beside what is printed.

The networks stand on torch's `meta` device, where shapes are known and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import cast

import torch
from torch import nn

from mobilenetv2.architecture import BlockPlan
from mobilenetv2.networks.complexity import Complexity, Shape, block_path, trace
from mobilenetv2.networks.mobilenet_v2 import InvertedResidual, MobileNetV2
from mobilenetv2.networks.zoo import ZOO, build
from mobilenetv2.numerics import NUMERICS
from mobilenetv2.paper import published
from mobilenetv2.paper.table import Row, Table, Value

MILLION = 1e6
# The paper's names -> the zoo's, and a width.
CLASSIFIERS: dict[str, tuple[str, float | None]] = {
    "MobileNetV1": ("mobilenet_v1", None),
    "ShuffleNet (1.5)": ("shufflenet_v1", 1.5),
    "ShuffleNet (x2)": ("shufflenet_v1", 2.0),
    "NASNet-A": ("nasnet_a_mobile", None),
    "MobileNetV2": ("mobilenet_v2", None),
    "MobileNetV2 (1.4)": ("mobilenet_v2", 1.4),
}
BYTES = 2  # of an activation in Table 3: 16 bits


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


@cache
def counted(name: str, width: float | None = None) -> Complexity:
    """A network of the zoo, counted at the paper's input."""
    side = ZOO[name].resolution
    return trace(on_meta(lambda: build(name, width=width)), (side, side))


def table1() -> Table:
    """The bottleneck block, from k to k' channels with stride s and expansion t: shapes and Sec. 3.3's cost."""
    size, k, t, k_out = 56, 24, 6, 32
    rows = []
    for stride in (1, 2):
        plan = BlockPlan(in_channels=k, expanded_channels=t * k, out_channels=k_out, stride=stride, dilation=1)
        block = on_meta(partial(_block_alone, plan))
        operators = trace(block, (size, size)).under("1")
        name, after = f"k = {k}, k' = {k_out}, t = {t}, s = {stride}", size // stride
        printed = (
            ("1x1 conv2d, ReLU6", (size, k), (size, t * k), "ReLU6"),
            (f"3x3 dwise s={stride}, ReLU6", (size, t * k), (after, t * k), "ReLU6"),
            ("linear 1x1 conv2d", (after, t * k), (after, k_out), ""),
        )
        for operator, (words, before, behind, activation) in zip(operators, printed, strict=True):
            rows.append(
                Row(
                    network=name,
                    quantity=words,
                    paper=f"{_map(*before)} -> {_map(*behind)}, {activation or 'linear'}",
                    ours=f"{_chw(operator.input_shapes[0])} -> {_chw(operator.output_shape)}, "
                    f"{operator.activation or 'linear'}",
                )
            )
        formula = size * size * k * t * (k + 9 + k_out)
        rows.append(
            Row(
                network=name,
                quantity="multiply-adds, h w d' t (d' + k^2 + d'')",
                paper=formula,
                ours=sum(operator.madds for operator in operators),
                footnote=None
                if stride == 1
                else "Sec. 3.3's formula has no stride. With one, filter and projection work on a quarter of the "
                "pixels.",
            )
        )
    return Table(name="table1", title="Table 1: bottleneck residual block", rows=tuple(rows))


def _block_alone(plan: BlockPlan) -> nn.Module:
    """A block behind a convolution that gives it its channels."""
    return nn.Sequential(nn.Conv2d(3, plan.in_channels, 1), InvertedResidual(plan, NUMERICS["torch"]))


def table2() -> Table:
    """MobileNetV2, row by row."""
    network = cast(MobileNetV2, on_meta(lambda: build("mobilenet_v2")))
    complexity = counted("mobilenet_v2")
    ours: list[tuple[str, str]] = []

    def note(path: str, t: object, c: object, n: object, s: object) -> None:
        ours.append((_chw(complexity.under(path)[0].input_shapes[0]), f"t={t} c={c} n={n} s={s}"))

    def stride(path: str) -> int:
        return max(operator.stride for operator in complexity.under(path))

    note("stem", "-", complexity.under("stem")[0].output_shape[1], 1, stride("stem"))
    for index, stage in enumerate(network.stages):
        path = f"stages.{index}"
        blocks = cast(nn.ModuleList, stage.blocks)
        first = cast(InvertedResidual, blocks[0])
        expanded, narrow = first.filter.conv.in_channels, complexity.under(path)[0].input_shapes[0][1]
        note(path, expanded // narrow, complexity.under(path)[-1].output_shape[1], len(blocks), stride(path))
    note("last", "-", complexity.under("last")[0].output_shape[1], 1, stride("last"))
    note("", "-", "-", 1, "-")
    (pool,) = (operator for operator in complexity.under("") if "pool" in operator.kind)
    ours[-1] = (_chw(pool.input_shapes[0]), ours[-1][1])
    note("classifier", "-", "-", "-", "-")
    blocks_in_all = sum(len(cast(nn.ModuleList, stage.blocks)) for stage in network.stages)
    rows = []
    for index, (line, (shape, values)) in enumerate(zip(published.TABLE_2, ours, strict=True), 1):
        name = f"{index} {line.operator}"
        printed = " ".join(f"{key}={_dash(getattr(line, key))}" for key in "tcns")
        rows.append(Row(network=name, quantity="input", paper=line.input, ours=shape))
        rows.append(Row(network=name, quantity="t, c, n, s", paper=printed, ours=values))
    rows.append(
        Row(
            network="all",
            quantity="bottlenecks",
            paper=19,
            ours=blocks_in_all,
            footnote=f"The text of Sec. 4 speaks of 19 residual bottleneck layers; its Table 2 has {blocks_in_all}.",
        )
    )
    return Table(name="table2", title="Table 2: MobileNetV2 at 224", rows=tuple(rows))


def table3() -> Table:
    """The widest tensor that has to exist at each size."""
    v2 = counted("mobilenet_v2")
    first, *others = dict.fromkeys(block_path(operator.path) for operator in v2.operators if "blocks" in operator.path)
    # The stem is never whole: it is the first block's input, and Sec. 5.1 computes it in parts with the block.
    v2 = v2.merged([("stem", first), *((path,) for path in others), ("last", "")])
    shuffle = counted("shufflenet_v1", 2.0)
    units = [f"stages.{stage}.{unit}" for stage, count in enumerate((4, 8, 4)) for unit in range(count)]
    shuffle = shuffle.merged((path,) for path in units)
    networks = (
        ("MobileNetV1", "v1", counted("mobilenet_v1"), None),
        (
            "MobileNetV2",
            "v2",
            v2,
            "The paper prints the channels of the next stage at 56, 28 and 14 pixels, and their kilobytes. The "
            "network has fewer. Bottlenecks count as one operator, the first convolution and the pooling with their "
            "neighbours.",
        ),
        (
            "ShuffleNet 2x, g=3",
            "shufflenet",
            shuffle,
            "The printed channels, and the kilobytes with them, are of a narrower network: 2x with 3 groups has 48, "
            "480, 960 and 1920. Between its units nothing is saved, since the shortcuts need the wide tensors.",
        ),
    )
    rows = []
    for name, key, complexity, why in networks:
        widest = widest_by_size(complexity)
        for line in published.TABLE_3:
            channels = widest[line.size]
            kilobytes = channels * line.size**2 * BYTES / 1000
            printed_channels, printed_kb = getattr(line, f"{key}_channels"), getattr(line, f"{key}_kb")
            differs = why if printed_channels != channels else None
            if key == "v1" and line.size == 7:
                differs = f"Printed {printed_kb} for {printed_channels} x 7 x 7 numbers of 16 bits, which are 100 kB."
            place = f"{line.size} x {line.size}"
            rows.append(
                Row(
                    network=name,
                    quantity=f"{place}, channels",
                    paper=printed_channels,
                    ours=channels,
                    footnote=differs if printed_channels != channels else None,
                )
            )
            rows.append(
                Row(
                    network=name,
                    quantity=f"{place}, kB",
                    paper=printed_kb,
                    ours=kilobytes,
                    decimals=1,
                    footnote=differs,
                )
            )
        largest = max(channels * size**2 * BYTES / 1000 for size, channels in widest.items())
        paper_max = next(
            value for label, value in published.TABLE_3_MAX_KB.items() if label.split()[0] == name.split()[0]
        )
        rows.append(
            Row(
                network=name,
                quantity="max, kB",
                paper=paper_max,
                ours=largest,
                decimals=1,
                footnote="The printed maximum is the row at 28 pixels, below the 800 printed at 112: it takes the "
                "first layer for saved by Sec. 5.1, as that row does not. The real network needs "
                f"{widest[28] * 28**2 * BYTES / 1000:.0f} kB with that and the number here without."
                if key == "shufflenet"
                else None,
            )
        )
    return Table(
        name="table3",
        title="Table 3: widest tensor at each size, 16-bit activations",
        rows=tuple(rows),
        notes=(
            "kB are 1000 bytes, which the paper prints as Kb, and mostly cut off. MobileNetV2's 1280 channels at 7 x "
            "7 are in no row: the last convolution is taken together with the pooling that follows it.",
        ),
    )


def widest_by_size(complexity: Complexity) -> dict[int, int]:
    """Most channels that an operator writes, by the side of its map in pixels; 1 for what is pooled."""
    widest: dict[int, int] = {}
    for operator in complexity.operators:
        shape = operator.output_shape
        if operator.kind.endswith("linear"):
            continue  # the classifier's answer, not an activation
        side = shape[2] if len(shape) == 4 else 1
        widest[side] = max(widest.get(side, 0), shape[1])
    return widest


def table4() -> Table:
    """ImageNet classifiers at 224."""
    v1, wide = counted("mobilenet_v1"), counted("mobilenet_v2", 1.4)
    footnotes = {
        ("MobileNetV1", "multiply-adds (M)"): "Its own paper prints 569 M, which is what it has "
        f"({v1.madds:,}); no rule of counting gives 575.",
        (
            "MobileNetV2 (1.4)",
            "parameters (M)",
        ): f"It has {wide.parameters_without_batch_norm:,} without batch norm and "
        f"{wide.parameters:,} with it; TF-Slim, from the same authors, prints 6.06 M. 6.9 M cannot be reached: 1001 "
        "classes add 1,793.",
    }
    rows = []
    for line in published.TABLE_4:
        complexity = counted(*CLASSIFIERS[line.network])
        for quantity, paper, ours in (
            ("parameters (M)", line.parameters_m, complexity.parameters_without_batch_norm),
            ("multiply-adds (M)", line.madds_m, complexity.madds),
        ):
            rows.append(
                Row(
                    network=line.network,
                    quantity=quantity,
                    paper=paper,
                    ours=ours / MILLION,
                    decimals=3 if "param" in quantity else 1,
                    footnote=footnotes.get((line.network, quantity)),
                )
            )
    return Table(
        name="table4",
        title="Table 4: ImageNet classifiers",
        rows=tuple(rows),
        notes=(
            "Convolutions and the classifier; parameters without batch norm. NASNet-A without the auxiliary head, "
            "which serves training only. For the CPU column see `mobilenetv2 paper latency`.",
        ),
    )


def _map(side: int, channels: int) -> str:
    return f"{side} x {side} x {channels}"


def _chw(shape: Shape) -> str:
    """(1, C, H, W) or (1, C) as the paper writes it."""
    channels, *size = shape[1:]
    height, width = size or (1, 1)
    return f"{height} x {width} x {channels}"


def _dash(value: Value) -> Value:
    return "-" if value is None else value
