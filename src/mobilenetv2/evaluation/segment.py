"""How good a segmenter is on pictures with true masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.data.masked import MaskedPicture, read_mask, read_masks_of_split
from mobilenetv2.evaluation.answers import answered
from mobilenetv2.evaluation.classify import CONFUSIONS_SHOWN, most_confused, percent
from mobilenetv2.evaluation.mask_metrics import (
    MaskMetrics,
    boundary_counts,
    boundary_f,
    confusion,
    mask_metrics,
    mean_iou,
    pixel_accuracy,
)
from mobilenetv2.modelfile import Card
from mobilenetv2.predictions import Segmentation
from mobilenetv2.runtime.predictor import Predictor

# Masks are large, so only those of pictures that are shown are kept.
PICTURES_KEPT = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureMask:
    """One picture and what was found on it: (H, W) uint8 places of classes; shares 0..1 of this picture alone."""

    picture: MaskedPicture
    found: NDArray[np.uint8]
    miou: float
    pixel_accuracy: float


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentationEvaluation:
    """What a segmenter reaches on one split of a data set.

    confusion: (classes, classes) int64 pixels; rows are what they are, columns what was found.
    worst: the pictures of the lowest mean IoU, lowest first.
    skipped: pictures that could not be decoded, and count nowhere else.
    """

    model: str
    data: str
    split: str
    images: int
    skipped: int
    classes: tuple[str, ...]
    metrics: MaskMetrics
    confusion: NDArray[np.int64]
    worst: tuple[PictureMask, ...]

    task = "segment"

    def errors(self, count: int = PICTURES_KEPT) -> list[PictureMask]:
        """Pictures on which something is wrong, lowest mean IoU first; of all pictures, `PICTURES_KEPT` are known."""
        return [one for one in self.worst if one.pixel_accuracy < 1][:count]

    def confusions(self, count: int = CONFUSIONS_SHOWN) -> list[tuple[str, str, int]]:
        """(what it is, what the model says, pixels), most first."""
        return most_confused(self.confusion, self.classes, count)

    def card_metrics(self) -> dict[str, Any]:
        """What a model card says of it."""
        return {
            "miou": _rounded(self.metrics.miou),
            "pixel_accuracy": _rounded(self.metrics.pixel_accuracy),
            "boundary_f": _rounded(self.metrics.boundary_f),
            "images": self.images,
            "data": f"{Path(self.data).name}, {self.split}",
        }

    def completed(self, card: Card) -> Card:
        """The card with what was measured."""
        return replace(card, metrics=self.card_metrics())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `evaluate --json` prints them."""
        metrics = self.metrics
        return {
            "task": self.task,
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "images": self.images,
            "skipped": self.skipped,
            **{name: _rounded(getattr(metrics, name)) for name in _NUMBERS},
            "per_class": [
                {"name": row.name, "pixels": row.pixels, **{name: _rounded(getattr(row, name)) for name in _OF_CLASS}}
                for row in metrics.per_class
            ],
            "confusion": self.confusion.tolist(),
            "worst": [
                {"image": one.picture.name, "miou": _rounded(one.miou), "pixel_accuracy": _rounded(one.pixel_accuracy)}
                for one in self.worst
            ],
        }

    def to_text(self) -> str:
        """A summary, a line for each class, and what is most often taken for what."""
        # Letters of some scripts are two cells wide.
        from rich.cells import cell_len, set_cell_size

        m = self.metrics
        skipped = f", {self.skipped} unreadable ones left out" if self.skipped else ""
        lines = [
            f"{self.model} on {self.data}, {self.split}: {self.images:,} pictures{skipped}",
            f"mIOU {percent(m.miou)}   pixel accuracy {percent(m.pixel_accuracy)}   boundary F {percent(m.boundary_f)}",
            f"mean accuracy of classes {percent(m.mean_accuracy)}   IoU weighted by pixels {percent(m.fw_iou)}",
            "",
        ]
        width = max(cell_len(name) for name in ("class", *self.classes))
        lines.append(
            f"{'class':{width}}  {'pixels':>7}  {'IoU':>7}  {'precision':>9}  {'recall':>7}  {'boundary F':>10}"
        )
        pixels = int(self.confusion.sum())
        for row in m.per_class:
            shares = f"{percent(row.iou):>7}  {percent(row.precision):>9}  {percent(row.recall):>7}"
            lines.append(
                f"{set_cell_size(row.name, width)}  {percent(row.pixels / pixels if pixels else None):>7}  {shares}  "
                f"{percent(row.boundary_f):>10}"
            )
        if confusions := self.confusions():
            lines += ["", "most often taken for another:"]
            lines += [f"  {true} as {found}: {count:,} pixels" for true, found, count in confusions]
        return "\n".join(lines)


_NUMBERS = ("miou", "pixel_accuracy", "mean_accuracy", "fw_iou", "boundary_f")
_OF_CLASS = ("iou", "precision", "recall", "boundary_f")


def evaluate_segmenter(
    predictor: Predictor, path: Path, *, split: str | None, skip_bad: bool, tick: Callable[[int], None]
) -> SegmentationEvaluation:
    """Answer every picture of a split and count its pixels; see `evaluation.evaluate`."""
    classes = predictor.card.labels
    tree, split, pictures = read_masks_of_split(
        path, classes, split, trained_on=predictor.card.training.get("data"), skip_bad=skip_bad
    )
    total: NDArray[np.int64] = np.zeros((len(classes), len(classes)), np.int64)
    boundaries: list[NDArray[np.float64]] = []
    worst: list[PictureMask] = []
    for picture, answer in answered(predictor, tree, split, pictures, skip_bad=skip_bad, tick=tick):
        assert isinstance(answer, Segmentation)
        true = read_mask(tree, picture)
        counts = confusion(true, answer.mask, len(classes))
        total += counts
        boundaries.append(boundary_f(boundary_counts(true, answer.mask, len(classes))))
        miou, right = mean_iou(counts), pixel_accuracy(counts)
        if miou is not None and right is not None:
            worst.append(PictureMask(picture=picture, found=answer.mask, miou=miou, pixel_accuracy=right))
            worst = sorted(worst, key=lambda one: (one.miou, one.picture.name))[:PICTURES_KEPT]
    return SegmentationEvaluation(
        model=predictor.card.name,
        data=str(path),
        split=split,
        images=len(boundaries),
        skipped=len(pictures) - len(boundaries),
        classes=classes,
        metrics=mask_metrics(total, np.stack(boundaries), classes),
        confusion=total,
        worst=tuple(worst),
    )


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 6)
