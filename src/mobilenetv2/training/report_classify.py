"""What a classifier's page shows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

from mobilenetv2.data.tree import Tree, decode
from mobilenetv2.evaluation.classify import Answer, Evaluation
from mobilenetv2.plots import confusion_png, curves_png
from mobilenetv2.training.page import class_tables, inline, percent, plot, text

THUMBNAIL_PX = 160
PIXELATED_BELOW_PX = 80
ANSWERS_SHOWN = 12


def classify_figures(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The key numbers, with what they are."""
    return [
        ("top-1", f"{evaluation.top1:.2%}"),
        # Of five classes or fewer it is always all.
        *([("top-5", f"{evaluation.top5:.2%}")] if len(evaluation.classes) > 5 else []),
        ("pictures measured", f"{evaluation.images:,}"),
        ("classes", f"{len(evaluation.classes):,}"),
    ]


def classify_sections(evaluation: Evaluation, history: Sequence[dict[str, Any]], tree: Tree) -> Iterator[str]:
    """HTML, one part after another."""
    yield "<h2>Training</h2>"
    yield (
        '<p class="quiet">The training loss is taken of augmented pictures and smoothed labels, so it may lie above '
        "the other. The epoch with the ring is the one that was kept.</p>"
    )
    yield plot(curves_png(history), "Loss and top-1 by epoch")
    yield "<h2>What is taken for what</h2>"
    yield _confusions(evaluation)
    yield plot(confusion_png(evaluation), "Confusion matrix: what pictures show by what the model says")
    yield "<h2>Class by class</h2>"
    yield (
        '<p class="quiet">Recall is the share of a class that was found, precision the share of the answers '
        "naming it that were right, F1 their harmonic mean. Lowest recall first.</p>"
    )
    yield _classes(evaluation)
    if evaluation.mistakes:
        yield "<h2>The mistakes it was surest of</h2>"
        yield '<p class="quiet">Look here for wrong labels, and for what the training pictures lack.</p>'
        yield _grid(tree, evaluation.mistakes[:ANSWERS_SHOWN])
    if evaluation.examples:
        yield "<h2>Right answers</h2>"
        yield '<p class="quiet">The first one of each class, with how sure the model was.</p>'
        yield _grid(tree, evaluation.examples[:ANSWERS_SHOWN])


def _confusions(evaluation: Evaluation) -> str:
    confusions = evaluation.confusions(3)
    if not confusions:
        return '<p class="quiet">Nothing: every answer was right.</p>'
    listed = ", ".join(f"{text(true)} for {text(said)} ({count:,})" for true, said, count in confusions)
    return (
        f'<p class="quiet">Most often: {listed}. Numbers are pictures; colours are shares of a row, '
        "so the diagonal is the recall. Rows without pictures are grey.</p>"
    )


def _grid(tree: Tree, answers: Sequence[Answer]) -> str:
    return '<div class="grid">' + "".join(_answer(tree, answer) for answer in answers) + "</div>"


def _answer(tree: Tree, answer: Answer) -> str:
    picture = decode(tree, answer.image)
    # Tiny pictures keep their pixels, and their exact levels.
    is_tiny = max(picture.size) < PIXELATED_BELOW_PX
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    stream = io.BytesIO()
    kind = "png" if is_tiny else "jpeg"
    picture.save(stream, kind, quality=85)
    if answer.true == answer.predicted:
        caption = f'{text(answer.true)} <span class="good">{answer.score:.0%}</span>'
    else:
        said = f'<span class="bad">says {text(answer.predicted)} {answer.score:.0%}</span>'
        caption = f"{text(answer.true)}<br>{said}"
    return (
        f'<figure><img{" class=pixels" if is_tiny else ""} alt="{text(answer.image)}" title="{text(answer.image)}" '
        f'src="{inline(stream.getvalue(), kind)}"><figcaption>{caption}</figcaption></figure>'
    )


def _classes(evaluation: Evaluation) -> str:
    """Weakest first; classes that have no pictures last."""
    ordered = sorted(evaluation.per_class, key=lambda metrics: 2 if metrics.recall is None else metrics.recall)
    rows = [
        (m.name, [f"{m.images:,}", percent(m.recall), percent(m.precision), percent(m.f1)], m.recall or 0.0)
        for m in ordered
    ]
    return class_tables(("pictures", "recall", "precision", "F1"), rows, "recall")
