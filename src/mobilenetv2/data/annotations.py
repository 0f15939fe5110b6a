"""Boxes on pictures, as every format of annotations becomes them, and what can be wrong with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.data.tree import Tree
from mobilenetv2.runtime.images import PICTURE_SUFFIXES


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxedPicture:
    """A picture and its true boxes.

    name: in the tree. size_hw: height and width of the upright picture in pixels, as annotated.
    boxes_xyxy: (N, 4) float32, left, upper, right and lower edge in pixels, inside the picture.
    labels: (N,) int64, indices of classes.
    ignored: (N,) bool: COCO's crowd and VOC's difficult boxes, which neither train nor count.
    crowd: (N,) bool: which of them are COCO's crowds, that any number of answers may lie in.
    image_id: COCO's own number; in the other formats the place among all pictures, from 1.
    """

    name: str
    size_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    image_id: int


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with the annotations, so that a training refuses them.

    id: a word for programs, such as "outside-picture". place: file and line, such as "train/a.txt:3"; the
    place alone where there is no line. text: what is wrong there, with the value.
    """

    id: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """What a reader of one format found: good boxes by split, and the problems it left out.

    format: "coco", "voc" or "yolo". splits: by name, "all" where the data has none.
    """

    tree: Tree
    format: str
    classes: tuple[str, ...]
    splits: dict[str, tuple[BoxedPicture, ...]]
    problems: tuple[Problem, ...]


# What a box may stand out of its picture, in pixels, without being wrong: rounding.
ROUNDING_PX = 1.0


def checked_boxes(
    edges_xyxy: NDArray[np.float64], size_hw: tuple[int, int], places: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[Problem]]:
    """Good boxes, clipped to the picture; which of the given ones they are; and what is wrong with the others.

    edges_xyxy: (N, 4), any values. places: where each stands, for the problems. Those are "not-a-number",
    "wrong-order" (right of left, or below above), "no-area" and "outside-picture" (by more than a pixel).
    """
    height, width = size_hw
    is_finite: NDArray[np.bool_] = np.asarray(np.isfinite(edges_xyxy).all(axis=1))
    finite = np.where(is_finite[:, None], edges_xyxy, 0.0)
    overhang = np.concatenate([-finite[:, :2], finite[:, 2:] - (width, height)], axis=1).max(axis=1)
    boxes = finite.clip(0, [width, height, width, height]).astype(np.float32)
    is_wrong = {
        "not-a-number": ~is_finite,
        "wrong-order": (finite[:, 2:] < finite[:, :2]).any(axis=1),
        "outside-picture": overhang > ROUNDING_PX,
        # Once clipped and rounded: what lay on the border, or was thinner than a float32, may have nothing left.
        "no-area": (boxes[:, 2:] <= boxes[:, :2]).any(axis=1),
    }
    is_good = ~np.any(list(is_wrong.values()), axis=0)
    problems: list[Problem] = []
    for index in np.flatnonzero(~is_good).tolist():
        kind = next(kind for kind, found in is_wrong.items() if found[index])
        x1, y1, x2, y2 = (float(edge) for edge in edges_xyxy[index])
        text = {
            "not-a-number": "is not made of numbers",
            "wrong-order": "ends before it begins",
            "outside-picture": f"stands {overhang[index]:g} pixels out of the picture of {width}x{height}",
            "no-area": "has no area",
        }[kind]
        named = f"box {x1:g}, {y1:g}, {x2:g}, {y2:g} (left, top, right, bottom)"
        problems.append(Problem(id=kind, place=places[index], text=f"{named} {text}"))
    return boxes[is_good], np.flatnonzero(is_good), problems


def pictures_by_name(tree: Tree) -> dict[str, list[str]]:
    """Pictures of a tree by the last part of their name."""
    pictures: dict[str, list[str]] = defaultdict(list)
    for name in tree.names:
        path = PurePosixPath(name)
        if path.suffix.lower() in PICTURE_SUFFIXES:
            pictures[path.name].append(name)
    return pictures


def parts_of(path: str) -> tuple[str, ...]:
    """The names in a path that was written on any machine, without those that lead up."""
    return tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def find_picture(path: str, pictures: dict[str, list[str]]) -> list[str]:
    """Pictures of a tree that end as `path` does, by as many parts as any does; more than one is ambiguous.

    The folders count as far as they are there: many tools write those of the machine they ran on.
    """
    wanted = parts_of(path)
    shared = {
        name: _shared_ending(name.split("/"), wanted) for name in (pictures.get(wanted[-1], []) if wanted else [])
    }
    return [name for name in shared if shared[name] == max(shared.values())]


def _shared_ending(one: Sequence[str], other: Sequence[str]) -> int:
    """How many of the last parts of two paths are the same."""
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return count
