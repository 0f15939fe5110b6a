"""YOLO text: a `.txt` for each picture, a line for each box: class, centre, width and height in shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mobilenetv2.data.annotations import (
    Annotations,
    BoxedPicture,
    Problem,
    checked_boxes,
    find_picture,
    parts_of,
    pictures_by_name,
)
from mobilenetv2.data.folder import SPLIT_NAMES
from mobilenetv2.data.tree import Tree, upright_size
from mobilenetv2.errors import DataError, ImageError
from mobilenetv2.runtime.images import PICTURE_SUFFIXES

_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt")
# Files of text that are looked at before there are no boxes.
_LOOKED_AT = 20
_SPLITS = ("train", "val", "test")


def is_yolo(tree: Tree) -> bool:
    """Whether a picture has a text file of boxes; looks at the first ones that say anything."""
    names = set(tree.names)
    if not any(name.endswith(".txt") for name in names):
        return False
    looked_at = 0
    for picture in _pictures(tree):
        label = _label_file(picture, names)
        words = _text(tree, label).split() if label else []
        if _are_a_box(words):
            return True
        looked_at += bool(words)
        if looked_at == _LOOKED_AT:
            break
    return False


def read_yolo(tree: Tree) -> Annotations:
    """All splits: by the paths of `data.yaml`, or by the folders' names. A picture without a file has no boxes.

    A line of more than five numbers is a polygon, of which the box around it is taken.
    Raises DataError if the names of the classes are nowhere, or are no names.
    """
    problems: list[Problem] = []
    settings = _settings(tree, problems)
    classes = _classes(tree, settings, problems)
    names = set(tree.names)
    splits: dict[str, list[BoxedPicture]] = {}
    read: set[str] = set()
    for image_id, (picture, split) in enumerate(_by_split(tree, settings, problems), 1):
        label = _label_file(picture, names)
        read |= {label} if label else set()
        try:
            size_hw = upright_size(tree, picture)
        except ImageError:
            # Found, and said, where all pictures are decoded; shares of one pixel keep their meaning.
            size_hw = (1, 1)
        boxed = _read(tree, picture, label, size_hw, classes, image_id, problems)
        splits.setdefault(split, []).append(boxed)
    folders = {PurePosixPath(name).parent for name in read}
    for name in tree.names:
        path = PurePosixPath(name)
        if path.suffix != ".txt" or path.name in _NAME_FILES or path.parent not in folders or name in read:
            continue
        if _are_a_box(_text(tree, name).split()):
            problems.append(Problem(id="missing-file", place=name, text="there is no picture of this name"))
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


def _text(tree: Tree, name: str) -> str:
    """What is no UTF-8 is no number either, and is refused as such."""
    return tree.read(name).decode("utf-8-sig", "replace")


def _are_a_box(words: list[str]) -> bool:
    return len(words) >= 5 and all(_is_number(word) for word in words[:5])


def _settings(tree: Tree, problems: list[Problem]) -> dict[str, Any]:
    """The YAML file that names classes; its own place is under "yaml". Empty if there is none.

    Raises DataError for two that say different things.
    """
    import yaml

    found: dict[str, Any] = {}
    for name in tree.names:
        if not name.lower().endswith((".yaml", ".yml")):
            continue
        try:
            values = yaml.safe_load(tree.read(name))
        # PyYAML lets through what its constructors stumble over: dates of no calendar, empty numbers, deep nesting.
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
            line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
            text = f"is not whole YAML ({str(getattr(error, 'problem', None) or error).splitlines()[0]})"
            problems.append(Problem(id="malformed", place=f"{name}:{line}" if line else name, text=text))
            continue
        if not isinstance(values, dict) or "names" not in values:
            continue
        said = {key: values.get(key) for key in ("names", *_SPLITS)}
        if found and found != {**said, "yaml": found["yaml"]}:
            raise DataError(f"{tree.path}: {found['yaml']} and {name} say different things of the data; keep one")
        found = found or {**said, "yaml": name}
    return found


def _classes(tree: Tree, settings: dict[str, Any], problems: list[Problem]) -> tuple[str, ...]:
    names, place = settings.get("names"), settings.get("yaml")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise DataError(f"{tree.path}/{place}: 'names' must number the classes from 0 without gaps")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list):
        place = next((name for name in tree.names if PurePosixPath(name).name in _NAME_FILES), None)
        names = [line.strip() for line in _text(tree, place).splitlines() if line.strip()] if place else []
    if not names:
        why = f" ({problems[0]})" if problems else ""
        raise DataError(f"{tree.path}: nothing names the classes{why}; add a data.yaml with 'names', or a classes.txt")
    for index, name in enumerate(names):
        # YAML takes yes, no, on and off for truth values.
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            raise DataError(f"{tree.path}/{place}: class {index} is no name; put it in quotes")
    classes = tuple(str(name) for name in names)
    if twice := [name for name in classes if classes.count(name) > 1]:
        raise DataError(f"{tree.path}/{place}: names the class {twice[0]!r} twice")
    return classes


def _by_split(tree: Tree, settings: dict[str, Any], problems: list[Problem]) -> list[tuple[str, str]]:
    """(picture, split). What no path of the YAML file leads to is named by its folders.

    A picture is in one split: the one that lists it, or whose folder is nearest to it, or the first of `_SPLITS`.
    So a `val` of the very pictures of `train` is none.
    """
    pictures = list(_pictures(tree))
    by_name = pictures_by_name(tree)
    named = {picture: _named_split(picture) for picture in pictures}
    chosen: dict[str, tuple[float, str]] = {}
    for key in _SPLITS:
        entries = settings.get(key) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            ending = "/".join(parts_of(str(entry)))
            if ending.endswith(".txt"):
                lists = [name for name in tree.names if f"/{name}".endswith(f"/{ending}")]
                led = [picture for name in lists for picture in _listed(tree, name, by_name, problems)]
                nearness = float("inf")
            else:
                led = _below(PurePosixPath(settings["yaml"]).parent, ending, pictures)
                nearness = len(ending)
            for picture in led:
                if picture not in chosen or nearness > chosen[picture][0]:
                    chosen[picture] = (nearness, key)
            # Tools name a test folder also where there is none; without the others it would be other data.
            if not led and key != "test" and key not in named.values():
                text = f"'{key}: {entry}' leads to no picture; put it right, or take it out"
                problems.append(Problem(id="missing-file", place=settings["yaml"], text=text))
    return [(picture, chosen[picture][1] if picture in chosen else named[picture]) for picture in pictures]


def _below(folder: PurePosixPath, ending: str, pictures: list[str]) -> list[str]:
    """Pictures below a path: from the YAML file's folder if it leads to any, from any folder otherwise."""
    start = f"{folder.joinpath(ending).as_posix()}/".removeprefix("./")
    return [name for name in pictures if name.startswith(start)] or [
        name for name in pictures if f"/{ending}/" in f"/{name}"
    ]


def _named_split(picture: str) -> str:
    """The split that the nearest folder is named after."""
    folders = [part.lower() for part in PurePosixPath(picture).parts[:-1]]
    return next((SPLIT_NAMES[part] for part in reversed(folders) if part in SPLIT_NAMES), "all")


def _listed(tree: Tree, name: str, by_name: dict[str, list[str]], problems: list[Problem]) -> Iterator[str]:
    """Pictures that a file of one name a line lists."""
    for number, line in enumerate(_text(tree, name).splitlines(), 1):
        found = find_picture(line.strip(), by_name)
        if len(found) == 1:
            yield found[0]
        elif line.strip():
            what = "is not there" if not found else f"is there {len(found)} times ({found[0]}, {found[1]})"
            problems.append(Problem(id="missing-file", place=f"{name}:{number}", text=f"{line.strip()!r} {what}"))


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
    try:
        lines = _text(tree, label).splitlines() if label else []
    except DataError as error:
        problems.append(Problem(id="unreadable-file", place=str(label), text=str(error)))
        lines = []
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
    # Vast ones are refused as edges.
    with np.errstate(over="ignore"):
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


def _is_number(word: str) -> bool:
    """NaN and infinity are numbers here; they are refused as edges."""
    try:
        float(word)
    except ValueError:
        return False
    return True
