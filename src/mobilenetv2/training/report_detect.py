"""What a detector's page shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image, ImageDraw

from mobilenetv2.data.tree import Tree, decode
from mobilenetv2.evaluation.detect import DetectionEvaluation, PictureErrors
from mobilenetv2.plots import curves_png, pr_curves_png
from mobilenetv2.training.page import class_tables, jpeg, percent, plot, text

PICTURE_PX = 420
PICTURES_SHOWN = 8
_RIGHT, _WRONG, _MISSED, _CASING = (86, 180, 233), (213, 94, 0), (255, 255, 255), (0, 0, 0)
_DASH_PX = 5


def detect_figures(evaluation: DetectionEvaluation) -> list[tuple[str, str]]:
    """The key numbers, with what they are."""
    return [
        ("AP", percent(evaluation.metrics.AP)),
        ("AP50", percent(evaluation.metrics.AP50)),
        ("pictures measured", f"{evaluation.images:,}"),
        ("boxes in them", f"{evaluation.boxes:,}"),
        ("classes", f"{len(evaluation.classes):,}"),
    ]


def detect_sections(evaluation: DetectionEvaluation, history: Sequence[dict[str, Any]], tree: Tree) -> Iterator[str]:
    """HTML, one part after another."""
    metrics = evaluation.metrics
    yield "<h2>Training</h2>"
    yield (
        '<p class="quiet">AP is the mean over overlaps (IoU) from .5 to .95, AP50 asks for .5 only. The epoch with the '
        "ring is the one that was kept.</p>"
    )
    yield plot(curves_png(history), "Loss and average precision by epoch")
    yield "<h2>How much is found, and how much of it is right</h2>"
    if metrics.best_threshold is not None:
        yield (
            f'<p class="quiet">From score {metrics.best_threshold:.2f} on, {percent(metrics.recall)} of all boxes are '
            f"found and {percent(metrics.precision)} of what is shown is right: the best F1 ({percent(metrics.f1)}). "
            "The model shows boxes from there on.</p>"
        )
    yield plot(pr_curves_png(evaluation), "Precision by recall of each class at IoU .5")
    yield "<h2>Class by class</h2>"
    yield (
        '<p class="quiet">Lowest AP first. By size, over all classes: '
        f"small {percent(metrics.APs)}, medium {percent(metrics.APm)}, large {percent(metrics.APl)} "
        "(COCO's sizes: below 32 x 32 and below 96 x 96 pixels of the picture).</p>"
    )
    ordered = sorted(metrics.per_class, key=lambda row: 2 if row.AP is None else row.AP)
    rows = [(r.name, [f"{r.boxes:,}", percent(r.AP), percent(r.AP50), percent(r.voc_ap)], r.AP or 0.0) for r in ordered]
    yield class_tables(("boxes", "AP", "AP50", "VOC AP"), rows, "AP")
    worst = [one for one in evaluation.errors(PICTURES_SHOWN) if one.errors]
    if worst:
        yield "<h2>Pictures with most errors</h2>"
        yield (
            '<p class="quiet">Blue boxes are right, orange ones hit nothing, dashed white ones were missed. Look here '
            "for boxes that nobody drew, and for what the training pictures lack.</p>"
        )
        yield '<div class="grid wide">' + "".join(_figure(tree, one) for one in worst) + "</div>"


def _figure(tree: Tree, one: PictureErrors) -> str:
    name = text(one.picture.name)
    counts = f'<span class="bad">{int(one.wrong.sum())} wrong, {int(one.missed.sum())} missed</span>'
    right = int((~one.wrong).sum())
    return (
        f'<figure><img alt="{name}" title="{name}" src="{jpeg(_drawn(decode(tree, one.picture.name), one))}">'
        f"<figcaption>{name}<br>{right} right, {counts}</figcaption></figure>"
    )


def _drawn(image: Image.Image, one: PictureErrors) -> Image.Image:
    """The picture at page size with right, wrong and missed boxes; wrong ones say what they were taken for."""
    scale = PICTURE_PX / max(image.size)
    page = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    pen = ImageDraw.Draw(page)
    for box, is_wrong in sorted(zip(one.found.boxes, one.wrong, strict=True), key=lambda pair: bool(pair[1])):
        edges = [round(edge * scale) for edge in box.box_xyxy]
        _rectangle(pen, edges, _WRONG if is_wrong else _RIGHT)
        if is_wrong:
            said = f"{box.name} {box.score:.0%}"
            # The built-in letters know Latin alone; the caption of another name is its class's number.
            label = said if said.isascii() else f"#{box.index} {box.score:.0%}"
            place = (edges[0] + 3, edges[1] + 2)
            pen.text(place, label, _MISSED, stroke_width=2, stroke_fill=_CASING)
    for edges in one.picture.boxes_xyxy[one.missed]:
        _dashed(pen, [round(float(edge) * scale) for edge in edges])
    return page


def _rectangle(pen: ImageDraw.ImageDraw, edges: list[int], colour: tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = edges
    x2, y2 = max(x1, x2 - 1), max(y1, y2 - 1)
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), None, _CASING, 1)
    pen.rectangle((x1, y1, x2, y2), None, colour, 2)


def _dashed(pen: ImageDraw.ImageDraw, edges: list[int]) -> None:
    x1, y1, x2, y2 = edges
    for first, last, fixed, is_row in (
        (x1, x2, y1, True),
        (x1, x2, y2, True),
        (y1, y2, x1, False),
        (y1, y2, x2, False),
    ):
        for number, start in enumerate(range(first, last, _DASH_PX)):
            end = min(start + _DASH_PX, last)
            line = (start, fixed, end, fixed) if is_row else (fixed, start, fixed, end)
            pen.line(line, _MISSED if number % 2 == 0 else _CASING, 2)
