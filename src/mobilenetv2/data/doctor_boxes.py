"""What is wrong with pictures that have boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.anchors import AnchorSizes, anchor_grid, best_overlaps, fit_anchor_sizes, tf_anchor_sizes
from mobilenetv2.boxes import areas, pairwise_iou, to_centers
from mobilenetv2.data.annotations import Annotations, BoxedPicture
from mobilenetv2.data.boxed import read_annotations
from mobilenetv2.data.diagnosis import SEVERITIES, Diagnosis, Finding, number
from mobilenetv2.data.doctor_pictures import EXAMPLES_KEPT, check_duplicates, check_pictures, finding, read_pictures
from mobilenetv2.data.tree import Tree
from mobilenetv2.runtime.images import PICTURE_SUFFIXES

FEW_BOXES = 20  # of a class
MAX_IMBALANCE = 50  # largest class to smallest
TINY_PX = 4.0  # a side, at the input below
SAME_IOU = 0.95
# What is trained with where nothing else is said.
INPUT_HW = (320, 320)
REACHED_IOU = 0.5
GOOD_REACH = 0.95
# COCO's sizes by area, in pixels of the input.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}

# Every kind of problem that a reader of annotations names.
_PROBLEMS = {
    "malformed": "that cannot be read as what it is",
    "too-large": "too large to be read",
    "unreadable-file": "that the system or the archive does not give",
    "missing-file": "whose picture or annotation is not there",
    "duplicate-id": "with the id of another",
    "listed-twice": "of a picture that is listed before",
    "unknown-image": "of a picture that is not listed",
    "unknown-class": "of a class that is not listed",
    "no-class": "without a class",
    "size-mismatch": "for a picture of another size",
    "not-a-number": "with edges that are no numbers",
    "wrong-order": "that end before they begin",
    "no-area": "without area",
    "outside-picture": "outside their picture",
}


def check_boxes(tree: Tree) -> Diagnosis:
    """Read every annotation and decode every picture once, and say what is wrong with them.

    Raises DataError where there is nothing to look at, or two formats at once.
    """
    data = read_annotations(tree)
    pictures = [picture for some in data.splits.values() for picture in some]
    checked = read_pictures(tree, [picture.name for picture in pictures])
    labelled = {split: [(picture.name, "") for picture in some] for split, some in data.splits.items()}
    findings = [
        *_check_problems(data),
        *_check_layout(data),
        *_check_classes(data),
        *_check_boxes(data),
        *_check_anchors(data),
        *check_pictures(list(checked.values())),
        *check_duplicates(labelled, checked),
    ]
    return Diagnosis(
        data=str(tree.path),
        task="detect",
        format=data.format,
        images=len(pictures),
        classes=data.classes,
        splits={split: len(some) for split, some in data.splits.items()},
        boxes=dict(_count(data, list(data.splits))),
        findings=tuple(sorted(findings, key=lambda one: SEVERITIES.index(one.severity))),
    )


def _check_problems(data: Annotations) -> Iterator[Finding]:
    for kind in dict.fromkeys(problem.id for problem in data.problems):
        some = [problem for problem in data.problems if problem.id == kind]
        yield from finding(
            kind,
            "error",
            [str(problem) for problem in some],
            f"{number(len(some), 'annotation')} {_PROBLEMS[kind]}",
            "Mend or remove, or train and evaluate with --skip-bad.",
        )


def _check_layout(data: Annotations) -> Iterator[Finding]:
    splits = set(data.splits)
    if "train" not in splits and splits != {"all"}:
        yield from finding(
            "no-train-split",
            "error",
            sorted(splits),
            f"there is no 'train' split, only {', '.join(sorted(splits)) or 'nothing'}",
            "Training needs one; for evaluation alone this is as it should be.",
        )
    used = {picture.name for some in data.splits.values() for picture in some}
    # Masks of the same pictures, for another task, are none themselves.
    unlisted = [
        name
        for name in data.tree.names
        if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES
        and name not in used
        and "masks" not in PurePosixPath(name.lower()).parts
    ]
    yield from finding(
        "not-annotated",
        "note",
        unlisted,
        f"{number(len(unlisted), 'picture')} that no annotation speaks of",
        "They are ignored. A picture without boxes counts only if its annotation says so.",
    )
    empty = [picture.name for some in data.splits.values() for picture in some if not len(picture.labels)]
    yield from finding(
        "no-boxes",
        "note",
        empty,
        f"{number(len(empty), 'picture')} without boxes",
        "They are examples of the background. If there is something in them, draw its boxes.",
    )


def _count(data: Annotations, splits: list[str]) -> Counter[str]:
    """True boxes of each class, ignored ones not counted."""
    counts: Counter[str] = Counter(dict.fromkeys(data.classes, 0))
    for split in splits:
        for picture in data.splits.get(split, ()):
            counts.update(data.classes[label] for label in picture.labels[~picture.ignored])
    return counts


def _check_classes(data: Annotations) -> Iterator[Finding]:
    source = "train" if "train" in data.splits else "all"
    train = _count(data, [source])
    if not train.total():
        yield from finding(
            "nothing-to-train-on", "error", [str(data.tree.path)], "there are no boxes to train on", "Draw some."
        )
        return
    few = [f"{name} ({count})" for name, count in sorted(train.items(), key=lambda pair: pair[1]) if count < FEW_BOXES]
    yield from finding(
        "few-boxes",
        "warning",
        few,
        f"{number(len(few), 'class')} with fewer than {FEW_BOXES} boxes to train on",
        "Draw more; what a network cannot see often it does not learn.",
    )
    largest = max(train, key=lambda name: train[name])
    small = [f"{name} ({count})" for name, count in train.items() if 0 < count * MAX_IMBALANCE < train[largest]]
    yield from finding(
        "imbalance",
        "warning",
        small,
        f"{number(len(small), 'class')} more than {MAX_IMBALANCE} times rarer than the commonest, {largest!r} "
        f"({train[largest]:,})",
        "Add pictures of the rare classes, and look at their AP, not at the mean alone.",
    )
    for split in ("val", "test"):
        if split in data.splits:
            missing = [name for name, count in _count(data, [split]).items() if not count and train[name]]
            yield from finding(
                f"class-missing-in-{split}",
                "warning",
                missing,
                f"{number(len(missing), 'class')} of train that {split} lacks",
                f"Put pictures of them into {split}; without, nobody knows how well they are learnt.",
            )


def _check_boxes(data: Annotations) -> Iterator[Finding]:
    twice, tiny = [], []
    for some in data.splits.values():
        for picture in some:
            overlap = np.triu(pairwise_iou(picture.boxes_xyxy, picture.boxes_xyxy), 1)
            same = (overlap > SAME_IOU) & (picture.labels[:, None] == picture.labels[None])
            if same.any():
                twice.append(f"{picture.name} ({data.classes[picture.labels[np.argwhere(same)[0][0]]]})")
            tiny += [picture.name] * int((_input_sides(picture).min(axis=1, initial=np.inf) < TINY_PX).sum())
    yield from finding(
        "boxes-twice",
        "warning",
        twice,
        f"{number(len(twice), 'picture')} with the same box drawn twice",
        "Remove one of each: nothing can be found twice.",
    )
    yield from finding(
        "tiny-boxes",
        "warning",
        list(dict.fromkeys(tiny)),
        f"{number(len(tiny), 'box')} with a side below {TINY_PX:g} pixels at an input of {INPUT_HW[1]}",
        "Look whether they are slips; if not, choose a higher --resolution.",
    )


def _input_sides(picture: BoxedPicture) -> NDArray[np.float64]:
    """(N, 2) width and height of the true boxes in pixels of the input."""
    height, width = picture.size_hw
    scale = np.array([INPUT_HW[1] / width, INPUT_HW[0] / height])
    return np.asarray(to_centers(picture.boxes_xyxy[~picture.ignored])[:, 2:] * scale)


def _check_anchors(data: Annotations) -> Iterator[Finding]:
    """How many true boxes no anchor reaches, with the default anchors and with fitted ones."""
    pictures = data.splits.get("train") or data.splits.get("all") or ()
    sides = np.concatenate([np.empty((0, 2)), *(_input_sides(picture) for picture in pictures)])
    if not len(sides):
        return
    overlaps = _overlaps(pictures, tf_anchor_sizes())
    missed = overlaps < REACHED_IOU
    if 1 - missed.mean() >= GOOD_REACH:
        return
    size = areas(np.concatenate([np.zeros_like(sides), sides], axis=1))
    by_size = [
        f"{name} {1 - missed[own].mean():.1%} of {int(own.sum()):,}"
        for name, (low, high) in SIZES.items()
        for own in [(size >= low) & (size < high)]
        if own.any()
    ]
    fitted = _overlaps(pictures, fit_anchor_sizes(sides / min(INPUT_HW), INPUT_HW))
    owners = [picture.name for picture in pictures for _ in range(int((~picture.ignored).sum()))]
    worst = Counter(owners[index] for index in np.flatnonzero(missed)).most_common(EXAMPLES_KEPT)
    yield Finding(
        id="anchors-miss-boxes",
        severity="warning",
        count=int(missed.sum()),
        examples=tuple(f"{name} ({count})" for name, count in worst),
        text=f"{int(missed.sum()):,} of {len(missed):,} training boxes overlap no default anchor by {REACHED_IOU:g} at "
        f"an input of {INPUT_HW[1]} pixels; reached are {', '.join(by_size)}",
        remedy=f"Train with --anchors fit, which reaches {1 - (fitted < REACHED_IOU).mean():.1%} of all instead of "
        f"{1 - missed.mean():.1%}, or with a higher --resolution.",
    )


def _overlaps(pictures: tuple[BoxedPicture, ...], sizes: AnchorSizes) -> NDArray[np.float32]:
    """(boxes,) the best overlap of each true box with an anchor."""
    grid = anchor_grid(INPUT_HW, sizes)
    found = []
    for picture in pictures:
        height, width = picture.size_hw
        shares = picture.boxes_xyxy[~picture.ignored] / np.array([width, height, width, height], np.float32)
        found.append(best_overlaps(grid, shares.astype(np.float32)))
    return np.concatenate(found)
