"""Both paddings against windows written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mobilenetv2.networks.pooling import AveragePool, MaxPool
from mobilenetv2.numerics import same_padding

SIZES_HW = ((1, 1), (2, 5), (6, 7), (8, 8))
INFINITY = float("inf")


def padded_same(x: Tensor, stride: int, value: float) -> Tensor:
    top, bottom = same_padding(x.shape[2], 3, stride, 1)
    left, right = same_padding(x.shape[3], 3, stride, 1)
    return F.pad(x, (left, right, top, bottom), value=value)


@pytest.fixture(params=SIZES_HW, ids=str)
def x(request: pytest.FixtureRequest) -> Tensor:
    # Below zero, so that a zero of the padding would win.
    return -1 - torch.rand(2, 3, *request.param, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stride", [1, 2])
def test_same_is_tensorflows(x: Tensor, stride: int) -> None:
    expected = F.max_pool2d(padded_same(x, stride, -INFINITY), 3, stride)
    assert torch.equal(MaxPool(stride=stride, padding="same")(x), expected)
    assert expected.shape[2:] == (-(-x.shape[2] // stride), -(-x.shape[3] // stride))

    sums = F.avg_pool2d(padded_same(x, stride, 0), 3, stride)
    counts = F.avg_pool2d(padded_same(torch.ones_like(x), stride, 0), 3, stride)
    average = AveragePool(stride=stride, padding="same", counts_padding=False)
    torch.testing.assert_close(average(x), sums / counts)


@pytest.mark.parametrize("stride", [1, 2])
def test_symmetric_is_torchs(x: Tensor, stride: int) -> None:
    assert torch.equal(MaxPool(stride=stride, padding="symmetric")(x), F.max_pool2d(x, 3, stride, 1))
    for counts in (False, True):
        average = AveragePool(stride=stride, padding="symmetric", counts_padding=counts)
        assert torch.equal(average(x), F.avg_pool2d(x, 3, stride, 1, count_include_pad=counts))


def test_the_two_read_other_windows_of_an_even_map() -> None:
    x = torch.arange(4.0).expand(1, 1, 4, 4)
    assert MaxPool(stride=2, padding="same")(x)[0, 0, 0].tolist() == [2, 3]
    assert MaxPool(stride=2, padding="symmetric")(x)[0, 0, 0].tolist() == [1, 3]
    assert AveragePool(stride=2, padding="same", counts_padding=False)(x)[0, 0, 0].tolist() == [1, 2.5]
