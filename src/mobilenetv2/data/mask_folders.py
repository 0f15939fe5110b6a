"""Where masks lie in folders: beside folders of pictures, or as Pascal VOC has them."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.data.annotations import Problem
from mobilenetv2.data.folder import SPLIT_NAMES
from mobilenetv2.data.mask_files import MaskFile, MaskSource
from mobilenetv2.data.tree import Tree
from mobilenetv2.errors import DataError
from mobilenetv2.runtime.images import PICTURE_SUFFIXES
from mobilenetv2.segmenter import MAX_CLASSES

_PICTURES, _MASKS = "images", ("masks", "labels", "annotations")
_VOC_PICTURES, _VOC_MASKS, _VOC_LISTS = "jpegimages", "segmentationclass", "imagesets/segmentation/"
NAMES_FILE, COLOURS_FILE = "classes.txt", "class_dict.csv"
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lies where, before any mask is read.

    names: of the classes, by their number. splits: ("all" where there are none) picture and mask of each.
    """

    names: tuple[str, ...]
    splits: dict[str, tuple[tuple[str, MaskSource], ...]]
    problems: tuple[Problem, ...]


def has_folder_masks(tree: Tree) -> bool:
    """Whether there are PNGs in masks/, labels/ or annotations/ and pictures in images/; in any case of letters."""
    return all(_keyed(tree, (_PICTURES,), _MASKS)[:2])


def find_folder_masks(tree: Tree) -> Found:
    """`images/<split>/x.jpg` with `masks/<split>/x.png`, or `<split>/images/...`, or without splits.

    A split without a single mask is not labelled, and left out. Names are those of `classes.txt` or `class_dict.csv`.
    Raises DataError where nothing names the classes.
    """
    table = _read_table(tree)
    if table is None:
        raise DataError(
            f"{tree.path}: nothing names the classes of its masks; write {NAMES_FILE} with a name on each line, the "
            "first for number 0"
        )
    pictures, masks, doubled = _keyed(tree, (_PICTURES,), _MASKS)
    return _pair(tree, pictures, masks, table, {}, doubled)


def has_voc_masks(tree: Tree) -> bool:
    """Whether there are PNGs in SegmentationClass/ and pictures in JPEGImages/."""
    return all(_keyed(tree, (_VOC_PICTURES,), (_VOC_MASKS,))[:2])


def find_voc_masks(tree: Tree) -> Found:
    """`JPEGImages/x.jpg` with `SegmentationClass/x.png`, split by `ImageSets/Segmentation/<split>.txt`.

    Pictures in no list are not of this task. Names are VOC's own 21, unless a file names others.
    """
    table = _read_table(tree) or _Table(VOC_CLASSES, None)
    lists: dict[str, str] = {}
    places: dict[str, str] = {}
    for name in tree.names:
        path = PurePosixPath(name)
        if _VOC_LISTS in name.lower() and path.suffix == ".txt" and path.stem in SPLIT_NAMES:
            for number, line in enumerate(tree.read(name).decode("utf-8-sig", "replace").splitlines(), 1):
                if word := line.strip():
                    lists[word], places[word] = SPLIT_NAMES[path.stem], f"{name}:{number}"
    pictures, masks, doubled = _keyed(tree, (_VOC_PICTURES,), (_VOC_MASKS,))
    if lists:
        pictures, masks = ({k: v for k, v in some.items() if _listed_as(k, lists)} for some in (pictures, masks))
    else:
        pictures = {key: name for key, name in pictures.items() if key in masks}
    found = _pair(tree, pictures, masks, table, lists, doubled)
    there = {ending for key in (*pictures, *masks) for ending in _endings(key)}
    nowhere = [
        Problem(id="missing-file", place=place, text=f"lists {word!r}, which is nowhere")
        for word, place in places.items()
        if word not in there
    ]
    return replace(found, problems=(*found.problems, *nowhere))


# The path without its kind's folder and without the suffix: the same for a picture and its mask.
_Key = tuple[str, ...]


def _keyed(
    tree: Tree, of_pictures: tuple[str, ...], of_masks: tuple[str, ...]
) -> tuple[dict[_Key, str], dict[_Key, str], dict[_Key, Problem]]:
    """Pictures, masks, and of which keys there are two of a kind, so that nobody knows what belongs to what."""
    kinds: tuple[dict[_Key, list[str]], ...] = (defaultdict(list), defaultdict(list))
    for name in tree.names:
        path = PurePosixPath(name)
        parts = path.with_suffix("").parts
        places = [place for place, part in enumerate(parts[:-1]) if part.lower() in (*of_pictures, *of_masks)]
        if not places:
            continue
        # The nearest folder says what it is.
        is_mask = parts[places[-1]].lower() in of_masks
        if path.suffix.lower() in ({".png"} if is_mask else PICTURE_SUFFIXES):
            kinds[is_mask][(*parts[: places[-1]], *parts[places[-1] + 1 :])].append(name)
    doubled = {
        key: Problem(id="same-name", place=names[1], text=f"cannot be told from {names[0]}; remove or rename one")
        for found in kinds
        for key, names in found.items()
        if len(names) > 1
    }
    pictures, masks = ({key: names[0] for key, names in found.items()} for found in kinds)
    return pictures, masks, doubled


def _endings(key: _Key) -> list[str]:
    """What a list may call it: the name, with as many folders as it likes; the longest first."""
    return ["/".join(key[first:]) for first in range(len(key))]


def _listed_as(key: _Key, lists: dict[str, str]) -> str:
    return next((ending for ending in _endings(key) if ending in lists), "")


def _pair(
    tree: Tree,
    pictures: dict[_Key, str],
    masks: dict[_Key, str],
    table: _Table,
    lists: dict[str, str],
    doubled: dict[_Key, Problem],
) -> Found:
    splits: dict[str, list[tuple[str, MaskSource]]] = defaultdict(list)
    problems: dict[str, list[Problem]] = defaultdict(list)
    twice = [problem for key, problem in doubled.items() if key in pictures or key in masks]
    pictures, masks = ({key: some[key] for key in some if key not in doubled} for some in (pictures, masks))
    for key, name in pictures.items():
        named = _listed_as(key, lists)
        split = lists[named] if named else _split_of(key)
        if key in masks:
            splits[split].append((name, MaskFile(name=masks[key], colours=table.colours)))
        else:
            problems[split].append(Problem(id="missing-mask", place=name, text="has no mask"))
    lost = [
        Problem(id="missing-file", place=name, text="is a mask without its picture")
        for key, name in masks.items()
        if key not in pictures
    ]
    if not splits:
        first = next(iter([*map(str, twice), *masks.values(), *lists]))
        raise DataError(
            f"{tree.path}: no mask has the name of a picture (first: {first}); it needs the same, with the ending .png"
        )
    return Found(
        names=table.names,
        splits={split: tuple(pairs) for split, pairs in splits.items()},
        problems=(*(one for split in splits for one in problems[split]), *lost, *twice),
    )


def _split_of(key: _Key) -> str:
    return next((SPLIT_NAMES[part.lower()] for part in key[:-1] if part.lower() in SPLIT_NAMES), "all")


@dataclass(frozen=True)
class _Table:
    """colours: (N, 3) uint8 of each class, or None."""

    names: tuple[str, ...]
    colours: NDArray[np.uint8] | None


def _read_table(tree: Tree) -> _Table | None:
    """Names and perhaps colours, by number. Raises DataError where the file is none."""
    for file, read in ((COLOURS_FILE, _read_csv), (NAMES_FILE, _read_lines)):
        found = [name for name in tree.names if PurePosixPath(name).name.lower() == file]
        if not found:
            continue
        name = min(found, key=lambda one: one.count("/"))
        place = f"{tree.path}/{name}"
        try:
            text = tree.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: is not UTF-8 text ({error.reason}); save it as that") from error
        table = read(text, place)
        if len(table.names) > MAX_CLASSES:
            raise DataError(f"{place}: names {len(table.names)} classes; masks can have {MAX_CLASSES}")
        if not all(table.names):
            raise DataError(f"{place}: has a class without a name")
        if twice := [one for number, one in enumerate(table.names) if one in table.names[:number]]:
            raise DataError(f"{place}: names {twice[0]!r} twice; each class needs a name of its own")
        return table
    return None


def _read_lines(text: str, place: str) -> _Table:
    """A name a line, perhaps followed by red, green and blue."""
    lines = [line.strip() for line in text.rstrip().splitlines()]
    rows = []
    for number, line in enumerate(lines, 1):
        if not line:
            raise DataError(f"{place}:{number}: is empty; each line names a class, the first that of number 0")
        words = re.sub("[,;]", " ", line).rsplit(maxsplit=3)
        if len(words) == 4 and all(word.isdecimal() for word in words[1:]):
            rows.append((line[: len(words[0])].strip(), *words[1:]))
        elif rows:
            raise DataError(f"{place}:{number}: has no colour, but lines before have; write name, red, green and blue")
    if 0 < len(rows) < len(lines):
        raise DataError(f"{place}:1: has no colour, but later lines have; write name, red, green and blue")
    return _Table(tuple(row[0] for row in rows), _colours(rows, place)) if rows else _Table(tuple(lines), None)


def _read_csv(text: str, place: str) -> _Table:
    """Columns name, r, g and b in any order, with a header; between them are commas, or semicolons."""
    lines = text.splitlines()
    header, delimiter = (lines[0].lower(), ";" if ";" in lines[0] else ",") if lines else ("", ",")
    names = [name.strip() for name in header.split(delimiter)]
    try:
        rows = list(csv.DictReader(lines[1:], names, delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise DataError(f"{place}: is no table of columns with commas between them ({error})") from error
    wanted = ("name", "r", "g", "b")
    if not rows or any(row.get(column) is None for row in rows for column in wanted):
        raise DataError(f"{place}: needs the columns {', '.join(wanted)}, with a value in each row")
    found: list[tuple[str, ...]] = [(row["name"].strip(), row["r"], row["g"], row["b"]) for row in rows]
    return _Table(tuple(row[0] for row in found), _colours(found, place))


def _colours(rows: list[tuple[str, ...]], place: str) -> NDArray[np.uint8]:
    """rows: name, red, green and blue of each class."""
    try:
        values = np.array([[int(value) for value in row[1:]] for row in rows])
    except ValueError as error:
        raise DataError(f"{place}: has a colour that is no number ({error})") from error
    if ((values < 0) | (values > 255)).any():
        raise DataError(f"{place}: has a colour beyond 0 to 255")
    colours, counts = np.unique(values, axis=0, return_counts=True)
    if counts.max() > 1:
        twice = ", ".join(map(str, colours[counts.argmax()].tolist()))
        raise DataError(f"{place}: gives the colour ({twice}) to more than one class; each needs a colour of its own")
    return values.astype(np.uint8)
