"""COCO JSON: one file with the boxes of all pictures of a split."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any, NamedTuple

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
from mobilenetv2.data.tree import MAX_MEMBER_BYTES, Tree, upright_size
from mobilenetv2.errors import DataError, ImageError

_KEYS = (b'"images"', b'"annotations"', b'"categories"')


def is_coco(tree: Tree) -> bool:
    """Whether a `.json` of the tree has images, annotations and categories."""
    return bool(coco_files(tree))


def read_coco(tree: Tree) -> Annotations:
    """All splits; a file's split is named by the file or by its folder. Crowds are ignored boxes.

    A class is a name, in the order of ids: where files number it differently, it is one class still. A category
    that no annotation uses and that is the supercategory of others (as some tools write one) is no class.
    A picture whose width or height is missing, or 0, is taken as it is.
    """
    problems: list[Problem] = []
    files = [parse(tree, name, problems) for name in coco_files(tree)]
    order: dict[str, int] = {}
    for file in files:
        for number, name in sorted(file.categories.items()):
            order.setdefault(name, number)
    used = {annotation.category for file in files for some in file.annotations.values() for annotation in some}
    above = {parent for file in files for parent in file.supercategories}
    classes = [name for name in sorted(order, key=lambda name: order[name]) if name in used or name not in above]
    labels = {name: label for label, name in enumerate(classes)}
    by_name = pictures_by_name(tree)
    # By name: the same picture twice would have the boxes of each of the two as background in the other.
    splits: dict[str, dict[str, BoxedPicture]] = defaultdict(dict)
    for file in files:
        for image in file.images.values():
            picture = _picture(tree, file, image, labels, by_name, problems)
            if picture is None:
                continue
            if picture.name in splits[file.split]:
                place = f"{file.name}: image id {image.id}"
                text = f"its picture {picture.name} is listed before, as id {splits[file.split][picture.name].image_id}"
                problems.append(Problem(id="listed-twice", place=place, text=text))
                continue
            splits[file.split][picture.name] = picture
    return Annotations(
        tree=tree,
        format="coco",
        classes=tuple(classes),
        splits={split: tuple(pictures.values()) for split, pictures in splits.items() if pictures},
        problems=tuple(problems),
    )


class _Image(NamedTuple):
    """size_hw: as it is said, 0 where it is not."""

    id: int
    file_name: str
    size_hw: tuple[float, float]


class _Annotation(NamedTuple):
    place: str
    category: str
    xywh: tuple[float, float, float, float]
    is_crowd: bool
    is_ignored: bool
    segmentation: Any


class CocoFile(NamedTuple):
    name: str
    split: str
    images: dict[int, _Image]
    annotations: dict[int, list[_Annotation]]
    categories: dict[int, str]
    supercategories: set[str]


def coco_files(tree: Tree) -> list[str]:
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


def _split_of(path: PurePosixPath) -> str:
    """The split that a folder, or what has one's form, is named after, if any; the nearest name counts."""
    for part in reversed(path.parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return "all"


def parse(tree: Tree, name: str, problems: list[Problem], *, outlines: bool = False) -> CocoFile:
    """One file. outlines: whether the objects' are kept, which boxes do not need."""
    file = CocoFile(name, _split_of(PurePosixPath(name).with_suffix("")), {}, defaultdict(list), {}, set())

    def refuse(kind: str, place: str, text: str) -> None:
        problems.append(Problem(id=kind, place=place, text=text))

    if tree.size(name) > MAX_MEMBER_BYTES:
        refuse(
            "too-large",
            name,
            f"has {tree.size(name) / 2**20:,.0f} MiB, more than the {MAX_MEMBER_BYTES >> 20} that are read; "
            + ("split it" if outlines else "take the polygons out of it, which boxes do not need, or split it"),
        )
        return file
    try:
        values = json.loads(tree.read(name), object_hook=_without_key_points if outlines else _without_polygons)
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
        known = file.categories.setdefault(category["id"], category["name"])
        if known != category["name"]:
            text = f"{category['name']!r} has the id {category['id']} of {known!r}"
            refuse("duplicate-id", f"{name}: category {number}", text)
        parent = category.get("supercategory")
        # In COCO a person is a person.
        if isinstance(parent, str) and parent != category["name"]:
            file.supercategories.add(parent)
    for number, image in enumerate(values["images"], 1):
        place = f"{name}: image {number}"
        if not isinstance(image, dict) or not _is_id(image.get("id")) or not isinstance(image.get("file_name"), str):
            refuse("malformed", place, "needs a whole number 'id' and a 'file_name'")
        elif image["id"] in file.images:
            refuse("duplicate-id", place, f"has the id {image['id']} of {file.images[image['id']].file_name!r}")
        else:
            height, width = (_number(image.get(side) or 0) for side in ("height", "width"))
            if math.isnan(height) or math.isnan(width):
                said = f"{image.get('width')!r} and {image.get('height')!r}"
                refuse("malformed", place, f"needs numbers as 'width' and 'height', not {said}")
            file.images[image["id"]] = _Image(image["id"], image["file_name"], (height, width))
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
            is_crowd = bool(annotation.get("iscrowd"))
            file.annotations[annotation["image_id"]].append(
                _Annotation(
                    place,
                    file.categories[annotation["category_id"]],
                    (edges[0], edges[1], edges[2], edges[3]),
                    is_crowd,
                    # As converters from VOC write what is difficult.
                    is_crowd or bool(annotation.get("ignore")),
                    annotation.get("segmentation"),
                )
            )
    return file


def _without_polygons(values: dict[str, Any]) -> dict[str, Any]:
    """An object of the file without what boxes do not need, which is most of it: dropped while it is read."""
    values.pop("segmentation", None)
    values.pop("keypoints", None)
    return values


def _without_key_points(values: dict[str, Any]) -> dict[str, Any]:
    values.pop("keypoints", None)
    return values


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> float:
    """NaN, which is refused later, for what is no number, or a whole one beyond all floats."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.nan


def find_image(file: CocoFile, file_name: str, pictures: dict[str, list[str]]) -> list[str]:
    """Where a picture lies: in the folder of the file before others, then in a folder of its split."""
    found = find_picture(file_name, pictures)
    beside = PurePosixPath(file.name).parent.joinpath(*parts_of(file_name)).as_posix()
    for near in (
        [name for name in found if name == beside],
        [name for name in found if _split_of(PurePosixPath(name).parent) == file.split],
    ):
        if len(near) == 1:
            return near
    return found


def _picture(
    tree: Tree,
    file: CocoFile,
    image: _Image,
    labels: dict[str, int],
    by_name: dict[str, list[str]],
    problems: list[Problem],
) -> BoxedPicture | None:
    found = find_image(file, image.file_name, by_name)
    place = f"{file.name}: image id {image.id}"
    if len(found) != 1:
        what = "is not there" if not found else f"is there {len(found)} times ({found[0]}, {found[1]})"
        problems.append(Problem(id="missing-file", place=place, text=f"its picture {image.file_name!r} {what}"))
        return None
    own = file.annotations.get(image.id, [])
    is_said = min(image.size_hw) > 0 and all(map(math.isfinite, image.size_hw))
    try:
        size_hw = upright_size(tree, found[0])
    except ImageError:
        # Found, and said, where all pictures are decoded.
        size_hw = (int(image.size_hw[0]), int(image.size_hw[1])) if is_said else (1, 1)
        own = own if is_said else []
    else:
        if image.size_hw != size_hw and min(image.size_hw) != 0 and not any(map(math.isnan, image.size_hw)):
            said = f"{image.size_hw[1]:g}x{image.size_hw[0]:g}"
            text = f"says {said} pixels, but {found[0]} has {size_hw[1]}x{size_hw[0]}"
            problems.append(Problem(id="size-mismatch", place=place, text=text))
            return None
    edges = np.array([one.xywh for one in own], np.float64).reshape(-1, 4)
    # Infinite or vast ones are refused as edges.
    with np.errstate(invalid="ignore", over="ignore"):
        edges[:, 2:] += edges[:, :2]
    boxes, kept, wrong = checked_boxes(edges, size_hw, [one.place for one in own])
    problems += wrong
    return BoxedPicture(
        name=found[0],
        size_hw=size_hw,
        boxes_xyxy=boxes,
        labels=np.array([labels[own[index].category] for index in kept], np.int64),
        ignored=np.array([own[index].is_ignored for index in kept], bool),
        crowd=np.array([own[index].is_crowd for index in kept], bool),
        image_id=image.id,
    )
