"""Pictures with boxes in any format: recognised by looking, split, and read for training or measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.data.annotations import Annotations, BoxedPicture, Problem
from mobilenetv2.data.coco import is_coco, read_coco
from mobilenetv2.data.folder import DEFAULT_VAL_FRACTION, listed, split_off
from mobilenetv2.data.tree import Tree, fingerprint, open_tree
from mobilenetv2.data.voc import is_voc, read_voc
from mobilenetv2.data.yolo import is_yolo, read_yolo
from mobilenetv2.errors import DataError

FORMATS: dict[str, tuple[Callable[[Tree], bool], Callable[[Tree], Annotations]]] = {
    "coco": (is_coco, read_coco),
    "voc": (is_voc, read_voc),
    "yolo": (is_yolo, read_yolo),
}


@dataclass(frozen=True, kw_only=True)
class BoxData:
    """Pictures with boxes by split. `derived` says that `val` was split off by seed, as there was none.

    format: a key of `FORMATS`. problems: what is wrong with boxes and files that were left out.
    """

    tree: Tree
    format: str
    classes: tuple[str, ...]
    splits: dict[str, tuple[BoxedPicture, ...]]
    derived: bool
    problems: tuple[Problem, ...]

    @property
    def path(self) -> Path:
        return self.tree.path

    def counts(self, split: str) -> dict[str, int]:
        """Boxes of each class, without ignored ones."""
        labels = [picture.labels[~picture.ignored] for picture in self.splits[split]]
        found = np.bincount(np.concatenate([np.empty(0, np.int64), *labels]), minlength=len(self.classes))
        return {name: int(found[index]) for index, name in enumerate(self.classes)}

    def without(self, bad: set[str]) -> BoxData:
        """The same without the pictures named in `bad`."""
        kept = {split: tuple(p for p in some if p.name not in bad) for split, some in self.splits.items()}
        return replace(self, splits=kept)


def recognise(tree: Tree) -> str | None:
    """The format of the boxes in a tree, or None where there are none. Raises DataError for two formats at once."""
    found = [name for name, (is_it, _) in FORMATS.items() if is_it(tree)]
    if len(found) > 1:
        raise DataError(f"{tree.path}: holds boxes in more than one format ({', '.join(found)}); keep one")
    return found[0] if found else None


def read_annotations(tree: Tree) -> Annotations:
    """Everything that is annotated, with what is wrong. Raises DataError if no format is recognised."""
    name = recognise(tree)
    if name is None:
        raise DataError(
            f"{tree.path}: holds no boxes in COCO JSON, Pascal VOC XML or YOLO text; for class folders train 'classify'"
        )
    return FORMATS[name][1](tree)


def read_boxes(
    path: Path, *, val_fraction: float = DEFAULT_VAL_FRACTION, seed: int = 0, skip_bad: bool = False
) -> BoxData:
    """Read a folder or `.zip` for training.

    Without a `val` split, `val_fraction` of the pictures is taken off for it, the same for the same seed.
    Raises DataError for no pictures, no boxes to train on, and, unless `skip_bad`, for problems, with their count
    and the first of them.
    """
    annotations = read_annotations(open_tree(path))
    refuse_problems(path, annotations.problems, skip_bad=skip_bad)
    splits = dict(annotations.splits)
    if "train" not in splits:
        if set(splits) != {"all"}:
            raise DataError(f"{path}: has {listed(sorted(splits))} but no 'train' split; training needs one")
        splits["train"] = splits.pop("all")
    derived = "val" not in splits
    if derived:
        splits["train"], splits["val"] = split_off(splits["train"], val_fraction, seed, group=lambda _: None)
        if not splits["val"]:
            raise DataError(
                f"{path}: has no 'val' split and too few pictures to split one off ({len(splits['train'])}); "
                "add pictures, or a larger --set val_fraction"
            )
    data = BoxData(
        tree=annotations.tree,
        format=annotations.format,
        classes=annotations.classes,
        splits=splits,
        derived=derived,
        problems=annotations.problems,
    )
    if not sum(data.counts("train").values()):
        raise DataError(f"{path}: has no boxes to train on in its {len(splits['train'])} training pictures")
    return data


def read_boxes_of_split(
    path: Path,
    classes: Sequence[str],
    split: str | None = None,
    *,
    trained_on: dict[str, Any] | None = None,
    skip_bad: bool = False,
) -> tuple[Tree, str, tuple[BoxedPicture, ...]]:
    """Pictures to measure a model on: the tree, the split's name, and the boxes labelled as the model numbers them.

    `split` and `trained_on` as in `folder.read_labelled`: what was split off by seed is split off again.
    Raises DataError for a split that is not there, for classes that `classes` lacks, and, unless `skip_bad`, for
    problems.
    """
    tree = open_tree(path)
    annotations = read_annotations(tree)
    refuse_problems(path, annotations.problems, skip_bad=skip_bad)
    splits = dict(annotations.splits)
    source = "train" if "train" in splits else "all"
    if (
        "val" not in splits
        and source in splits
        and trained_on is not None
        and trained_on.get("derived_val")
        and trained_on.get("fingerprint") == fingerprint(tree)
    ):
        fraction, seed = float(trained_on["val_fraction"]), int(trained_on["seed"])
        splits["train"], splits["val"] = split_off(splits.pop(source), fraction, seed, group=lambda _: None)
    if split is None:
        split = "val" if "val" in splits else next(iter(splits)) if len(splits) == 1 else None
    if split is None or split not in splits:
        wanted = f"no {split!r}" if split else "no 'val'"
        raise DataError(f"{path}: has {wanted} split; choose one with --split: {listed(sorted(splits))}")
    numbers = {name: number for number, name in enumerate(classes)}
    used = {annotations.classes[label] for picture in splits[split] for label in np.unique(picture.labels)}
    if unknown := sorted(used - set(numbers)):
        raise DataError(
            f"{path}/{split}: has {len(unknown)} classes that the model lacks (first: {unknown[0]!r}); "
            f"known are {listed(classes)}"
        )
    table: NDArray[np.int64] = np.array([numbers.get(name, -1) for name in annotations.classes], np.int64)
    return tree, split, tuple(replace(picture, labels=table[picture.labels]) for picture in splits[split])


def refuse_problems(path: Path, problems: Sequence[Problem], *, skip_bad: bool, noun: str = "annotations") -> None:
    """Raise DataError with the count and the first of them, unless they are to be skipped."""
    if problems and not skip_bad:
        raise DataError(
            f"{path}: {len(problems)} {noun} are wrong (first: {problems[0]}). "
            f"Run 'mobilenetv2 check {path}' for all, or go on without them by --skip-bad"
        )
