"""What is wrong with pictures that have masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.data.diagnosis import SEVERITIES, Diagnosis, Finding, number
from mobilenetv2.data.doctor_pictures import check_duplicates, check_pictures, finding, read_pictures
from mobilenetv2.data.mask_files import MaskFile
from mobilenetv2.data.masked import MaskAnnotations, MaskedPicture, read_mask_annotations
from mobilenetv2.data.tree import Tree
from mobilenetv2.runtime.images import PICTURE_SUFFIXES

FEW_PICTURES = 5  # that show a class
MAX_IMBALANCE = 1000  # largest class to smallest, in pixels
MOSTLY = 0.5  # of a mask ignored

# Every kind of problem that a reader of masks names.
_PROBLEMS = {
    "missing-mask": "whose mask is not there",
    "missing-file": "whose picture is not there",
    "size-mismatch": "of another size than their pictures",
    "unknown-class": "with pixels of no class",
    "no-class-table": "of colours that nothing explains",
    "unreadable-mask": "that cannot be decoded",
    "unreadable-picture": "whose picture cannot be decoded",
    "unreadable-file": "that the system or the archive does not give",
    "too-large": "too large to be read",
    "all-ignored": "without a pixel that counts",
    "malformed": "that cannot be read as what it is",
    "duplicate-id": "with the id of another",
    "same-name": "with the name of another",
    "outside-picture": "with outlines outside their pictures",
    "listed-twice": "of a picture that is listed before",
    "unknown-image": "of a picture that is not listed",
}


def check_masks(tree: Tree) -> Diagnosis:
    """Read every mask and decode every picture once, and say what is wrong with them.

    Raises DataError where there is nothing to look at, or nothing names the classes.
    """
    data = read_mask_annotations(tree)
    pictures = [picture for some in data.splits.values() for picture in some]
    checked = read_pictures(tree, [picture.name for picture in pictures])
    labelled = {split: [(picture.name, "") for picture in some] for split, some in data.splits.items()}
    findings = [
        *_check_problems(data),
        *_check_layout(data),
        *_check_classes(data),
        *_check_masks(data),
        *check_pictures(list(checked.values())),
        *check_duplicates(labelled, checked),
    ]
    counts = _pixels(data, pictures)
    return Diagnosis(
        data=str(tree.path),
        task="segment",
        format=data.format,
        images=len(pictures),
        classes=data.classes,
        splits={split: len(some) for split, some in data.splits.items()},
        pixels={name: int(counts[place]) for place, name in enumerate(data.classes)},
        findings=tuple(sorted(findings, key=lambda one: SEVERITIES.index(one.severity))),
    )


def _pixels(data: MaskAnnotations, pictures: list[MaskedPicture]) -> NDArray[np.int64]:
    return sum((picture.pixels for picture in pictures), np.zeros(len(data.classes), np.int64))


def _check_problems(data: MaskAnnotations) -> Iterator[Finding]:
    for kind in dict.fromkeys(problem.id for problem in data.problems):
        some = [problem for problem in data.problems if problem.id == kind]
        noun = "picture" if kind == "missing-mask" else "mask"
        yield from finding(
            kind,
            "error",
            [str(problem) for problem in some],
            f"{number(len(some), noun)} {_PROBLEMS[kind]}",
            "Mend or remove, or train and evaluate with --skip-bad.",
        )


def _check_layout(data: MaskAnnotations) -> Iterator[Finding]:
    splits = set(data.splits)
    if "train" not in splits and splits != {"all"}:
        yield from finding(
            "no-train-split",
            "error",
            sorted(splits) or [str(data.tree.path)],
            f"there is no 'train' split, only {', '.join(sorted(splits)) or 'nothing'}",
            "Training needs one; for evaluation alone this is as it should be.",
        )
    pairs = [picture for some in data.splits.values() for picture in some]
    used = {name for picture in pairs for name in (picture.name, picture.mask.name)}
    used |= {problem.place for problem in data.problems}
    others = [
        name for name in data.tree.names if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES and name not in used
    ]
    yield from finding(
        "not-annotated",
        "note",
        others,
        f"{number(len(others), 'picture')} that no mask speaks of",
        "They are ignored.",
    )
    yield from finding(
        "ignored-classes",
        "note",
        data.ignored_names,
        f"{number(len(data.ignored_names), 'class')} that neither train nor count",
        "Their names say so; rename them in the class table if they shall count.",
    )


def _check_classes(data: MaskAnnotations) -> Iterator[Finding]:
    train = data.splits.get("train") or data.splits.get("all") or ()
    if not train:
        yield from finding(
            "nothing-to-train-on", "error", [str(data.tree.path)], "there are no masks to train on", "Draw some."
        )
        return
    shown: NDArray[np.int64] = np.stack([picture.pixels > 0 for picture in train]).sum(axis=0)
    seen = [name for name, count in zip(data.classes, shown, strict=True) if count]
    yield from finding(
        "nothing-to-tell-apart",
        "error",
        seen if len(seen) == 1 else [],
        f"the masks to train on show one class alone, {seen[0]!r}" if seen else "",
        "Segmentation needs two or more. 255 is ignored: where it is the white of a class, write 1 instead, or name "
        "its colour in class_dict.csv.",
    )
    few = [f"{name} ({count})" for name, count in zip(data.classes, shown, strict=True) if count < FEW_PICTURES]
    yield from finding(
        "few-pictures",
        "warning",
        few,
        f"{number(len(few), 'class')} in fewer than {FEW_PICTURES} pictures to train on",
        "Add pictures; what a network cannot see often it does not learn.",
    )
    pixels = _pixels(data, list(train))
    largest = int(pixels.argmax())
    small = [
        f"{name} ({count:,})"
        for name, count in zip(data.classes, pixels, strict=True)
        if 0 < count * MAX_IMBALANCE < pixels[largest]
    ]
    yield from finding(
        "imbalance",
        "warning",
        small,
        f"{number(len(small), 'class')} with {MAX_IMBALANCE:,} times fewer pixels than the commonest, "
        f"{data.classes[largest]!r} ({pixels[largest]:,})",
        "Look at their IoU, not at the mean alone; --set class_balance=0.5 gives them more weight.",
    )
    for split in ("val", "test"):
        if split in data.splits:
            there = _pixels(data, list(data.splits[split])) > 0
            missing = [name for name, seen, ok in zip(data.classes, shown, there, strict=True) if seen and not ok]
            yield from finding(
                f"class-missing-in-{split}",
                "warning",
                missing,
                f"{number(len(missing), 'class')} of train that {split} lacks",
                f"Put pictures of them into {split}; without, nobody knows how well they are learnt.",
            )


def _check_masks(data: MaskAnnotations) -> Iterator[Finding]:
    pictures = [picture for some in data.splits.values() for picture in some]
    one_class = [picture.name for picture in pictures if np.count_nonzero(picture.pixels) == 1]
    yield from finding(
        "one-class",
        "note",
        one_class,
        f"{number(len(one_class), 'mask')} of one class alone",
        "If there is something else in the picture, draw it.",
    )
    mostly = [p.mask.name for p in pictures if p.ignored > MOSTLY * (p.ignored + int(p.pixels.sum()))]
    yield from finding(
        "mostly-ignored",
        "note",
        mostly,
        f"{number(len(mostly), 'mask')} of which more than {MOSTLY:.0%} is ignored",
        "Only the rest trains and counts.",
    )
    wide = [p.mask.name for p in pictures if isinstance(p.mask, MaskFile) and p.mask.is_wide(data.tree)]
    yield from finding(
        "16-bit-masks",
        "note",
        wide,
        f"{number(len(wide), 'mask')} of 16 bits a pixel",
        "They are read as they are; 8 bits would do.",
    )
