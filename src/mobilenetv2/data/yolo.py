"""YOLO text: a `.txt` for each picture, a line for each box: class, centre, width and height in shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mobilenetv2.data.annotations import Annotations, BoxedPicture, Problem, checked_boxes
from mobilenetv2.data.folder import SPLIT_NAMES
from mobilenetv2.data.tree import Tree, upright_size
from mobilenetv2.errors import DataError, ImageError
from mobilenetv2.runtime.images import PICTURE_SUFFIXES

_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt")


def is_yolo(tree: Tree) -> bool:
    """Whether some picture has a text file of boxes: the first one that says anything decides."""
    names = set(tree.names)
    for picture in _pictures(tree):
        label = _label_file(picture, names)
        if label is None:
            continue
        words = tree.read(label).split()
        if words:
            return len(words) >= 5 and all(_is_number(word) for word in words[:5])
    return False


def read_yolo(tree: Tree) -> Annotations:
    """All splits: by the paths of `data.yaml`, or by the folders' names. A picture without a file has no boxes.

    A line of more than five numbers is a polygon, of which the box around it is taken.
    Raises DataError if the names of the classes are nowhere.
    """
    problems: list[Problem] = []
    settings = _settings(tree, problems)
    classes = _classes(tree, settings)
    names = set(tree.names)
    splits: dict[str, list[BoxedPicture]] = {}
    for image_id, (picture, split) in enumerate(_by_split(tree, settings), 1):
        label = _label_file(picture, names)
        try:
            size_hw = upright_size(tree, picture)
        except ImageError:
            # Found, and said, where all pictures are decoded; shares of one pixel keep their meaning.
            size_hw = (1, 1)
        boxed = _read(tree, picture, label, size_hw, classes, image_id, problems)
        splits.setdefault(split, []).append(boxed)
    return Annotations(
        tree=tree,
        format="yolo",
        classes=classes,
        splits={split: tuple(some) for split, some in splits.items()},
        problems=tuple(problems),
    )


def _pictures(tree: Tree) -> Iterator[str]:
    return (name for name in tree.names if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES)


def _label_file(picture: str, names: set[str]) -> str | None:
    """The text file of a picture: in `labels` for `images`, or beside it."""
    path = PurePosixPath(picture).with_suffix(".txt")
    places = [index for index, part in enumerate(path.parts[:-1]) if part.lower() == "images"]
    if places:
        moved = PurePosixPath(*path.parts[: places[-1]], "labels", *path.parts[places[-1] + 1 :]).as_posix()
        if moved in names:
            return moved
    beside = path.as_posix()
    return beside if beside in names and path.name not in _NAME_FILES else None


def _settings(tree: Tree, problems: list[Problem]) -> dict[str, Any]:
    """The first YAML file that names classes; its own place is under "yaml". Empty if there is none."""
    import yaml

    for name in tree.names:
        if not name.lower().endswith((".yaml", ".yml")):
            continue
        try:
            values = yaml.safe_load(tree.read(name))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
            problems.append(Problem(id="malformed", place=f"{name}:{line}" if line else name, text="is not whole YAML"))
            continue
        if isinstance(values, dict) and "names" in values:
            return {**values, "yaml": name}
    return {}


def _classes(tree: Tree, settings: dict[str, Any]) -> tuple[str, ...]:
    names = settings.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{tree.path}/{settings['yaml']}: 'names' must number the classes from 0 without gaps")
        names = [names[index] for index in range(len(names))]
    if isinstance(names, list):
        return tuple(str(name) for name in names)
    for name in tree.names:
        if PurePosixPath(name).name in _NAME_FILES:
            lines = tree.read(name).decode("utf-8", "replace").splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    raise DataError(f"{tree.path}: nothing names the classes; add a data.yaml with 'names', or a classes.txt")


def _by_split(tree: Tree, settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(picture, split). What no path of the YAML file leads to is named by its folders."""
    listed: dict[str, str] = {}
    folders: list[tuple[str, str]] = []
    for key in ("train", "val", "test"):
        entries = settings.get(key) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            parts = [part for part in PurePosixPath(str(entry)).parts if part not in (".", "..", "/")]
            ending = "/".join(parts)
            if ending.endswith(".txt"):
                for name in tree.names:
                    if f"/{name}".endswith(f"/{ending}"):
                        for line in tree.read(name).decode("utf-8", "replace").split():
                            listed["/".join(p for p in PurePosixPath(line).parts if p not in (".", "..", "/"))] = key
            elif ending:
                folders.append((ending, key))
    for picture in _pictures(tree):
        by_list = next((key for ending, key in listed.items() if f"/{picture}".endswith(f"/{ending}")), None)
        by_folder = next((key for ending, key in folders if f"/{ending}/" in f"/{picture}"), None)
        named = [SPLIT_NAMES[part.lower()] for part in PurePosixPath(picture).parts[:-1] if part.lower() in SPLIT_NAMES]
        yield picture, by_list or by_folder or (named[-1] if named else "all")


def _read(
    tree: Tree,
    picture: str,
    label: str | None,
    size_hw: tuple[int, int],
    classes: tuple[str, ...],
    image_id: int,
    problems: list[Problem],
) -> BoxedPicture:
    height, width = size_hw
    edges, labels, places = [], [], []
    lines = tree.read(label).decode("utf-8", "replace").splitlines() if label else []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        place = f"{label}:{number}"
        if not all(_is_number(word) for word in words):
            problems.append(Problem(id="not-a-number", place=place, text=f"{line.strip()[:60]!r} is not all numbers"))
            continue
        if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
            problems.append(
                Problem(id="malformed", place=place, text=f"has {len(words)} numbers; a box has 5, a polygon 7, 9, ...")
            )
            continue
        values = [float(word) for word in words]
        if values[0] != int(values[0] if np.isfinite(values[0]) else 0) or not 0 <= values[0] < len(classes):
            problems.append(
                Problem(
                    id="unknown-class", place=place, text=f"is of class {words[0]}; there are 0 to {len(classes) - 1}"
                )
            )
            continue
        if len(words) == 5:
            x, y, w, h = values[1:]
            box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        else:
            box = (min(values[1::2]), min(values[2::2]), max(values[1::2]), max(values[2::2]))
        edges.append(box)
        labels.append(int(values[0]))
        places.append(place)
    scaled = np.array(edges, np.float64).reshape(-1, 4) * [width, height, width, height]
    boxes, kept, wrong = checked_boxes(scaled, size_hw, places)
    problems += wrong
    return BoxedPicture(
        name=picture,
        size_hw=size_hw,
        boxes_xyxy=boxes,
        labels=np.array(labels, np.int64)[kept],
        ignored=np.zeros(len(kept), bool),
        crowd=np.zeros(len(kept), bool),
        image_id=image_id,
    )


def _is_number(word: bytes | str) -> bool:
    """NaN and infinity are numbers here; they are refused as edges."""
    try:
        float(word)
    except ValueError:
        return False
    return True
