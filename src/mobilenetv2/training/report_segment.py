"""What a segmenter's page shows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.data.masked import read_mask
from mobilenetv2.data.tree import Tree, decode
from mobilenetv2.evaluation.segment import PictureMask, SegmentationEvaluation
from mobilenetv2.masks import IGNORED
from mobilenetv2.plots import confusion_png, curves_png
from mobilenetv2.runtime.draw_masks import colours
from mobilenetv2.training.page import class_tables, inline, jpeg, percent, plot, text

PICTURE_PX = 480


def segment_figures(evaluation: SegmentationEvaluation) -> list[tuple[str, str]]:
    """The key numbers, with what they are."""
    return [
        ("mIOU", percent(evaluation.metrics.miou)),
        ("pixel accuracy", percent(evaluation.metrics.pixel_accuracy)),
        ("boundary F", percent(evaluation.metrics.boundary_f)),
        ("pictures measured", f"{evaluation.images:,}"),
        ("classes", f"{len(evaluation.classes):,}"),
    ]


def segment_sections(
    evaluation: SegmentationEvaluation, history: Sequence[dict[str, Any]], tree: Tree
) -> Iterator[str]:
    """HTML, one part after another."""
    yield "<h2>Training</h2>"
    yield (
        '<p class="quiet">mIOU is the mean over classes of intersection over union: the pixels that are of a class and '
        "were found so, of all that are of it or were found so. The epoch with the ring is the one that was kept.</p>"
    )
    yield plot(curves_png(history), "Loss, mean intersection over union and pixel accuracy by epoch")
    yield "<h2>Class by class</h2>"
    yield (
        '<p class="quiet">Lowest IoU first. Recall is the share of a class that was found, precision the share of what '
        "was found that is right. Boundary F says how much of the boundaries lies where it should, within .75 % of the "
        "picture's diagonal.</p>"
    )
    yield _classes(evaluation)
    yield "<h2>What is taken for what</h2>"
    yield _confusions(evaluation)
    yield plot(confusion_png(evaluation), "Confusion matrix: what pixels are by what the model says")
    if worst := evaluation.errors():
        yield "<h2>Pictures with the lowest mIOU</h2>"
        yield (
            '<p class="quiet">Each picture with its mask and what the model found. Look here for masks that are wrong, '
            "and for what the training pictures lack.</p>"
        )
        yield from _pictures(evaluation.classes, worst, tree)


def _classes(evaluation: SegmentationEvaluation) -> str:
    """Weakest first; classes that are nowhere last."""
    pixels = max(int(evaluation.confusion.sum()), 1)
    ordered = sorted(evaluation.metrics.per_class, key=lambda row: 2 if row.iou is None else row.iou)
    rows = [
        (r.name, [percent(r.pixels / pixels), *map(percent, (r.iou, r.recall, r.precision, r.boundary_f))], r.iou or 0)
        for r in ordered
    ]
    return class_tables(("pixels", "IoU", "recall", "precision", "boundary F"), rows, "IoU")


def _confusions(evaluation: SegmentationEvaluation) -> str:
    confusions = evaluation.confusions(3)
    if not confusions:
        return '<p class="quiet">Nothing: every pixel was right.</p>'
    pixels = int(evaluation.confusion.sum())
    listed = ", ".join(
        f"{text(true)} for {text(found)} ({count / pixels:.1%} of all pixels)" for true, found, count in confusions
    )
    return (
        f'<p class="quiet">Most often: {listed}. Numbers and colours are shares of a row in percent, so the diagonal '
        "is the recall. Rows without pixels are grey.</p>"
    )


def _pictures(classes: Sequence[str], worst: Sequence[PictureMask], tree: Tree) -> Iterator[str]:
    """The classes' colours, then each picture beside its mask and what was found."""
    # With a place for what is ignored, too.
    palette = colours(IGNORED + 1)
    rows, shown = [], np.zeros(IGNORED + 1, np.bool_)
    for one in worst:
        true = read_mask(tree, one.picture)
        for mask in (true, one.found):
            shown |= np.bincount(mask.reshape(-1), minlength=len(shown)) > 0
        name = text(one.picture.name)
        image = decode(tree, one.picture.name)
        image.thumbnail((PICTURE_PX, PICTURE_PX))
        sources = [jpeg(image), *(_drawn(mask, palette, image.size) for mask in (true, one.found))]
        parts = zip(("picture", "mask", "found"), sources, strict=True)
        row = "".join(f'<img alt="{name}: {what}" title="{name}: {what}" src="{source}">' for what, source in parts)
        shares = f'mIOU {one.miou:.1%}, <span class="bad">{1 - one.pixel_accuracy:.1%} of the pixels wrong</span>'
        rows.append(f'<figure class="triple">{row}<figcaption>{name}<br>{shares}</figcaption></figure>')
    yield '<ul class="legend">'
    for place in np.flatnonzero(shown[: len(classes)]).tolist():
        red, green, blue = palette[place].tolist()
        yield f'<li><span style="background:rgb({red},{green},{blue})"></span>{text(classes[place])}</li>'
    if shown[IGNORED]:
        yield '<li><span class="hatched"></span>ignored, does not count</li>'
    yield "</ul>"
    yield '<p class="triple quiet"><span>picture</span><span>mask</span><span>found</span></p>'
    yield from rows


def _drawn(mask: NDArray[np.uint8], palette: NDArray[np.uint8], size: tuple[int, int]) -> str:
    """A mask in the colours of its classes, transparent where it is ignored, as the source of an `img`."""
    page = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
    page.putpalette(palette.tobytes())
    stream = io.BytesIO()
    page.save(stream, "png", transparency=IGNORED)
    return inline(stream.getvalue(), "png")
