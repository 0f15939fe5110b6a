"""COCO JSON: outlines of objects, painted into a mask for each picture."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np

from mobilenetv2.data.annotations import Problem, pictures_by_name
from mobilenetv2.data.coco import coco_files, find_image, parse
from mobilenetv2.data.mask_files import MaskSource, OutlinedMask
from mobilenetv2.data.mask_folders import Found
from mobilenetv2.data.tree import MAX_MEMBER_BYTES, Tree

BACKGROUND = "background"


def has_coco_masks(tree: Tree) -> bool:
    """Whether a `.json` of the tree is COCO's, and has outlines; what is too large to be read is taken for one."""
    return any(tree.size(name) > MAX_MEMBER_BYTES or b'"segmentation"' in tree.read(name) for name in coco_files(tree))


def find_coco_masks(tree: Tree) -> Found:
    """Number 0 is the background, the categories follow by their ids. Of two objects the smaller lies on top.

    What a crowd covers is ignored, unless another object lies there. A picture is left out where an annotation
    has no outline.
    As for boxes, a category that no annotation uses and that is the supercategory of others is no class.
    """
    problems: list[Problem] = []
    files = [parse(tree, name, problems, outlines=True) for name in coco_files(tree)]
    order: dict[str, int] = {}
    for file in files:
        for number, name in sorted(file.categories.items()):
            order.setdefault(name, number)
    used = {annotation.category for file in files for some in file.annotations.values() for annotation in some}
    background = next((name for name in order if name.casefold() == BACKGROUND), BACKGROUND)
    no_classes = {background} | {parent for file in files for parent in file.supercategories} - used
    names = (background, *(name for name in sorted(order, key=lambda name: order[name]) if name not in no_classes))
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
            own = file.annotations.get(image.id, [])
            if bare := [one for one in own if not _is_outline(one.segmentation)]:
                # Without the picture, as the object would be background in it.
                text = "has no outline: neither polygons of at least three corners nor a run-length code"
                problems += (Problem(id="malformed", place=one.place, text=text) for one in bare)
                continue
            objects = [
                (not one.is_crowd, -_area(one.segmentation, one.xywh), numbers[one.category], one.segmentation)
                for one in own
            ]
            # Crowds first, then from large to small: what comes later lies on top.
            objects.sort(key=lambda thing: thing[:2])
            mask = OutlinedMask(
                name=place,
                said_hw=image.size_hw,
                objects=tuple((number, where, not alone) for alone, _, number, where in objects),
            )
            splits[file.split][found[0]] = (found[0], mask)
    return Found(
        names=names,
        splits={split: tuple(pairs.values()) for split, pairs in splits.items() if pairs},
        problems=tuple(problems),
    )


def _area(where: Any, xywh: tuple[float, float, float, float]) -> float:
    """In pixels: of polygons by their corners, of a run-length code by its box, infinite where it has none."""
    if isinstance(where, dict):
        area = abs(xywh[2] * xywh[3])
        return math.inf if math.isnan(area) else area
    corners = [np.asarray(polygon, np.float64).reshape(-1, 2).T for polygon in where]
    return sum(abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2 for x, y in corners)


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
