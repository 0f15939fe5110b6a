"""Pooling 3x3 in either framework's padding."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mobilenetv2.numerics import Padding, same_padding

KERNEL = 3


def padding_before(x: Tensor, stride: int, padding: Padding) -> list[int]:
    """Rows above and columns to the left of the map; what is missing after it, `ceil_mode` leaves out of the window."""
    if padding == "symmetric":
        return [KERNEL // 2, KERNEL // 2]
    return [same_padding(size, KERNEL, stride, 1)[0] for size in x.shape[2:]]


class MaxPool(nn.Module):
    """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)); padding never wins."""

    def __init__(self, *, stride: int, padding: Padding) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        before = padding_before(x, self.stride, self.padding)
        return F.max_pool2d(x, KERNEL, self.stride, before, ceil_mode=self.padding == "same")


class AveragePool(nn.Module):
    """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)).

    counts_padding: whether the zeros around the map are averaged too, as torch does unless told not to.
        TensorFlow never does.
    """

    def __init__(self, *, stride: int, padding: Padding, counts_padding: bool) -> None:
        super().__init__()
        self.stride, self.padding, self.counts_padding = stride, padding, counts_padding

    def forward(self, x: Tensor) -> Tensor:
        before = padding_before(x, self.stride, self.padding)
        ceil_mode = self.padding == "same"
        return F.avg_pool2d(x, KERNEL, self.stride, before, ceil_mode, count_include_pad=self.counts_padding)
