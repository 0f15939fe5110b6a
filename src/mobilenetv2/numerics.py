"""What frameworks do differently with the same network: padding, batch norm, channel rounding, dilation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mobilenetv2.errors import UserError

Padding = Literal["symmetric", "same", "trailing"]
Rounding = Literal["slim", "ceil8", "int"]
Dilation = Literal["slim", "smp", "mmseg"]


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """What frameworks do differently with the same weights.

    `padding`: "symmetric" pads (k - 1) / 2 on every side; "same" is TensorFlow's SAME, which at stride 2
    with an even input pads only below and to the right; "trailing" is "same" but for depthwise convolutions of
    stride 2, which pad only below and to the right whatever the size, so that odd sides are rounded down.
    `batch_norm_momentum` is torch's: the weight of the new batch, not of the running value.
    """

    padding: Padding
    batch_norm_eps: float
    batch_norm_momentum: float


NUMERICS = {
    "torch": Numerics(padding="symmetric", batch_norm_eps=1e-5, batch_norm_momentum=0.1),
    # TF-Slim: epsilon .001, decay .997.
    "tf": Numerics(padding="same", batch_norm_eps=1e-3, batch_norm_momentum=0.003),
    # keras-applications' MobileNetV1; its V2 knows its input's size, and is as TF-Slim's.
    "keras": Numerics(padding="trailing", batch_norm_eps=1e-3, batch_norm_momentum=0.01),
}


def check_task_numerics(numerics: str) -> None:
    """Raise UserError for numerics that round sides down: boxes and masks are computed for maps that are rounded up."""
    if NUMERICS[numerics].padding == "trailing":
        raise UserError(f"numerics {numerics!r} are of classifiers alone; 'tf' is the same where sides are even")


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of one axis as (before, after); the odd pixel goes after."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def round_channels(channels: float, divisor: int = 8) -> int:
    """TF-Slim's rule: the nearest multiple of `divisor`, but never more than 10 % below `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _up_to_8(channels: float) -> int:
    # 160 * .35 is a little less than 56 here and a little more elsewhere; neither is meant.
    return math.ceil(round(channels / 8, 6)) * 8


def _cut_off(channels: float) -> int:
    return max(1, int(round(channels, 6)))


class RoundingRule(NamedTuple):
    """How a width becomes whole channels. scales_start: whether it reaches the stem and the first stage."""

    round: Callable[[float], int]
    scales_start: bool


ROUNDINGS: dict[Rounding, RoundingRule] = {
    # TF-Slim, torchvision, timm, Keras, transformers, mmpretrain, d-li14.
    "slim": RoundingRule(round_channels, scales_start=True),
    # tonylins.
    "ceil8": RoundingRule(_up_to_8, scales_start=False),
    # PaddleClas, pytorchcv, and the TF DeepLab zoo's dm05.
    "int": RoundingRule(_cut_off, scales_start=True),
}

# Who dilates which depthwise convolutions once the output stride is reached. A block that loses its stride keeps the
# dilation of those before it (TF-Slim, timm, transformers); it takes the new one too (segmentation_models_pytorch);
# only the first block of each stage is dilated, with the new one (mmsegmentation).
DILATIONS = ("slim", "smp", "mmseg")


def plan_strides(
    strides: Iterable[Sequence[int]], output_stride: int, rule: Dilation = "slim"
) -> Iterator[tuple[int, int]]:
    """Stride and dilation of each block behind the stem, from the strides of each stage's blocks in the table."""
    reached, dilation = 2, 1
    for stage in strides:
        for index, wanted in enumerate(stage):
            stride = wanted if reached * wanted <= output_stride else 1
            new = dilation * wanted // stride
            yield stride, dilation if rule == "slim" else 1 if rule == "mmseg" and index else new
            reached *= stride
            dilation = new
