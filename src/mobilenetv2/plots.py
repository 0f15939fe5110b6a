"""Pictures of numbers, as PNG bytes. Colours are told apart by colour-blind people too."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenetv2.errors import MissingExtraError
from mobilenetv2.evaluation.classify import Evaluation
from mobilenetv2.evaluation.detect import DetectionEvaluation
from mobilenetv2.evaluation.segment import SegmentationEvaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's blue and vermilion.
BLUE, ORANGE, INK, QUIET, LINE = "#0072b2", "#d55e00", "#27272a", "#71717a", "#e4e4e7"
DPI = 192  # twice a plain screen's
NUMBERS_UP_TO = 20  # classes; above, cells are too small to hold a number
NAMES_UP_TO = 100
LONGEST_NAME = 24


def confusion_png(evaluation: Evaluation | SegmentationEvaluation) -> bytes:
    """Rows are what pictures or pixels are, columns what the model says; colours are shares of each row.

    Up to 20 classes, cells hold counts of pictures, or of pixels the shares in percent. Up to 100, axes hold names.
    Names that the font cannot draw become the number of their class.
    """
    figure = new_figure()
    counts, names = evaluation.confusion, _names(evaluation.classes)
    size = len(names)
    cell_in = 0.42 if size <= NUMBERS_UP_TO else 0.17 if size <= NAMES_UP_TO else 0
    side = float(np.clip(cell_in * size, 2.2, 17)) if cell_in else 8.0
    margin = 0.08 * max(len(name) for name in names) if size <= NAMES_UP_TO else 0.3
    figure.set_size_inches(side + margin + 1.6, side + margin + 1.0)
    axes = figure.add_subplot()
    rows = counts.sum(1, keepdims=True)
    shares = np.where(rows, counts / np.maximum(rows, 1), np.nan)
    # Millions of pixels would not fit into a cell, and less than half a percent would be a 0.
    are_pixels = isinstance(evaluation, SegmentationEvaluation)
    written = shares >= 0.005 if are_pixels else counts > 0
    # Few mistakes among many right answers would hardly be seen on an even scale.
    from matplotlib.colors import PowerNorm

    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest", aspect="equal")
    axes.set_facecolor(LINE)
    if size <= NUMBERS_UP_TO:
        for row, column in zip(*np.nonzero(written), strict=True):
            colour = "white" if shares[row, column] > 0.3 else INK
            number = f"{100 * shares[row, column]:.0f}" if are_pixels else f"{counts[row, column]}"
            axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=7.5)
    if size <= NAMES_UP_TO:
        font = 8 if size <= NUMBERS_UP_TO else 7
        # Names are the user's: no $ in them begins a formula.
        turn = 0 if max(len(name) for name in names) <= 2 else 90
        axes.set_xticks(range(size), names, rotation=turn, fontsize=font, parse_math=False)
        axes.set_yticks(range(size), names, fontsize=font, parse_math=False)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("the model says", color=QUIET, fontsize=9)
    axes.set_ylabel("the picture shows", color=QUIET, fontsize=9)
    title = f"{'Pixels' if are_pixels else 'Answers'} by class, {evaluation.images:,} pictures"
    axes.set_title(title, fontsize=10, color=INK, loc="left", parse_math=False)
    bar = figure.colorbar(image, ax=axes, fraction=0.3 / side, pad=0.2 / side, shrink=min(1, 3 / side), anchor=(0, 1))
    bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0", "5", "20", "50", "100"], fontsize=8, color=INK)
    bar.set_label("share of the row (%)", color=QUIET, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return to_png(figure)


# What each task is measured by while it trains, with its scale: the first is what the best epoch is chosen by.
_MEASURES = {
    "val_top1": "top-1",
    "val_AP": "AP",
    "val_AP50": "AP50",
    "val_miou": "mIOU",
    "val_pixel_accuracy": "pixel accuracy",
}


def curves_png(history: Sequence[dict[str, Any]]) -> bytes:
    """Loss, and what was measured on validation pictures, by epoch; `history` is the lines of metrics.jsonl.

    Epochs that were not measured have no values of it.
    """
    figure = new_figure()
    figure.set_size_inches(9, 3)
    loss, measures = figure.subplots(1, 2)
    epochs = [line["epoch"] for line in history]
    loss.plot(
        epochs, [line["loss"] for line in history], color=ORANGE, label="training", linestyle="--", **_dots(epochs)
    )
    places, values = _measured(history, "val_loss")
    if places:
        loss.plot(places, values, color=BLUE, label="validation", **_dots(places))
    loss.set_ylim(bottom=0)
    # Cross-entropy alone has a unit; a sum of losses has none.
    _dress(loss, "Loss", "cross-entropy (nats)" if places else "loss", epochs[-1])
    loss.legend(frameon=False, fontsize=8, labelcolor=INK)
    colours = iter((BLUE, QUIET))
    named = []
    for key, name in _MEASURES.items():
        places, values = _measured(history, key)
        if not places:
            continue
        named.append(name)
        colour, shares = next(colours), [100 * value for value in values]
        is_first = len(named) == 1
        label = name
        if is_first:
            best = int(np.argmax(shares))
            label = f"{name}, best: {shares[best]:.2f} % in epoch {places[best]}"
            measures.plot(places[best], shares[best], "o", markersize=7, markerfacecolor="none", markeredgecolor=ORANGE)
        measures.plot(places, shares, color=colour, label=label, **_dots(places))
    _dress(measures, f"{' and '.join(named)} on the validation pictures", "%", epochs[-1])
    measures.set_ylim(bottom=max(measures.get_ylim()[0], 0))
    measures.legend(frameon=False, fontsize=8, loc="best", labelcolor=INK)
    return to_png(figure)


def _measured(history: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    lines = [line for line in history if key in line]
    return [line["epoch"] for line in lines], [line[key] for line in lines]


def _dots(epochs: Sequence[int]) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3} if len(epochs) <= 40 else {}


# Okabe and Ito's, in an order in which neighbours differ in lightness too.
_LINES = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000")
CURVES_DRAWN = 10


def pr_curves_png(evaluation: DetectionEvaluation) -> bytes:
    """Precision by recall of each class at IoU .5; the ten classes with most boxes, where there are more."""
    figure = new_figure()
    axes = figure.add_subplot()
    rows = sorted((row for row in evaluation.metrics.per_class if row.boxes), key=lambda row: -row.boxes)[:CURVES_DRAWN]
    names = dict(zip(evaluation.classes, _names(evaluation.classes), strict=True))
    figure.set_size_inches(6.2 + 0.065 * max((len(names[row.name]) for row in rows), default=0), 3.8)
    for number, row in enumerate(rows):
        label = f"{names[row.name]}  {100 * (row.AP50 or 0):.1f} %"
        style = "-" if number < len(_LINES) else "--"
        # From the left edge, at the precision of the first answer, so that a single right one is seen too.
        recall = np.concatenate([np.zeros_like(row.curve.recall[:1]), row.curve.recall])
        precision = np.concatenate([row.curve.precision[:1], row.curve.precision])
        axes.plot(100 * recall, 100 * precision, style, color=_LINES[number % len(_LINES)], linewidth=1.6, label=label)
    axes.set_title("Precision by recall at IoU .5", fontsize=10, color=INK, loc="left")
    axes.set_xlabel("recall: true boxes that are found (%)", color=QUIET, fontsize=9)
    axes.set_ylabel("precision: found boxes that are true (%)", color=QUIET, fontsize=9)
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 101)
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    if rows:
        # Beside the curves: there is no corner that they all leave free.
        legend = axes.legend(
            frameon=False,
            fontsize=8,
            labelcolor=INK,
            title="AP50",
            title_fontsize=8,
            alignment="left",
            loc="upper left",
            bbox_to_anchor=(1.02, 1.02),
        )
        for line in legend.get_texts():
            line.set_parse_math(False)
    return to_png(figure)


def _dress(axes: Axes, title: str, quantity: str, epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_ylabel(quantity, color=QUIET, fontsize=9)
    axes.set_xlabel("epoch", color=QUIET, fontsize=9)
    axes.set_xlim(0.5, epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)


def new_figure() -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("drawing a plot", "train") from error
    return Figure(layout="constrained", dpi=DPI)


def to_png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    # Tight, as the layout does not reckon with axes that keep their shape.
    figure.savefig(stream, format="png", facecolor="white", bbox_inches="tight", metadata={"Software": None})
    return stream.getvalue()


def _names(classes: Sequence[str]) -> list[str]:
    """Class names on one line, not too long, and in letters that the font has."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    letters = get_font(findfont(FontProperties())).get_charmap()
    names = []
    for index, name in enumerate(classes):
        short = " ".join(name.split())
        short = short if len(short) <= LONGEST_NAME else f"{short[: LONGEST_NAME - 1]}…"
        names.append(short if all(ord(letter) in letters for letter in short) else f"class {index}")
    return names
