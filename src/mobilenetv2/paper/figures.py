"""Figures 1 and 5 (Sandler et al., CVPR 2018), drawn from our own numbers, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mobilenetv2.architecture import Architecture, multiply_adds
from mobilenetv2.paper.manifold import Passage, figure_1, spiral
from mobilenetv2.paper.published import MOBILENET_V1, SHUFFLENET_V1, SLIM_MOBILENET_V2, TABLE_4, SlimV2
from mobilenetv2.plots import BLUE, INK, LINE, ORANGE, QUIET, new_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More of Okabe and Ito's colours; one a width, in the order of Table 4's cost.
WIDTH_COLOURS = {0.35: "#cc79a7", 0.5: "#56b4e9", 0.75: "#009e73", 1.0: BLUE, 1.3: ORANGE, 1.4: INK}
# Larger pictures are larger circles.
RESOLUTION_MARKERS = {96: 3.0, 128: 4.2, 160: 5.4, 192: 6.6, 224: 7.8}
COMPARISON_MARKERS = ("s", "^", "D", "v", "P")


class Comparison(NamedTuple):
    """Another network in Figure 5. Points of one series are joined, in their order.

    cost: in the unit of the picture's axis: millions of multiply-adds, or milliseconds.
    """

    series: str
    label: str
    cost: float
    top1: float


class CurvePoint(NamedTuple):
    """A published MobileNetV2: its top-1 in percent against our cost."""

    width: float
    resolution: int
    cost: float
    top1: float


def figure1_png(*, seed: int = 0) -> bytes:
    """The spiral, and what is left of it after ReLU in 2, 3, 5, 15 and 30 dimensions; colours run along the line."""
    before, passages = spiral(), figure_1(seed=seed)
    figure = new_figure()
    figure.set_size_inches(11, 2.5)
    panels = figure.subplots(1, 1 + len(passages))
    along = np.arange(len(before))
    for axes, points in zip(panels, (before, *(passage.output for passage in passages)), strict=True):
        axes.plot(points[:, 0], points[:, 1], color=LINE, linewidth=0.8, zorder=1)
        axes.scatter(points[:, 0], points[:, 1], c=along, cmap="plasma", s=5, linewidths=0, zorder=2)
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.08)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color(LINE)
    panels[0].set_title("Input", fontsize=10, color=INK)
    for axes, passage in zip(panels[1:], passages, strict=True):
        axes.set_title(f"n = {passage.dimensions}", fontsize=10, color=INK)
        axes.set_xlabel(_loss(passage), fontsize=8, color=QUIET, linespacing=1.4)
    return to_png(figure)


def _loss(passage: Passage) -> str:
    return f"collapsed: {100 * passage.collapsed:.0f} %\nneighbours kept: {100 * passage.neighbours_kept:.0f} %"


def figure5_points() -> tuple[CurvePoint, ...]:
    """TF-Slim's 22 checkpoints at the millions of multiply-adds of our architecture."""
    return tuple(
        CurvePoint(row.width, row.resolution, madds / 1e6, row.top1)
        for row in SLIM_MOBILENET_V2
        for madds in [multiply_adds(Architecture(width=row.width), (row.resolution, row.resolution))]
    )


def published_comparisons() -> tuple[Comparison, ...]:
    """MobileNetV1 by width and by resolution, ShuffleNet of 3 groups and NASNet-A, all at their own papers' numbers."""
    by_width = sorted(row for row in MOBILENET_V1 if row.resolution == 224)
    by_resolution = sorted(row for row in MOBILENET_V1 if row.width == 1.0)
    # Both end with the same network, which is named once.
    resolutions = [*(f"{row.resolution}" for row in by_resolution[:-1]), ""]
    shufflenets = [row for row in SHUFFLENET_V1 if row.groups == 3]
    nasnet = next(row for row in TABLE_4 if row.network == "NASNet-A")
    return (
        *(Comparison("MobileNetV1, by width", f"{row.width}", row.madds_m, row.top1) for row in by_width),
        *(
            Comparison("MobileNetV1, by resolution", name, row.madds_m, row.top1)
            for name, row in zip(resolutions, by_resolution, strict=True)
        ),
        *(
            Comparison("ShuffleNet, 3 groups", f"{row.width}x", row.madds_m, round(100 - row.top1_error, 1))
            for row in shufflenets
        ),
        Comparison(nasnet.network, "", nasnet.madds_m, nasnet.top1),
    )


def figure5_png(comparisons: Sequence[Comparison] | None = None) -> bytes:
    """Published top-1 against multiply-adds of our architecture; `comparisons` are the published ones if None."""
    others = published_comparisons() if comparisons is None else comparisons
    return _accuracy_png(
        figure5_points(), others, title="ImageNet top-1 against multiply-adds", cost="multiply-adds (millions)"
    )


def figure5_latency_png(
    latency_ms: Mapping[tuple[float, int], float],
    comparisons: Sequence[Comparison] = (),
    *,
    title: str = "ImageNet top-1 against latency on this machine",
) -> bytes:
    """The same accuracies against measured milliseconds for one picture.

    latency_ms: by (width, resolution); points without one are left out. ValueError: for a pair that is not published.
    """
    published = {(row.width, row.resolution): row for row in SLIM_MOBILENET_V2}
    unknown = sorted(set(latency_ms) - set(published))
    if unknown:
        raise ValueError(f"no published accuracy for (width, resolution) {unknown[0]}")

    def point(row: SlimV2) -> CurvePoint:
        return CurvePoint(row.width, row.resolution, latency_ms[row.width, row.resolution], row.top1)

    points = tuple(point(row) for key, row in published.items() if key in latency_ms)
    return _accuracy_png(points, comparisons, title=title, cost="latency (ms)")


def _accuracy_png(points: Sequence[CurvePoint], comparisons: Sequence[Comparison], *, title: str, cost: str) -> bytes:
    figure = new_figure()
    figure.set_size_inches(8.5, 5)
    axes = figure.add_subplot()
    _draw_comparisons(axes, comparisons)
    for width, colour in WIDTH_COLOURS.items():
        curve = sorted((point for point in points if point.width == width), key=lambda point: point.resolution)
        costs, top1 = [point.cost for point in curve], [point.top1 for point in curve]
        sizes = [RESOLUTION_MARKERS[point.resolution] ** 2 for point in curve]
        axes.plot(costs, top1, color=colour, linewidth=1.4, zorder=3)
        axes.scatter(costs, top1, s=sizes, color=colour, linewidths=0, zorder=4)
    _dress(axes, title, cost)
    _explain(axes, sorted({point.width for point in points}), comparisons)
    return to_png(figure)


def _draw_comparisons(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    for series, marker in _markers(comparisons).items():
        line = [point for point in comparisons if point.series == series]
        axes.plot(
            [point.cost for point in line],
            [point.top1 for point in line],
            color=QUIET,
            linewidth=0.9,
            linestyle=":",
            marker=marker,
            markersize=5,
            markerfacecolor="white",
            zorder=5,
        )
        for point in line:
            axes.annotate(
                point.label,
                (point.cost, point.top1),
                xytext=(5, -9),
                textcoords="offset points",
                fontsize=7.5,
                color=QUIET,
                parse_math=False,
            )


def _markers(comparisons: Sequence[Comparison]) -> dict[str, str]:
    series = list(dict.fromkeys(point.series for point in comparisons))
    return {name: COMPARISON_MARKERS[index % len(COMPARISON_MARKERS)] for index, name in enumerate(series)}


def _dress(axes: Axes, title: str, cost: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_title(title, fontsize=10, color=INK, loc="left", parse_math=False)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(cost, color=QUIET, fontsize=9)
    axes.set_ylabel("top-1 (%)", color=QUIET, fontsize=9)
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)


def _explain(axes: Axes, widths: Sequence[float], comparisons: Sequence[Comparison]) -> None:
    from matplotlib.lines import Line2D

    def key(label: str, **style: Any) -> Line2D:
        return Line2D([], [], label=label, **style)

    style: dict[str, Any] = {"fontsize": 8, "labelcolor": INK, "alignment": "left"}
    # White, so that no line of the grid runs through a name.
    style |= {"facecolor": "white", "edgecolor": "none", "framealpha": 1, "borderaxespad": 0.2}
    curves = [
        *(key(f"MobileNetV2 {width}", color=WIDTH_COLOURS[width], marker="o", markersize=5) for width in widths),
        *(
            key(series, color=QUIET, linestyle=":", marker=marker, markersize=5, markerfacecolor="white")
            for series, marker in _markers(comparisons).items()
        ),
    ]
    resolutions = [
        key(f"{side}", color=QUIET, linestyle="none", marker="o", markersize=size, markeredgewidth=0)
        for side, size in RESOLUTION_MARKERS.items()
    ]
    first = axes.legend(handles=curves, loc="lower right", **style)
    axes.add_artist(first)
    axes.legend(handles=resolutions, loc="upper left", title="input (pixels)", title_fontsize=8, **style)
