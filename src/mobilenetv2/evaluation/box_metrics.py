"""How good boxes are: COCO's and VOC's average precision, and what share is found at which score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.boxes import pairwise_iou
from mobilenetv2.data.annotations import BoxedPicture

MATCH_IOU = 0.5
# The order of COCO's summary.
COCO_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class FoundBoxes(Protocol):
    """What a model found on one picture: (N, 4) xyxy in pixels, (N,) scores, (N,) labels."""

    @property
    def boxes_xyxy(self) -> NDArray[np.float32]: ...

    @property
    def scores(self) -> NDArray[np.float32]: ...

    @property
    def labels(self) -> NDArray[np.int64]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Precision by recall of one class at IoU .5, a point for each answer, surest first. Shares 0..1."""

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassBoxes:
    """One class. None where there are no true boxes.

    AP, AP50: COCO's. voc_ap: all points, voc_ap_11: VOC 2007's eleven; both at IoU .5.
    """

    name: str
    boxes: int
    AP: float | None
    AP50: float | None
    voc_ap: float | None
    voc_ap_11: float | None
    curve: Curve


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxMetrics:
    """What answers reach on pictures with true boxes. Shares 0..1; None where there is nothing to divide by.

    AP to ARl: COCO's twelve numbers. voc_ap, voc_ap_11: means over the classes that have boxes.
    best_threshold: the score from which on answers have the highest F1 at IoU .5, over all classes; `precision`,
    `recall` and `f1` are those there.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None
    AR1: float | None
    AR10: float | None
    AR100: float | None
    ARs: float | None
    ARm: float | None
    ARl: float | None
    voc_ap: float | None
    voc_ap_11: float | None
    best_threshold: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    per_class: tuple[ClassBoxes, ...]

    def coco(self) -> dict[str, float | None]:
        """COCO's twelve numbers by name."""
        return {name: getattr(self, name) for name in COCO_NUMBERS}


def box_metrics(pictures: Sequence[BoxedPicture], found: Sequence[FoundBoxes], classes: Sequence[str]) -> BoxMetrics:
    """Measure answers, one of `found` for each of `pictures`.

    COCO's numbers come from faster-coco-eval. It knows no difficult boxes, as COCO has none; they count as crowds,
    which an answer may hit or not. VOC's numbers ignore them as VOC does.
    """
    numbers, per_class = _coco(pictures, found, len(classes))
    scores, labels, rights = _matches(pictures, found)
    true = np.concatenate([np.empty(0, np.int64), *(picture.labels[~picture.ignored] for picture in pictures)])
    rows = []
    for label, (name, boxes) in enumerate(zip(classes, np.bincount(true, minlength=len(classes)), strict=True)):
        own = labels == label
        curve = _curve(scores[own], rights[own], int(boxes))
        rows.append(
            ClassBoxes(
                name=name,
                boxes=int(boxes),
                AP=per_class[label][0],
                AP50=per_class[label][1],
                voc_ap=_voc_ap(curve) if boxes else None,
                voc_ap_11=_voc_ap_11(curve) if boxes else None,
                curve=curve,
            )
        )
    return BoxMetrics(
        **numbers,
        voc_ap=_mean([row.voc_ap for row in rows]),
        voc_ap_11=_mean([row.voc_ap_11 for row in rows]),
        **_best(_curve(scores, rights, len(true))),
        per_class=tuple(rows),
    )


# ---- COCO


def _coco(
    pictures: Sequence[BoxedPicture], found: Sequence[FoundBoxes], classes: int
) -> tuple[dict[str, float | None], list[tuple[float | None, float | None]]]:
    """The twelve numbers, and (AP, AP50) of each class."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth: dict[str, Any] = {
        "info": {},
        # Numbered anew: two splits, or VOC's, need not have numbers of their own.
        "images": [
            {"id": number, "height": picture.size_hw[0], "width": picture.size_hw[1]}
            for number, picture in enumerate(pictures, 1)
        ],
        "categories": [{"id": label + 1, "name": str(label)} for label in range(classes)],
        "annotations": [],
    }
    answers = []
    for number, (picture, some) in enumerate(zip(pictures, found, strict=True), 1):
        for box, label, ignored in zip(_xywh(picture.boxes_xyxy), picture.labels, picture.ignored, strict=True):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(ignored),
                }
            )
        for box, score, label in zip(_xywh(some.boxes_xyxy), some.scores, some.labels, strict=True):
            answers.append({"image_id": number, "category_id": int(label) + 1, "bbox": box, "score": float(score)})
    if not any(not picture.ignored.all() for picture in pictures):
        return dict.fromkeys(COCO_NUMBERS), [(None, None)] * classes
    if not answers:
        # The library takes no empty list. Nothing found is 0 wherever there was something to find.
        answers.append({"image_id": 1, "category_id": 1, "bbox": [-2.0, -2.0, 1.0, 1.0], "score": 0.0})
    data = COCO(truth)
    evaluator = COCOeval_faster(data, data.loadRes(answers), "bbox", print_function=_say_nothing)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    # -1 is COCO's "nothing to divide by".
    values = [None if value < 0 else float(value) for value in evaluator.stats[: len(COCO_NUMBERS)]]
    precision = evaluator.eval["precision"]  # IoU, recall, class, area, limit
    per_class = [
        (_defined_mean(precision[:, :, label, 0, -1]), _defined_mean(precision[0, :, label, 0, -1]))
        for label in range(classes)
    ]
    return dict(zip(COCO_NUMBERS, values, strict=True)), per_class


def _say_nothing(*_: object, **__: object) -> None: ...


def _xywh(boxes_xyxy: NDArray[np.float32]) -> list[list[float]]:
    boxes = boxes_xyxy.astype(np.float64)
    return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes.tolist()]


def _defined_mean(values: NDArray[np.float64]) -> float | None:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


# ---- At IoU .5, by VOC's rules


def match_picture(found: FoundBoxes, picture: BoxedPicture) -> NDArray[np.int64]:
    """(N,) which true box of its class each answer hits: its index, -1 for none, -2 for an ignored one.

    An answer goes to the box that it overlaps most; where that is taken by a surer one, it is wrong. Source: the
    VOC development kit.
    """
    hits = np.full(len(found.labels), -1, np.int64)
    if not len(picture.labels):
        return hits
    order = np.argsort(-found.scores, kind="stable")
    is_own = found.labels[order, None] == picture.labels
    overlaps = np.where(is_own, pairwise_iou(found.boxes_xyxy[order], picture.boxes_xyxy), -1)
    best, is_near = overlaps.argmax(axis=1), overlaps.max(axis=1) >= MATCH_IOU
    hits[order[is_near & picture.ignored[best]]] = -2
    near = np.flatnonzero(is_near & ~picture.ignored[best])
    taken, surest = np.unique(best[near], return_index=True)
    hits[order[near[surest]]] = taken
    return hits


def _matches(
    pictures: Sequence[BoxedPicture], found: Sequence[FoundBoxes]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Score and class of every answer that counts, and whether it is right."""
    scores, labels, rights = [np.empty(0)], [np.empty(0, np.int64)], [np.empty(0, bool)]
    for picture, some in zip(pictures, found, strict=True):
        hits = match_picture(some, picture)
        counted = hits != -2
        scores.append(some.scores[counted].astype(np.float64))
        labels.append(some.labels[counted])
        rights.append(hits[counted] >= 0)
    return np.concatenate(scores), np.concatenate(labels), np.concatenate(rights)


def _curve(scores: NDArray[np.float64], rights: NDArray[np.bool_], boxes: int) -> Curve:
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(rights[order])
    return Curve(
        recall=hits / max(boxes, 1), precision=hits / np.arange(1, len(hits) + 1), scores=np.asarray(scores[order])
    )


def _voc_ap(curve: Curve) -> float:
    """The area under the curve, each precision raised to the best one at that recall or above (VOC 2010 on)."""
    recall = np.concatenate([[0.0], curve.recall])
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return float((np.diff(recall) * envelope).sum())


def _voc_ap_11(curve: Curve) -> float:
    """The mean of the best precision at recall 0, .1 to 1 or above (VOC 2007)."""
    points = [curve.precision[curve.recall >= step / 10].max(initial=0.0) for step in range(11)]
    return float(np.mean(points))


def _best(curve: Curve) -> dict[str, float | None]:
    if not curve.recall.any():
        return dict.fromkeys(("best_threshold", "precision", "recall", "f1"))
    total = curve.precision + curve.recall
    f1 = np.divide(2 * curve.precision * curve.recall, total, out=np.zeros_like(total), where=total > 0)
    # No threshold parts equal scores.
    f1[:-1][curve.scores[:-1] == curve.scores[1:]] = 0
    best = int(f1.argmax())
    return {
        "best_threshold": float(curve.scores[best]),
        "precision": float(curve.precision[best]),
        "recall": float(curve.recall[best]),
        "f1": float(f1[best]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
