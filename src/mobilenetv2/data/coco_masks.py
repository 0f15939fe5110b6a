"""COCO JSON: outlines of objects, painted into a mask for each picture."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from mobilenetv2.data.annotations import Problem, pictures_by_name
from mobilenetv2.data.coco import coco_files, find_image, parse
from mobilenetv2.data.mask_files import MaskSource, OutlinedMask
from mobilenetv2.data.mask_folders import Found
from mobilenetv2.data.tree import Tree

BACKGROUND = "background"


def has_coco_masks(tree: Tree) -> bool:
    """Whether a `.json` of the tree is COCO's, and has outlines."""
    return any(b'"segmentation"' in tree.read(name) for name in coco_files(tree))


def find_coco_masks(tree: Tree) -> Found:
    """Number 0 is the background, the categories follow by their ids. Of two objects the smaller lies on top.

    What a crowd covers is ignored, unless another object lies there. An annotation without an outline is a problem.
    """
    problems: list[Problem] = []
    files = [parse(tree, name, problems, outlines=True) for name in coco_files(tree)]
    order: dict[str, int] = {}
    for file in files:
        for number, name in sorted(file.categories.items()):
            order.setdefault(name, number)
    names = (BACKGROUND, *(name for name in sorted(order, key=lambda name: order[name]) if name != BACKGROUND))
    numbers = {name: number for number, name in enumerate(names)}
    by_name = pictures_by_name(tree)
    splits: dict[str, dict[str, tuple[str, MaskSource]]] = defaultdict(dict)
    for file in files:
        for image in file.images.values():
            found = find_image(file, image.file_name, by_name)
            place = f"{file.name}: image id {image.id}"
            if len(found) != 1:
                what = "is not there" if not found else f"is there {len(found)} times ({found[0]}, {found[1]})"
                problems.append(Problem(id="missing-file", place=place, text=f"its picture {image.file_name!r} {what}"))
                continue
            if found[0] in splits[file.split]:
                text = f"its picture {found[0]} is listed before"
                problems.append(Problem(id="listed-twice", place=place, text=text))
                continue
            objects: list[tuple[bool, float, int, Any]] = []
            for one in file.annotations.get(image.id, []):
                if not _is_outline(one.segmentation):
                    text = "has no outline: neither polygons of at least three corners nor a run-length code"
                    problems.append(Problem(id="malformed", place=one.place, text=text))
                    continue
                width, height = one.xywh[2:]
                objects.append((not one.is_crowd, -abs(width * height), numbers[one.category], one.segmentation))
            # Crowds first, then from large to small: what comes later lies on top.
            objects.sort(key=lambda thing: thing[:2])
            mask = OutlinedMask(
                name=place, objects=tuple((number, where, not alone) for alone, _, number, where in objects)
            )
            splits[file.split][found[0]] = (found[0], mask)
    return Found(
        names=names,
        splits={split: tuple(pairs.values()) for split, pairs in splits.items() if pairs},
        problems=tuple(problems),
    )


def _is_outline(where: Any) -> bool:
    if isinstance(where, dict):
        return True
    return (
        isinstance(where, list)
        and bool(where)
        and all(
            isinstance(polygon, list)
            and len(polygon) >= 6
            and len(polygon) % 2 == 0
            and all(isinstance(edge, int | float) and -1e6 < edge < 1e6 for edge in polygon)
            for polygon in where
        )
    )
