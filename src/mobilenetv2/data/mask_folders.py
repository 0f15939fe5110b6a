"""Where masks lie in folders: beside folders of pictures, or as Pascal VOC has them."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.data.annotations import Problem
from mobilenetv2.data.folder import SPLIT_NAMES
from mobilenetv2.data.mask_files import MaskFile, MaskSource
from mobilenetv2.data.tree import Tree
from mobilenetv2.errors import DataError
from mobilenetv2.runtime.images import PICTURE_SUFFIXES

_PICTURES, _MASKS = "images", ("masks", "labels", "annotations")
_VOC_PICTURES, _VOC_MASKS, _VOC_LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation/"
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
    """Whether there are PNGs in masks/, labels/ or annotations/ and pictures in images/."""
    return bool(_keyed(tree, (_PICTURES,), is_mask=False)) and bool(_keyed(tree, _MASKS, is_mask=True))


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
    return _pair(tree, _keyed(tree, (_PICTURES,), is_mask=False), _keyed(tree, _MASKS, is_mask=True), table, {})


def has_voc_masks(tree: Tree) -> bool:
    """Whether there are PNGs in SegmentationClass/ and pictures in JPEGImages/."""
    pictures, masks = (_keyed(tree, (folder,), is_mask=folder == _VOC_MASKS) for folder in (_VOC_PICTURES, _VOC_MASKS))
    return bool(pictures) and bool(masks)


def find_voc_masks(tree: Tree) -> Found:
    """`JPEGImages/x.jpg` with `SegmentationClass/x.png`, split by `ImageSets/Segmentation/<split>.txt`.

    Pictures in no list are not of this task. Names are VOC's own 21, unless a file names others.
    """
    table = _read_table(tree) or _Table(VOC_CLASSES, None)
    lists: dict[str, str] = {}
    for name in tree.names:
        path = PurePosixPath(name)
        if _VOC_LISTS in name and path.suffix == ".txt" and path.stem in SPLIT_NAMES:
            words = tree.read(name).decode("utf-8", "replace").split()
            lists.update(dict.fromkeys(words, SPLIT_NAMES[path.stem]))
    pictures, masks = (_keyed(tree, (folder,), is_mask=folder == _VOC_MASKS) for folder in (_VOC_PICTURES, _VOC_MASKS))
    if lists:
        pictures, masks = ({k: v for k, v in some.items() if k[-1] in lists} for some in (pictures, masks))
    else:
        pictures = {key: name for key, name in pictures.items() if key in masks}
    return _pair(tree, pictures, masks, table, lists)


# The path without its kind's folder and without the suffix: the same for a picture and its mask.
_Key = tuple[str, ...]


def _keyed(tree: Tree, folders: tuple[str, ...], *, is_mask: bool) -> dict[_Key, str]:
    found: dict[_Key, str] = {}
    for name in tree.names:
        path = PurePosixPath(name)
        if path.suffix.lower() not in ({".png"} if is_mask else PICTURE_SUFFIXES):
            continue
        parts = path.with_suffix("").parts
        places = [place for place, part in enumerate(parts[:-1]) if part in folders]
        if places:
            found[(*parts[: places[-1]], *parts[places[-1] + 1 :])] = name
    return found


def _pair(tree: Tree, pictures: dict[_Key, str], masks: dict[_Key, str], table: _Table, lists: dict[str, str]) -> Found:
    splits: dict[str, list[tuple[str, MaskSource]]] = defaultdict(list)
    problems: dict[str, list[Problem]] = defaultdict(list)
    for key, name in pictures.items():
        split = lists.get(key[-1]) or _split_of(key)
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
        raise DataError(f"{tree.path}: no mask has the name of a picture (first: {next(iter(masks.values()))})")
    return Found(
        names=table.names,
        splits={split: tuple(pairs) for split, pairs in splits.items()},
        problems=(*(one for split in splits for one in problems[split]), *lost),
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
        found = sorted((name for name in tree.names if PurePosixPath(name).name == file), key=lambda n: n.count("/"))
        if found:
            table = read(tree.read(found[0]).decode("utf-8-sig", "replace"), f"{tree.path}/{found[0]}")
            if twice := [name for place, name in enumerate(table.names) if name in table.names[:place]]:
                raise DataError(f"{tree.path}/{found[0]}: names {twice[0]!r} twice; each class needs a name of its own")
            if len(table.names) > 255:
                raise DataError(f"{tree.path}/{found[0]}: names {len(table.names)} classes; masks can have 255")
            return table
    return None


def _read_lines(text: str, place: str) -> _Table:
    """A name a line, perhaps followed by red, green and blue."""
    lines = text.rstrip().splitlines()
    coloured = [re.fullmatch(r"(.+?)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+)\s*", line) for line in lines]
    if lines and all(coloured):
        rows = [match.groups() for match in coloured if match]
        return _Table(tuple(row[0].strip() for row in rows), _colours([row[1:] for row in rows], place))
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise DataError(f"{place}:{number}: is empty; each line names a class, the first that of number 0")
    return _Table(tuple(line.strip() for line in lines), None)


def _read_csv(text: str, place: str) -> _Table:
    """Columns name, r, g and b, with a header."""
    rows = list(csv.DictReader(io.StringIO(text), skipinitialspace=True))
    wanted = ("name", "r", "g", "b")
    if not rows or any(row.get(column) is None for row in rows for column in wanted):
        raise DataError(f"{place}: needs the columns {', '.join(wanted)}, with a value in each row")
    return _Table(
        tuple(row["name"].strip() for row in rows), _colours([(row["r"], row["g"], row["b"]) for row in rows], place)
    )


def _colours(rows: list[tuple[str, ...]], place: str) -> NDArray[np.uint8]:
    try:
        values = np.array([[int(value) for value in row] for row in rows])
    except ValueError as error:
        raise DataError(f"{place}: has a colour that is no number ({error})") from error
    if ((values < 0) | (values > 255)).any():
        raise DataError(f"{place}: has a colour beyond 0 to 255")
    return values.astype(np.uint8)
