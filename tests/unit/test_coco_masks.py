"""Masks painted from COCO's outlines, and what can be wrong with those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_masked import picture, problems

from mobilenetv2.data.masked import read_mask, read_mask_annotations
from mobilenetv2.data.tree import open_tree
from mobilenetv2.errors import DataError
from mobilenetv2.masks import IGNORED, rle_encode


def coco(root: Path, annotations: list[dict[str, Any]], **other: Any) -> None:
    """One picture of 30x20 pixels, and two categories."""
    values = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 30, "height": 20}],
        "annotations": [{"id": number, "image_id": 1, **one} for number, one in enumerate(annotations, 1)],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        **other,
    }
    picture(root / "a.jpg", (20, 30))
    (root / "labels.json").write_text(json.dumps(values))


LARGE = {"category_id": 2, "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]]}
SMALL = {"category_id": 1, "segmentation": [[4, 4, 7, 4, 7, 7, 4, 7]]}


@pytest.mark.parametrize("annotations", [[LARGE, SMALL], [SMALL, LARGE]])
def test_the_smaller_coco_object_lies_on_top_without_boxes_too(
    tmp_path: Path, annotations: list[dict[str, Any]]
) -> None:
    coco(tmp_path, annotations)
    (one,) = read_mask_annotations(open_tree(tmp_path)).splits["all"]
    assert one.pixels.tolist() == [500, 9, 91]


def test_coco_outlines_for_another_size(tmp_path: Path) -> None:
    coco(tmp_path, [LARGE], images=[{"id": 1, "file_name": "a.jpg", "width": 300, "height": 200}])
    text = "says 300x200 pixels, but its picture has 30x20"
    assert problems(tmp_path) == [("size-mismatch", "labels.json: image id 1", text)]


def test_an_unused_supercategory_is_no_class(tmp_path: Path) -> None:
    animals = {"id": 0, "name": "animals", "supercategory": "none"}
    coco(tmp_path, [LARGE], categories=[animals, {"id": 2, "name": "cat", "supercategory": "animals"}])
    assert read_mask_annotations(open_tree(tmp_path)).classes == ("background", "cat")


def test_more_coco_categories_than_a_mask_has_numbers(tmp_path: Path) -> None:
    names = [*(f"c{number}" for number in range(254)), "void", "ignore"]
    coco(tmp_path, [LARGE], categories=[{"id": number, "name": name} for number, name in enumerate(names, 1)])
    with pytest.raises(DataError, match="names 257 classes; masks can have 1 to 255"):
        read_mask_annotations(open_tree(tmp_path))


def test_coco_outlines_are_painted(tmp_path: Path) -> None:
    size = (20, 30)
    crowd = np.zeros(size, bool)
    crowd[15:, :] = True
    annotations = [
        {"category_id": 7, "bbox": [2, 2, 10, 10], "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]]},
        # Smaller, so on top, though it comes first by its id.
        {"category_id": 3, "bbox": [4, 4, 3, 3], "segmentation": [[4, 4, 7, 4, 7, 7, 4, 7]]},
        {"category_id": 3, "bbox": [0, 15, 30, 5], "segmentation": rle_encode(crowd), "iscrowd": 1},
    ]
    values = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 30, "height": 20}],
        "annotations": [{"id": n, "image_id": 1, "iscrowd": 0, **one} for n, one in enumerate(annotations, 1)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    picture(tmp_path / "a.jpg", size)
    (tmp_path / "labels.json").write_text(json.dumps(values))
    found = read_mask_annotations(open_tree(tmp_path))
    assert (found.format, found.classes, found.problems) == ("coco", ("background", "cat", "dog"), ())
    (one,) = found.splits["all"]
    expected = np.zeros(size, np.uint8)
    expected[2:12, 2:12], expected[4:7, 4:7], expected[15:] = 2, 1, IGNORED
    np.testing.assert_array_equal(read_mask(found.tree, one), expected)


@pytest.mark.parametrize(
    ("segmentation", "kind"),
    [
        (None, "malformed"),
        ([[1, 2, 3, 4]], "malformed"),
        ([[1, 2, 3, 4, "x", 6]], "malformed"),
        ({"size": [20, 30], "counts": [1]}, "malformed"),
        ({"size": [5, 5], "counts": [25]}, "size-mismatch"),
    ],
)
def test_coco_outlines_that_are_none(tmp_path: Path, segmentation: Any, kind: str) -> None:
    values = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 30, "height": 20}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "segmentation": segmentation}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    picture(tmp_path / "a.jpg", (20, 30))
    (tmp_path / "labels.json").write_text(json.dumps(values))
    assert [one[0] for one in problems(tmp_path)] == [kind]


def test_a_background_in_any_case_is_number_0(tmp_path: Path) -> None:
    hole = {"category_id": 9, "segmentation": SMALL["segmentation"]}
    coco(tmp_path, [LARGE, hole], categories=[{"id": 2, "name": "cat"}, {"id": 9, "name": "Background"}])
    found = read_mask_annotations(open_tree(tmp_path))
    assert found.classes == ("Background", "cat")
    assert found.splits["all"][0].pixels.tolist() == [509, 91]


def test_a_picture_of_which_an_outline_is_missing_is_left_out(tmp_path: Path) -> None:
    # Otherwise the object would train as background.
    coco(tmp_path, [LARGE, {"category_id": 1, "bbox": [15, 5, 9, 9]}])
    found = read_mask_annotations(open_tree(tmp_path))
    assert found.splits == {}
    assert [(one.id, one.place) for one in found.problems] == [("malformed", "labels.json: annotation 2")]


def test_a_polygon_outside_the_picture(tmp_path: Path) -> None:
    beyond = {"category_id": 1, "segmentation": [[40, 5, 50, 5, 50, 9]]}
    coco(tmp_path, [LARGE, beyond])
    text = "has a polygon from 40, 5 to 50, 9, outside its picture of 30x20 pixels"
    assert problems(tmp_path) == [("outside-picture", "labels.json: image id 1", text)]
    # What stands out in part is cut off.
    coco(tmp_path, [{"category_id": 1, "segmentation": [[-5, -5, 4, -5, 4, 4, -5, 4]]}])
    assert read_mask_annotations(open_tree(tmp_path)).splits["all"][0].pixels.tolist() == [584, 16, 0]
