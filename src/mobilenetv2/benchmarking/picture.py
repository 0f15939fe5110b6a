"""A benchmark as one picture: latency, throughput and, where it was measured, accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenetv2.benchmarking.report import BenchmarkReport, BenchmarkRow
from mobilenetv2.plots import BLUE, INK, LINE, ORANGE, QUIET, new_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR, LEGEND_LINE = 0.3, 0.17  # inches
MARKERS = "osD^vP*X<>"


def benchmark_png(report: BenchmarkReport) -> bytes:
    """Bars of p50 with its interval, p99 and roofline; throughput by batch; accuracy by latency.

    The last is left out where no accuracy was measured, throughput where there is one batch only.
    """
    figure = new_figure()
    panels = [_draw_latency]
    if len(report.batches) > 1:
        panels.append(_draw_throughput)
    if any(row.accuracy is not None for row in report.rows):
        panels.append(_draw_accuracy)
    groups = len(report.groups)
    height = max(3.0, 0.8 + BAR * groups) + LEGEND_LINE * groups
    figure.set_size_inches(5.6 * len(panels), height)
    grid = figure.subplots(1, len(panels), squeeze=False)
    for draw, axes in zip(panels, grid[0], strict=True):
        draw(axes, report)
        axes.tick_params(length=0, labelsize=8, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(LINE)
        axes.set_axisbelow(True)
    return to_png(figure)


def _draw_latency(axes: Axes, report: BenchmarkReport) -> None:
    rows = [group[0] for group in report.groups]
    places = np.arange(len(rows))
    p50 = np.array([row.latency.p50 for row in rows])
    low, high = np.array([_interval(row) for row in rows]).T
    axes.barh(places, p50, 0.62, color=BLUE, label="p50")
    span = [p50 - low, high - p50]
    axes.errorbar(p50, places, xerr=span, fmt="none", ecolor=INK, capsize=3, linewidth=1.2, label="its 95 % interval")
    axes.plot(
        [row.latency.p99 for row in rows], places, "|", color=ORANGE, markersize=10, markeredgewidth=2, label="p99"
    )
    roofline = [row.roofline_ms for row in rows]
    axes.plot(roofline, places, "d", color="white", markeredgecolor=INK, markersize=6, label="roofline")
    axes.set_yticks(places, _labels(report), fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.grid(axis="x", color=LINE, linewidth=0.8)
    _title(axes, f"Latency of {_pictures(report)}", "ms")
    _legend(axes, columns=4)


def _draw_throughput(axes: Axes, report: BenchmarkReport) -> None:
    for group, look in zip(report.groups, _looks(report), strict=True):
        most = [1000 * row.batch / row.latency.low for row in group]
        least = [1000 * row.batch / row.latency.high for row in group]
        axes.fill_between(report.batches, least, most, color=look["color"], alpha=0.15, linewidth=0)
        axes.plot(report.batches, [row.images_per_s for row in group], linewidth=1.4, **look)
    axes.set_xscale("log", base=2)
    axes.minorticks_off()
    axes.set_xticks(report.batches, [str(batch) for batch in report.batches])
    axes.set_ylim(bottom=0)
    axes.grid(color=LINE, linewidth=0.8)
    _title(axes, "Throughput, with its 95 % interval", "pictures at once")
    axes.set_ylabel("images a second", color=QUIET, fontsize=9)
    _legend(axes)


def _draw_accuracy(axes: Axes, report: BenchmarkReport) -> None:
    for group, look in zip(report.groups, _looks(report), strict=True):
        row = group[0]
        if row.accuracy is None:
            continue
        low, high = _interval(row)
        span = [[row.latency.p50 - low], [high - row.latency.p50]]
        axes.errorbar(row.latency.p50, 100 * row.accuracy, xerr=span, capsize=3, linestyle="none", **look)
    axes.set_xlim(left=0)
    axes.grid(color=LINE, linewidth=0.8)
    _title(axes, "Accuracy by latency", f"p50 of {_pictures(report)} (ms)")
    measures = " or ".join(sorted({row.measure for row in report.rows if row.measure}))
    axes.set_ylabel(f"{measures} (%)", color=QUIET, fontsize=9)
    if len(report.batches) == 1:
        _legend(axes)  # else the one beside it serves


def _interval(row: BenchmarkRow) -> tuple[float, float]:
    return row.latency.low, row.latency.high


def _labels(report: BenchmarkReport) -> list[str]:
    return [
        f"{name}, {row.engine} {row.precision}, {row.threads} thread{'s' * (row.threads > 1)}"
        for name, (row, *_) in zip(report.names, report.groups, strict=True)
    ]


def _looks(report: BenchmarkReport) -> list[dict[str, Any]]:
    """A colour, a marker and a label for each group. The colours differ in lightness, however many there are."""
    from matplotlib import colormaps

    labels = _labels(report)
    colours = colormaps["viridis"](np.linspace(0, 0.85, len(labels)))
    return [
        {"color": colour, "marker": MARKERS[place % len(MARKERS)], "markersize": 5, "label": label}
        for place, (colour, label) in enumerate(zip(colours, labels, strict=True))
    ]


def _pictures(report: BenchmarkReport) -> str:
    least = report.batches[0]
    return "one picture" if least == 1 else f"{least} pictures at once"


def _title(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(unit, color=QUIET, fontsize=9)


def _legend(axes: Axes, columns: int = 1) -> None:
    """Below, as there is no corner that all the marks leave free."""
    from matplotlib.transforms import ScaledTranslation

    below_labels = axes.transAxes + ScaledTranslation(0, -0.4, axes.figure.dpi_scale_trans)
    legend = axes.legend(
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        ncols=columns,
        loc="upper left",
        borderaxespad=0,
        bbox_to_anchor=(0, 0),
        bbox_transform=below_labels,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # names are the user's: no $ in them begins a formula
