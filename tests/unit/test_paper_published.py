"""The printed tables: literal, but they must agree with each other and with the networks where papers do."""

from __future__ import annotations

import pytest

from mobilenetv2.architecture import Architecture, multiply_adds, parameters
from mobilenetv2.paper.published import (
    MOBILENET_V1,
    SHUFFLENET_V1,
    SLIM_MOBILENET_V2,
    TABLE_4,
    TABLE_6,
    TABLE_7,
    SlimV2,
)


@pytest.mark.parametrize("row", SLIM_MOBILENET_V2, ids=lambda row: f"{row.width}_{row.resolution}")
def test_slims_costs_are_those_of_our_architecture(row: SlimV2) -> None:
    architecture = Architecture(width=row.width)
    assert multiply_adds(architecture, (row.resolution, row.resolution)) // 10**6 == row.madds_m
    assert round(parameters(architecture, batch_norm=False) / 1e6, 2) == row.parameters_m


def test_slim_has_every_width_and_resolution_once() -> None:
    pairs = {(row.width, row.resolution) for row in SLIM_MOBILENET_V2}
    grid = {(width, side) for width in (0.35, 0.5, 0.75, 1.0) for side in (96, 128, 160, 192, 224)}
    assert len(SLIM_MOBILENET_V2) == 22
    assert pairs == grid | {(1.3, 224), (1.4, 224)}


def test_accuracy_rises_with_resolution_and_width() -> None:
    """A digit typed wrongly would most likely break the order."""
    top1 = {(row.width, row.resolution): row.top1 for row in SLIM_MOBILENET_V2}
    top5 = {(row.width, row.resolution): row.top5 for row in SLIM_MOBILENET_V2}
    pixel1_ms = {(row.width, row.resolution): row.pixel1_ms for row in SLIM_MOBILENET_V2}
    for column in (top1, top5, pixel1_ms):
        for (width, side), value in column.items():
            above = [column[pair] for pair in column if pair[0] >= width and pair[1] >= side and pair != (width, side)]
            assert all(value < other for other in above)


def test_table_4_repeats_the_other_papers() -> None:
    table_4 = {row.network: row for row in TABLE_4}
    errors = {row.width: row.top1_error for row in SHUFFLENET_V1 if row.groups == 3}
    assert table_4["MobileNetV1"].top1 == next(row.top1 for row in MOBILENET_V1 if row[:2] == (1.0, 224))
    assert table_4["ShuffleNet (1.5)"].top1 == round(100 - errors[1.5], 1)
    assert table_4["ShuffleNet (x2)"].top1 == round(100 - errors[2.0], 1)


def test_table_7s_multi_scale_rows_cost_more_than_their_own_single_scale() -> None:
    for many in (row for row in TABLE_7 if row.multi_scale_flip):
        one = next(
            row for row in TABLE_7 if row.network == many.network and row.aspp == many.aspp and not row.multi_scale_flip
        )
        assert one.parameters_m == many.parameters_m
        assert many.miou > one.miou
        # Multi-scale and flip cost 17.375 times as much, the finer map at least twice.
        assert many.madds_b > 2 * 17.375 * one.madds_b


def test_the_papers_latency_ratios() -> None:
    table_4 = {row.network: row.cpu_ms for row in TABLE_4}
    table_6 = {row.network: row.cpu_ms for row in TABLE_6}
    assert [table_4[name] for name in ("MobileNetV1", "MobileNetV2", "MobileNetV2 (1.4)", "NASNet-A")] == [
        113,
        75,
        143,
        183,
    ]
    assert (table_6["MobileNetV2 + SSDLite"], table_6["MobileNetV1 + SSDLite"]) == (200, 270)
