"""How good a detector is on pictures with true boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.data.annotations import BoxedPicture
from mobilenetv2.data.boxed import read_boxes_of_split
from mobilenetv2.evaluation.answers import answered
from mobilenetv2.evaluation.box_metrics import BoxMetrics, box_metrics, match_picture
from mobilenetv2.evaluation.classify import percent
from mobilenetv2.modelfile import Card
from mobilenetv2.predictions import Detections
from mobilenetv2.runtime.predictor import Predictor

__all__ = ["DetectionEvaluation", "PictureErrors", "box_metrics", "evaluate_detector"]

# Average precision looks at everything that is not surely nothing.
MEASURED_SCORE = 0.01
PICTURES_KEPT = 24
# What a card may show boxes from: a threshold outside would show noise, or next to nothing, on other pictures.
LEAST_THRESHOLD, MOST_THRESHOLD = 0.05, 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureErrors:
    """One picture: its true boxes, what was found from the best threshold on, and which of both is wrong.

    wrong: (answers,) bool. missed: (true boxes,) bool.
    """

    picture: BoxedPicture
    found: Detections
    wrong: NDArray[np.bool_]
    missed: NDArray[np.bool_]

    @property
    def errors(self) -> int:
        return int(self.wrong.sum() + self.missed.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionEvaluation:
    """What a detector reaches on one split of a data set.

    boxes: true ones, without ignored. found: the answer to each of `pictures`, from score .01 on.
    skipped: pictures that could not be decoded, and count nowhere else.
    """

    model: str
    data: str
    split: str
    skipped: int
    classes: tuple[str, ...]
    metrics: BoxMetrics
    pictures: tuple[BoxedPicture, ...]
    found: tuple[Detections, ...]

    task = "detect"

    @property
    def images(self) -> int:
        return len(self.pictures)

    @property
    def boxes(self) -> int:
        return sum(row.boxes for row in self.metrics.per_class)

    def card_metrics(self) -> dict[str, Any]:
        """What a model card says of it."""
        return {
            "AP": _rounded(self.metrics.AP),
            "AP50": _rounded(self.metrics.AP50),
            "AP75": _rounded(self.metrics.AP75),
            "images": self.images,
            "boxes": self.boxes,
            "data": f"{Path(self.data).name}, {self.split}",
        }

    def completed(self, card: Card) -> Card:
        """The card with what was measured, showing boxes from the score of the best F1 on."""
        assert card.postprocessing is not None
        postprocessing = card.postprocessing
        if self.metrics.best_threshold is not None:
            # Down to a hundredth, so that the answer at the threshold itself is shown.
            threshold = np.floor(_just_below(self.metrics.best_threshold) * 100) / 100
            threshold = float(np.clip(threshold, LEAST_THRESHOLD, MOST_THRESHOLD))
            postprocessing = replace(postprocessing, score_threshold=round(threshold, 2))
        return replace(card, metrics=self.card_metrics(), postprocessing=postprocessing)

    def errors(self, count: int = PICTURES_KEPT) -> list[PictureErrors]:
        """Pictures with what is wrong on them at the best threshold, most errors first."""
        threshold = self.metrics.best_threshold
        least = 0.0 if threshold is None else _just_below(threshold)
        shown = [found.above(least) for found in self.found]
        some = [_errors(picture, found) for picture, found in zip(self.pictures, shown, strict=True)]
        return sorted(some, key=lambda one: (-one.errors, one.picture.name))[:count]

    def to_coco_results(self) -> list[dict[str, Any]]:
        """All boxes from score .01 on, in COCO's results format; classes are numbered from 1."""
        pairs = zip(self.pictures, self.found, strict=True)
        return [entry for picture, found in pairs for entry in found.to_coco(picture.image_id)]

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
            "boxes": self.boxes,
            **{name: _rounded(value) for name, value in metrics.coco().items()},
            "voc_ap": _rounded(metrics.voc_ap),
            "voc_ap_11": _rounded(metrics.voc_ap_11),
            "best_threshold": _rounded(metrics.best_threshold),
            "precision": _rounded(metrics.precision),
            "recall": _rounded(metrics.recall),
            "f1": _rounded(metrics.f1),
            "per_class": [
                {
                    "name": row.name,
                    "boxes": row.boxes,
                    "AP": _rounded(row.AP),
                    "AP50": _rounded(row.AP50),
                    "voc_ap": _rounded(row.voc_ap),
                    "voc_ap_11": _rounded(row.voc_ap_11),
                }
                for row in metrics.per_class
            ],
        }

    def to_text(self) -> str:
        """A summary, COCO's numbers by size, and a line for each class."""
        # Letters of some scripts are two cells wide.
        from rich.cells import cell_len, set_cell_size

        m = self.metrics
        skipped = f", {self.skipped} unreadable ones left out" if self.skipped else ""
        lines = [
            f"{self.model} on {self.data}, {self.split}: {self.images:,} pictures, {self.boxes:,} boxes{skipped}",
            f"AP {percent(m.AP)}   AP50 {percent(m.AP50)}   AP75 {percent(m.AP75)}   VOC AP {percent(m.voc_ap)} "
            f"(11 points {percent(m.voc_ap_11)})",
            f"by size: small {percent(m.APs)}   medium {percent(m.APm)}   large {percent(m.APl)}   "
            f"recall with 1, 10, 100 boxes: {percent(m.AR1)}, {percent(m.AR10)}, {percent(m.AR100)}",
        ]
        if m.best_threshold is not None:
            lines.append(
                f"best F1 {percent(m.f1)} at score {m.best_threshold:.2f}: "
                f"precision {percent(m.precision)}, recall {percent(m.recall)}"
            )
        width = max(cell_len(name) for name in ("class", *self.classes))
        lines += ["", f"{'class':{width}}  {'boxes':>7}  {'AP':>7}  {'AP50':>7}  {'VOC AP':>7}"]
        for row in m.per_class:
            shares = "  ".join(f"{percent(share):>7}" for share in (row.AP, row.AP50, row.voc_ap))
            lines.append(f"{set_cell_size(row.name, width)}  {row.boxes:>7,}  {shares}")
        return "\n".join(lines)


def evaluate_detector(
    predictor: Predictor, path: Path, *, split: str | None, skip_bad: bool, tick: Callable[[int], None]
) -> DetectionEvaluation:
    """Answer every picture of a split from score .01 on, and measure; see `evaluation.evaluate`."""
    card = predictor.card
    tree, split, pictures = read_boxes_of_split(
        path, card.labels, split, trained_on=card.training.get("data"), skip_bad=skip_bad
    )
    predictor = predictor.with_score_threshold(MEASURED_SCORE)
    answers = list(answered(predictor, tree, split, pictures, skip_bad=skip_bad, tick=tick))
    found = tuple(answer for _, answer in answers if isinstance(answer, Detections))
    measured = tuple(picture for picture, _ in answers)
    return DetectionEvaluation(
        model=card.name,
        data=str(path),
        split=split,
        skipped=len(pictures) - len(answers),
        classes=card.labels,
        metrics=box_metrics(measured, found, card.labels),
        pictures=measured,
        found=found,
    )


def _errors(picture: BoxedPicture, found: Detections) -> PictureErrors:
    hits, missed = match_picture(found, picture), ~picture.ignored
    missed[hits[hits >= 0]] = False
    return PictureErrors(picture=picture, found=found, wrong=hits == -1, missed=missed)


def _just_below(score: float) -> float:
    """What a score is above: boxes are shown above a threshold, not at it."""
    return float(np.nextafter(np.float32(score), np.float32(0)))


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 6)
