"""Figures 1 and 5: the right numbers in them, and every curve really drawn."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.paper.figures import (
    WIDTH_COLOURS,
    Comparison,
    figure1_png,
    figure5_latency_png,
    figure5_png,
    figure5_points,
    published_comparisons,
)
from mobilenetv2.paper.published import SLIM_MOBILENET_V2
from mobilenetv2.plots import QUIET

PIXEL_1_MS = {(row.width, row.resolution): row.pixel1_ms for row in SLIM_MOBILENET_V2}


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def pixels_of(png: bytes, colour: str) -> int:
    return int((pixels(png) == np.round(np.array(to_rgb(colour)) * 255).astype(np.uint8)).all(2).sum())


def test_figure_5_has_all_published_rows_at_our_costs() -> None:
    points = {(point.width, point.resolution): point for point in figure5_points()}
    assert len(points) == 22
    assert points[1.4, 224].cost == pytest.approx(582.20, abs=0.005)
    assert points[1.0, 224].cost == pytest.approx(300.77, abs=0.005)
    assert points[0.35, 96].cost == pytest.approx(11.93, abs=0.005)
    assert (points[1.4, 224].top1, points[1.0, 224].top1, points[0.35, 96].top1) == (75.0, 71.8, 45.5)


def test_comparisons_are_the_other_papers_points() -> None:
    by_series: dict[str, list[tuple[float, float]]] = {}
    for point in published_comparisons():
        by_series.setdefault(point.series, []).append((point.cost, point.top1))
    assert by_series == {
        "MobileNetV1, by width": [(41, 50.6), (149, 63.7), (325, 68.4), (569, 70.6)],
        "MobileNetV1, by resolution": [(186, 64.4), (290, 67.2), (418, 69.1), (569, 70.6)],
        "ShuffleNet, 3 groups": [(137, 67.4), (292, 71.5), (524, 73.7)],
        "NASNet-A": [(564, 74.0)],
    }


@pytest.fixture(scope="module")
def figure5() -> bytes:
    return figure5_png()


@pytest.fixture(scope="module")
def latency_of_all() -> bytes:
    return figure5_latency_png(PIXEL_1_MS)


def test_figure_5_draws_every_width(figure5: bytes, latency_of_all: bytes) -> None:
    for colour in WIDTH_COLOURS.values():
        assert pixels_of(figure5, colour) > 100
        assert pixels_of(latency_of_all, colour) > 100


def test_the_latency_picture_draws_what_it_is_given() -> None:
    """Other networks and the title are drawn as they are written: no $ in them begins a formula."""
    only_one = {key: ms for key, ms in PIXEL_1_MS.items() if key[0] == 1.0}
    other = Comparison("net $x_1$", "$_$", 40.0, 70.0)
    with_other = figure5_latency_png(only_one, [other], title="on $5 _ machine")
    assert pixels_of(with_other, QUIET) > pixels_of(figure5_latency_png(only_one), QUIET) + 100
    for width, colour in WIDTH_COLOURS.items():
        # Ink is also the letters' colour.
        if width != 1.4:
            assert (pixels_of(with_other, colour) > 0) == (width == 1.0)


def test_an_unpublished_network_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match=r"no published accuracy for \(width, resolution\) \(0.6, 224\)"):
        figure5_latency_png({(1.0, 224): 20.0, (0.6, 224): 10.0})


def test_figure_1_is_six_coloured_panels_in_a_row() -> None:
    picture = pixels(figure1_png())
    height, width = picture.shape[:2]
    assert width > 3.5 * height
    colourful = picture.max(2).astype(int) - picture.min(2) > 60
    for panel in np.array_split(colourful, 6, axis=1):
        assert panel.sum() > 1000


def test_a_picture_is_the_same_every_time(figure5: bytes) -> None:
    assert figure5_png() == figure5


def test_neither_torch_nor_a_screen_is_needed() -> None:
    code = (
        "import sys; from mobilenetv2.paper.figures import figure5_png; figure5_png();"
        "print([name for name in ('torch', 'matplotlib.pyplot') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
