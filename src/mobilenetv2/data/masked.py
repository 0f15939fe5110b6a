"""Pictures with masks in any format: recognised by looking, split, and read for training or measuring."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.data.annotations import Problem
from mobilenetv2.data.boxed import refuse_problems
from mobilenetv2.data.coco_masks import find_coco_masks, has_coco_masks
from mobilenetv2.data.folder import DEFAULT_VAL_FRACTION, listed, split_off
from mobilenetv2.data.mask_files import UNKNOWN, MaskError, MaskSource
from mobilenetv2.data.mask_folders import Found, find_folder_masks, find_voc_masks, has_folder_masks, has_voc_masks
from mobilenetv2.data.tree import Tree, fingerprint, open_tree, upright_size
from mobilenetv2.errors import DataError, ImageError
from mobilenetv2.masks import IGNORED
from mobilenetv2.segmenter import MAX_CLASSES

# In this order, where a data set has more than one: masks that were drawn as such come before outlines of objects.
FORMATS: dict[str, tuple[Callable[[Tree], bool], Callable[[Tree], Found]]] = {
    "voc": (has_voc_masks, find_voc_masks),
    "index": (has_folder_masks, find_folder_masks),
    "coco": (has_coco_masks, find_coco_masks),
}
# Names of what neither trains nor counts.
IGNORED_NAMES = frozenset({"unlabelled", "unlabeled", "void", "ignore", "ignored"})
_MISSING = -1  # in a table of numbers: of no class


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedPicture:
    """A picture and where its mask is.

    name: in the tree. size_hw: height and width of the upright picture in pixels, and of its mask.
    places: (256,) int16, for each number of the mask the place of its class, `IGNORED`, or -1 for none.
    pixels: (num_classes,) int64, of each class. ignored: pixels of none.
    """

    name: str
    size_hw: tuple[int, int]
    mask: MaskSource
    places: NDArray[np.int16]
    pixels: NDArray[np.int64]
    ignored: int


@dataclass(frozen=True, kw_only=True)
class MaskAnnotations:
    """What was found: good pictures by split ("all" where the data has none), and the problems of the others.

    format: a key of `FORMATS`. ignored_names: classes of the data that neither train nor count.
    """

    tree: Tree
    format: str
    classes: tuple[str, ...]
    ignored_names: tuple[str, ...]
    splits: dict[str, tuple[MaskedPicture, ...]]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class MaskData:
    """Pictures with masks by split. `derived` says that `val` was split off by seed, as there was none.

    problems: what is wrong with masks and files that were left out.
    """

    tree: Tree
    format: str
    classes: tuple[str, ...]
    splits: dict[str, tuple[MaskedPicture, ...]]
    derived: bool
    problems: tuple[Problem, ...]

    @property
    def path(self) -> Path:
        return self.tree.path

    def pixels(self, split: str) -> NDArray[np.int64]:
        """(num_classes,) pixels of each class."""
        return sum((picture.pixels for picture in self.splits[split]), np.zeros(len(self.classes), np.int64))

    def counts(self, split: str) -> dict[str, int]:
        """Pictures that show each class."""
        there = [picture.pixels > 0 for picture in self.splits[split]]
        return {name: sum(bool(one[place]) for one in there) for place, name in enumerate(self.classes)}

    def without(self, bad: set[str]) -> MaskData:
        """The same without the pictures named in `bad`."""
        kept = {split: tuple(p for p in some if p.name not in bad) for split, some in self.splits.items()}
        return replace(self, splits=kept)


def recognise_masks(tree: Tree) -> str | None:
    """The format of the masks in a tree, a key of `FORMATS`, or None where there are none."""
    return next((name for name, (is_it, _) in FORMATS.items() if is_it(tree)), None)


def read_mask(tree: Tree, picture: MaskedPicture) -> NDArray[np.uint8]:
    """(H, W) places of classes, or `IGNORED`. Raises DataError if the file has changed since it was checked."""
    try:
        raw = picture.mask.read(tree, picture.size_hw)
    except MaskError as error:
        raise DataError(f"{tree.path}/{picture.mask.name}: {error}") from error
    places = _placed(raw, picture.places)
    if (places == _MISSING).any():
        raise DataError(f"{tree.path}/{picture.mask.name}: has changed since it was checked")
    return places.astype(np.uint8)


def _placed(raw: NDArray[np.uint16], places: NDArray[np.int16]) -> NDArray[np.int16]:
    table = np.full(UNKNOWN + 1, _MISSING, np.int16)
    table[: len(places)] = places
    found = np.empty(raw.shape, np.int16)
    for band in _bands(raw.shape):
        found[band] = table[raw[band]]
    return found


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows, a million pixels at a time: NumPy makes eight bytes of each when it looks up or counts."""
    rows = max(1, 2**20 // shape[1])
    return (slice(first, first + rows) for first in range(0, shape[0], rows))


def read_mask_annotations(tree: Tree) -> MaskAnnotations:
    """Everything that is masked, with what is wrong; reads every mask once.

    Raises DataError if no format is recognised, or nothing names the classes.
    """
    name = recognise_masks(tree)
    if name is None:
        raise DataError(
            f"{tree.path}: holds no masks: neither images/ with masks/ (PNG), nor Pascal VOC's SegmentationClass/, nor "
            "COCO JSON with segmentations"
        )
    found = FORMATS[name][1](tree)
    skipped = [place for place, one in enumerate(found.names) if one.casefold() in IGNORED_NAMES]
    classes = tuple(one for place, one in enumerate(found.names) if place not in skipped)
    # With those that are ignored: each has a number, and `IGNORED` is none of theirs.
    if not classes or len(found.names) > MAX_CLASSES:
        named = len(found.names) if classes else 0
        raise DataError(f"{tree.path}: names {named} classes; masks can have 1 to {MAX_CLASSES}")
    places = np.full(IGNORED + 1, _MISSING, np.int16)
    places[: len(found.names)] = [
        IGNORED if one in skipped else classes.index(name) for one, name in enumerate(found.names)
    ]
    places[IGNORED] = IGNORED
    problems = list(found.problems)
    splits: dict[str, tuple[MaskedPicture, ...]] = {}
    workers = min(os.cpu_count() or 1, 8)
    for split, pairs in found.splits.items():
        good = []
        with ThreadPoolExecutor(workers) as pool:
            for checked in pool.map(lambda pair: _check(tree, pair, places, found.names, len(classes)), pairs):
                if isinstance(checked, Problem):
                    problems.append(checked)
                else:
                    good.append(checked)
        if good:
            splits[split] = tuple(good)
    return MaskAnnotations(
        tree=tree,
        format=name,
        classes=classes,
        ignored_names=tuple(found.names[place] for place in skipped),
        splits=splits,
        problems=tuple(problems),
    )


def _check(
    tree: Tree,
    pair: tuple[str, MaskSource],
    places: NDArray[np.int16],
    names: Sequence[str],
    num_classes: int,
) -> MaskedPicture | Problem:
    """Read a mask once, and see that it fits its picture and the classes."""
    name, mask = pair
    try:
        size_hw = upright_size(tree, name)
        raw = mask.read(tree, size_hw)
    except MaskError as error:
        return Problem(id=error.id, place=mask.name, text=str(error))
    except ImageError as error:
        return Problem(id="unreadable-picture", place=name, text=str(error).removeprefix(f"{tree.path}/{name}: "))
    except DataError as error:
        return Problem(
            id="unreadable-file", place=mask.name, text=str(error).removeprefix(f"{tree.path}/{mask.name}: ")
        )
    placed = _placed(raw, places)
    if (unknown := placed == _MISSING).any():
        value = int(raw[unknown].min())
        text = f"{int(unknown.sum()):,} pixels are of class {value}, but there are {len(names)} (0 to {len(names) - 1})"
        return Problem(id="unknown-class", place=mask.name, text=text)
    counts = np.zeros(IGNORED + 1, np.int64)
    for band in _bands(placed.shape):
        counts += np.bincount(placed[band].reshape(-1), minlength=IGNORED + 1)
    if counts[IGNORED] == placed.size:
        return Problem(id="all-ignored", place=mask.name, text="has no pixel of any class; all are to be ignored")
    return MaskedPicture(
        name=name,
        size_hw=size_hw,
        mask=mask,
        places=places,
        pixels=counts[:num_classes],
        ignored=int(counts[IGNORED]),
    )


def read_masks(
    path: Path, *, val_fraction: float = DEFAULT_VAL_FRACTION, seed: int = 0, skip_bad: bool = False
) -> MaskData:
    """Read a folder or `.zip` for training.

    Without a `val` split, `val_fraction` of the pictures is taken off for it, the same for the same seed.
    Raises DataError for no pictures, no masks, a single class to train on, and, unless `skip_bad`, for problems, with
    their count and the first.
    """
    found, splits = _usable(open_tree(path), skip_bad=skip_bad)
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
    data = MaskData(
        tree=found.tree,
        format=found.format,
        classes=found.classes,
        splits=splits,
        derived=derived,
        problems=found.problems,
    )
    shown = [name for name, count in zip(data.classes, data.pixels("train"), strict=True) if count]
    if len(shown) < 2:
        # As in masks of black and white, whose white is no class.
        hint = " beside 255, which is ignored" if any(one.ignored for one in data.splits["train"]) else ""
        raise DataError(
            f"{path}: its training masks show only {listed(shown)}{hint}; segmentation needs two classes or more, by "
            "their numbers, or by colours that class_dict.csv names"
        )
    return data


def _usable(tree: Tree, *, skip_bad: bool) -> tuple[MaskAnnotations, dict[str, tuple[MaskedPicture, ...]]]:
    """What is there, with its splits to be changed. Raises DataError for problems, unless skipped, and for nothing."""
    found = read_mask_annotations(tree)
    refuse_problems(tree.path, found.problems, skip_bad=skip_bad, noun="masks")
    if not found.splits:
        first = f" (first: {found.problems[0]})" if found.problems else ""
        raise DataError(f"{tree.path}: has no mask that can be used{first}")
    return found, dict(found.splits)


class SplitOfMasks(NamedTuple):
    """Pictures to measure a model on."""

    tree: Tree
    split: str
    pictures: tuple[MaskedPicture, ...]


def read_masks_of_split(
    path: Path,
    classes: Sequence[str],
    split: str | None = None,
    *,
    trained_on: dict[str, Any] | None = None,
    skip_bad: bool = False,
) -> SplitOfMasks:
    """Pictures to measure a model on: the tree, the split's name, and masks numbered as the model numbers its classes.

    `split` and `trained_on` as in `folder.read_labelled`: what was split off by seed is split off again.
    Raises DataError for a split that is not there, for classes that `classes` lacks, and, unless `skip_bad`, for
    problems.
    """
    tree = open_tree(path)
    found, splits = _usable(tree, skip_bad=skip_bad)
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
    return SplitOfMasks(tree, split, _numbered(splits[split], found.classes, classes, f"{path}/{split}"))


def _numbered(
    pictures: Iterable[MaskedPicture], own: Sequence[str], classes: Sequence[str], place: str
) -> tuple[MaskedPicture, ...]:
    """The same pictures, with the places that a model has for their classes."""
    pictures = tuple(pictures)
    numbers = {name: number for number, name in enumerate(classes)}
    used = sum((picture.pixels for picture in pictures), np.zeros(len(own), np.int64))
    if unknown := [name for name, count in zip(own, used, strict=True) if count and name not in numbers]:
        raise DataError(
            f"{place}: has {len(unknown)} classes that the model lacks (first: {unknown[0]!r}); "
            f"known are {listed(classes)}"
        )
    table = np.full(IGNORED + 2, _MISSING, np.int16)  # the last place is -1's own
    table[IGNORED] = IGNORED
    table[: len(own)] = [numbers.get(name, _MISSING) for name in own]

    def renumbered(picture: MaskedPicture) -> MaskedPicture:
        pixels = np.zeros(len(classes), np.int64)
        for name, count in zip(own, picture.pixels, strict=True):
            if count:
                pixels[numbers[name]] = count
        return replace(picture, places=table[picture.places], pixels=pixels)

    return tuple(map(renumbered, pictures))
