"""COCO JSON: one file with the boxes of all pictures of a split."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from mobilenetv2.data.annotations import Annotations, BoxedPicture, Problem, checked_boxes
from mobilenetv2.data.folder import SPLIT_NAMES
from mobilenetv2.data.tree import MAX_MEMBER_BYTES, Tree, upright_size
from mobilenetv2.errors import DataError, ImageError
from mobilenetv2.runtime.images import PICTURE_SUFFIXES

_KEYS = (b'"images"', b'"annotations"', b'"categories"')


def is_coco(tree: Tree) -> bool:
    """Whether a `.json` of the tree has images, annotations and categories."""
    return bool(_files(tree))


def read_coco(tree: Tree) -> Annotations:
    """All splits; a file's split is named by the file or by its folder. Classes in the order of their ids.

    A category that no annotation uses and that is the supercategory of others (as some tools write one) is no
    class. Crowds are ignored boxes.
    """
    problems: list[Problem] = []
    files = [_parse(tree, name, problems) for name in _files(tree)]
    names: dict[int, str] = {}
    for file in files:
        names |= file.categories
    used = {annotation.category for file in files for some in file.annotations.values() for annotation in some}
    above = {parent for file in files for parent in file.supercategories}
    ids = [number for number in sorted(names) if number in used or names[number] not in above]
    labels = {number: label for label, number in enumerate(ids)}
    places = _places(tree)
    splits: dict[str, list[BoxedPicture]] = defaultdict(list)
    for file in files:
        for image in file.images.values():
            picture = _picture(tree, file, image, labels, places, problems)
            if picture is not None:
                splits[file.split].append(picture)
    return Annotations(
        tree=tree,
        format="coco",
        classes=tuple(names[number] for number in ids),
        splits={split: tuple(pictures) for split, pictures in splits.items()},
        problems=tuple(problems),
    )


class _Image(NamedTuple):
    id: int
    file_name: str
    size_hw: tuple[float, float]


class _Annotation(NamedTuple):
    place: str
    category: int
    xywh: tuple[float, float, float, float]
    is_crowd: bool


class _File(NamedTuple):
    name: str
    split: str
    images: dict[int, _Image]
    annotations: dict[int, list[_Annotation]]
    categories: dict[int, str]
    supercategories: set[str]


def _files(tree: Tree) -> list[str]:
    # What is too large to be read whole is taken for one, and refused with a reason where it is read.
    found = [
        name
        for name in tree.names
        if name.lower().endswith(".json")
        and (tree.size(name) > MAX_MEMBER_BYTES or all(key in tree.read(name) for key in _KEYS))
    ]
    # COCO's own folder has the same pictures once more with key points.
    if instances := [name for name in found if PurePosixPath(name).name.startswith("instances_")]:
        return instances
    return found


def _split_of(name: str) -> str:
    """The split that a file is named after, or lies below, if any; the nearest name counts."""
    for part in reversed(PurePosixPath(name.lower()).with_suffix("").parts):
        for word in re.split(r"[^a-z]+", part):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return "all"


def _parse(tree: Tree, name: str, problems: list[Problem]) -> _File:
    file = _File(name, _split_of(name), {}, defaultdict(list), {}, set())

    def refuse(kind: str, place: str, text: str) -> None:
        problems.append(Problem(id=kind, place=place, text=text))

    if tree.size(name) > MAX_MEMBER_BYTES:
        refuse(
            "too-large",
            name,
            f"has {tree.size(name) / 2**20:,.0f} MiB, more than the {MAX_MEMBER_BYTES >> 20} that are read; take the "
            "polygons out of it, which boxes do not need, or split it",
        )
        return file
    try:
        values = json.loads(tree.read(name))
    except DataError as error:
        refuse("unreadable-file", name, str(error))
        return file
    except json.JSONDecodeError as error:
        refuse("malformed", f"{name}:{error.lineno}", f"is not whole JSON ({error.msg} at column {error.colno})")
        return file
    except (ValueError, RecursionError) as error:
        refuse("malformed", name, f"is not JSON ({error})")
        return file
    if not isinstance(values, dict) or not all(
        isinstance(values.get(key), list) for key in ("images", "annotations", "categories")
    ):
        refuse("malformed", name, "needs lists 'images', 'annotations' and 'categories'")
        return file
    for number, category in enumerate(values["categories"], 1):
        if (
            not isinstance(category, dict)
            or not _is_id(category.get("id"))
            or not isinstance(category.get("name"), str)
        ):
            refuse("malformed", f"{name}: category {number}", "needs a whole number 'id' and a 'name'")
            continue
        file.categories[category["id"]] = category["name"]
        if isinstance(category.get("supercategory"), str):
            file.supercategories.add(category["supercategory"])
    for number, image in enumerate(values["images"], 1):
        place = f"{name}: image {number}"
        if not isinstance(image, dict) or not _is_id(image.get("id")) or not isinstance(image.get("file_name"), str):
            refuse("malformed", place, "needs a whole number 'id' and a 'file_name'")
        elif image["id"] in file.images:
            refuse("duplicate-id", place, f"has the id {image['id']} of {file.images[image['id']].file_name!r}")
        else:
            size_hw = _number(image.get("height", 0)), _number(image.get("width", 0))
            file.images[image["id"]] = _Image(image["id"], image["file_name"], size_hw)
    for number, annotation in enumerate(values["annotations"], 1):
        place = f"{name}: annotation {number}"
        if not isinstance(annotation, dict):
            refuse("malformed", place, "is no object")
        elif not _is_id(annotation.get("image_id")) or annotation["image_id"] not in file.images:
            refuse("unknown-image", place, f"is of image_id {annotation.get('image_id')!r}, which no image has")
        elif not _is_id(annotation.get("category_id")) or annotation["category_id"] not in file.categories:
            refuse("unknown-class", place, f"has category_id {annotation.get('category_id')!r}, which no category has")
        else:
            box = annotation.get("bbox")
            edges = [_number(value) for value in box] if isinstance(box, list) and len(box) == 4 else [np.nan] * 4
            is_crowd = bool(annotation.get("iscrowd")) or bool(annotation.get("ignore"))
            file.annotations[annotation["image_id"]].append(
                _Annotation(place, annotation["category_id"], (edges[0], edges[1], edges[2], edges[3]), is_crowd)
            )
    return file


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> float:
    """NaN, which is refused later, for what is no number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


def _places(tree: Tree) -> dict[str, list[str]]:
    """Pictures by their bare name."""
    places: dict[str, list[str]] = defaultdict(list)
    for name in tree.names:
        if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES:
            places[PurePosixPath(name).name].append(name)
    return places


def _find(file: _File, file_name: str, places: dict[str, list[str]]) -> list[str]:
    """Where a picture lies: in the folder of the file before others, then in a folder of its split."""
    wanted = PurePosixPath(file_name.replace("\\", "/"))
    parts = [part for part in wanted.parts if part not in (".", "..", "/")]
    ending = "/".join(parts)
    found = [name for name in places.get(wanted.name, []) if f"/{name}".endswith(f"/{ending}")]
    folder = PurePosixPath(file.name).parent
    for near in (
        [name for name in found if name == (folder / ending).as_posix()],
        [name for name in found if _split_of(name) == file.split],
    ):
        if len(near) == 1:
            return near
    return found


def _picture(
    tree: Tree,
    file: _File,
    image: _Image,
    labels: dict[int, int],
    places: dict[str, list[str]],
    problems: list[Problem],
) -> BoxedPicture | None:
    found = _find(file, image.file_name, places)
    place = f"{file.name}: image id {image.id}"
    if len(found) != 1:
        what = "is not there" if not found else f"is there {len(found)} times ({found[0]}, {found[1]})"
        problems.append(Problem(id="missing-file", place=place, text=f"its picture {image.file_name!r} {what}"))
        return None
    size_hw: tuple[int, int] = (1, 1)
    try:
        size_hw = upright_size(tree, found[0])
    except ImageError:
        # Found, and said, where all pictures are decoded.
        if min(image.size_hw) >= 1:
            size_hw = int(image.size_hw[0]), int(image.size_hw[1])
    if min(image.size_hw) > 0 and image.size_hw != size_hw and size_hw != (1, 1):
        said = f"{image.size_hw[1]:g}x{image.size_hw[0]:g}"
        real = f"{size_hw[1]}x{size_hw[0]}"
        problems.append(Problem(id="size-mismatch", place=place, text=f"says {said} pixels, but {found[0]} has {real}"))
        return None
    own = file.annotations.get(image.id, [])
    edges = np.array([one.xywh for one in own], np.float64).reshape(-1, 4)
    edges[:, 2:] += edges[:, :2]
    boxes, kept, wrong = checked_boxes(edges, size_hw, [one.place for one in own])
    problems += wrong
    crowd = np.array([own[index].is_crowd for index in kept], bool)
    return BoxedPicture(
        name=found[0],
        size_hw=size_hw,
        boxes_xyxy=boxes,
        labels=np.array([labels[own[index].category] for index in kept], np.int64),
        ignored=crowd,
        crowd=crowd,
        image_id=image.id,
    )
