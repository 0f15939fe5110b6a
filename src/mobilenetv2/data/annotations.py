"""Boxes on pictures, as every format of annotations becomes them, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.data.tree import Tree


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
    good: list[int] = []
    problems: list[Problem] = []
    for index, edges in enumerate(edges_xyxy):
        x1, y1, x2, y2 = (float(edge) for edge in edges)
        named = f"box {x1:g}, {y1:g}, {x2:g}, {y2:g} (left, top, right, bottom)"
        overhang = max(-x1, -y1, x2 - width, y2 - height)
        if not np.isfinite(edges).all():
            problem = ("not-a-number", f"{named} is not made of numbers")
        elif x2 < x1 or y2 < y1:
            problem = ("wrong-order", f"{named} ends before it begins")
        elif overhang > ROUNDING_PX:
            problem = ("outside-picture", f"{named} stands {overhang:g} pixels out of the picture of {width}x{height}")
        # Again once clipped: what lay on the border may have nothing left.
        elif min(x2, width) <= max(x1, 0) or min(y2, height) <= max(y1, 0):
            problem = ("no-area", f"{named} has no area")
        else:
            good.append(index)
            continue
        problems.append(Problem(id=problem[0], place=places[index], text=problem[1]))
    kept = np.array(good, np.int64)
    boxes = edges_xyxy[kept].reshape(-1, 4).clip(0, [width, height, width, height]).astype(np.float32)
    return boxes, kept, problems
