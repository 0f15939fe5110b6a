"""Pictures of numbers, as PNG bytes. Colours are told apart by colour-blind people too."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenetv2.errors import MissingExtraError
from mobilenetv2.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's blue and vermilion.
BLUE, ORANGE, INK, QUIET, LINE = "#0072b2", "#d55e00", "#27272a", "#71717a", "#e4e4e7"
DPI = 192  # twice a plain screen's
NUMBERS_UP_TO = 20  # classes; above, cells are too small to hold a number
NAMES_UP_TO = 100
LONGEST_NAME = 24


def confusion_png(evaluation: Evaluation) -> bytes:
    """Rows are what pictures are, columns what the model says; colours are shares of each row.

    Cells hold counts up to 20 classes, axes hold names up to 100. Names that the font cannot draw become
    the number of their class.
    """
    figure = new_figure()
    counts, names = evaluation.confusion, _names(evaluation.classes)
    size = len(names)
    cell_in = 0.42 if size <= NUMBERS_UP_TO else 0.17 if size <= NAMES_UP_TO else 0
    side = float(np.clip(cell_in * size, 2.2, 17)) if cell_in else 8.0
    margin = 0.08 * max(len(name) for name in names) if size <= NAMES_UP_TO else 0.3
    figure.set_size_inches(side + margin + 1.6, side + margin + 1.0)
    axes = figure.add_subplot()
    images = counts.sum(1, keepdims=True)
    shares = np.where(images, counts / np.maximum(images, 1), np.nan)
    # Few mistakes among many right answers would hardly be seen on an even scale.
    from matplotlib.colors import PowerNorm

    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest", aspect="equal")
    axes.set_facecolor(LINE)
    if size <= NUMBERS_UP_TO:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.3 else INK
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=colour, fontsize=7.5)
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
    axes.set_title(
        f"Answers by class, {evaluation.images:,} pictures", fontsize=10, color=INK, loc="left", parse_math=False
    )
    bar = figure.colorbar(image, ax=axes, fraction=0.3 / side, pad=0.2 / side, shrink=min(1, 3 / side), anchor=(0, 1))
    bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0", "5", "20", "50", "100"], fontsize=8, color=INK)
    bar.set_label("share of the row (%)", color=QUIET, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return to_png(figure)


def curves_png(history: Sequence[dict[str, Any]]) -> bytes:
    """Loss on training and validation pictures, and top-1, by epoch; `history` is the lines of metrics.jsonl."""
    figure = new_figure()
    figure.set_size_inches(9, 3)
    epochs = [line["epoch"] for line in history]
    loss, accuracy = figure.subplots(1, 2)
    marker = {"marker": "o", "markersize": 3} if len(epochs) <= 40 else {}
    loss.plot(epochs, [line["loss"] for line in history], color=ORANGE, label="training", linestyle="--", **marker)
    loss.plot(epochs, [line["val_loss"] for line in history], color=BLUE, label="validation", **marker)
    loss.set_ylim(bottom=0)
    _dress(loss, "Loss", "cross-entropy (nats)", epochs[-1])
    loss.legend(frameon=False, fontsize=8, labelcolor=INK)
    top1 = [100 * line["val_top1"] for line in history]
    best = int(np.argmax(top1))
    accuracy.plot(epochs, top1, color=BLUE, **marker)
    label = f"best: {top1[best]:.2f} % in epoch {epochs[best]}"
    accuracy.plot(
        epochs[best], top1[best], "o", markersize=7, markerfacecolor="none", markeredgecolor=ORANGE, label=label
    )
    _dress(accuracy, "Top-1 on the validation pictures", "right answers (%)", epochs[-1])
    accuracy.legend(frameon=False, fontsize=8, loc="lower right", labelcolor=INK)
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
