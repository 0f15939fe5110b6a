"""COCO JSON as it is found in the wild, and what can be wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.data.coco import is_coco, read_coco
from mobilenetv2.data.tree import open_tree


def annotation(image: int, category: int, *xywh: object, **more: object) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(xywh), **more}


def image(number: int, file_name: str, size_wh: tuple[int, int] = (60, 40)) -> dict[str, Any]:
    return {"id": number, "file_name": file_name, "width": size_wh[0], "height": size_wh[1]}


CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def write(folder: Path, name: str, values: object, pictures: list[str], text: str | None = None) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(values) if text is None else text)
    for picture in pictures:
        (folder / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(folder / picture)
    return folder


def values(images: list[Any], annotations: list[Any], categories: list[Any] | None = None) -> dict[str, Any]:
    return {
        "images": images,
        "annotations": annotations,
        "categories": CATEGORIES if categories is None else categories,
    }


def test_coco_s_own_layout(tmp_path: Path) -> None:
    train = values(
        [image(5, "a.png"), image(9, "b.png")],
        [annotation(5, 7, 1, 2, 10, 20.5), annotation(5, 3, 0, 0, 60, 40, iscrowd=1), annotation(5, 3, 5, 5, 4, 4)],
    )
    write(tmp_path, "annotations/instances_train2017.json", train, ["train2017/a.png", "train2017/b.png"])
    # The same pictures once more, and of the same names in val.
    write(tmp_path, "annotations/person_keypoints_train2017.json", train, [])
    val = values([image(1, "a.png")], [annotation(1, 7, 50, 30, 10, 10)])
    write(tmp_path, "annotations/instances_val2017.json", val, ["val2017/a.png"])
    tree = open_tree(tmp_path)
    assert is_coco(tree)
    found = read_coco(tree)
    assert found.problems == ()
    assert found.classes == ("cat", "dog")
    assert {split: [p.name for p in some] for split, some in found.splits.items()} == {
        "train": ["train2017/a.png", "train2017/b.png"],
        "val": ["val2017/a.png"],
    }
    first, second = found.splits["train"]
    np.testing.assert_array_equal(first.boxes_xyxy, [[1, 2, 11, 22.5], [0, 0, 60, 40], [5, 5, 9, 9]])
    assert first.labels.tolist() == [1, 0, 0]
    assert first.ignored.tolist() == first.crowd.tolist() == [False, True, False]
    assert (first.image_id, second.image_id) == (5, 9)
    assert second.boxes_xyxy.shape == (0, 4)


def test_a_file_beside_the_pictures_of_each_split(tmp_path: Path) -> None:
    # As Roboflow writes it: an unused category above the others.
    categories = [{"id": 0, "name": "cells", "supercategory": "none"}, {"id": 1, "name": "x", "supercategory": "cells"}]
    for split in ("train", "valid", "test"):
        content = values([image(0, "a.png")], [annotation(0, 1, 1, 1, 5, 5)], categories)
        write(tmp_path, f"{split}/_annotations.coco.json", content, [f"{split}/a.png"])
    found = read_coco(open_tree(tmp_path))
    assert found.problems == ()
    assert found.classes == ("x",)
    assert {split: some[0].name for split, some in found.splits.items()} == {
        "train": "train/a.png",
        "val": "valid/a.png",
        "test": "test/a.png",
    }


def test_a_category_above_others_that_is_used_is_a_class(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "cell", "supercategory": "none"}, {"id": 1, "name": "x", "supercategory": "cell"}]
    content = values([image(0, "a.png")], [annotation(0, 0, 1, 1, 5, 5)], categories)
    assert read_coco(open_tree(write(tmp_path, "a.json", content, ["a.png"]))).classes == ("cell", "x")


@pytest.mark.parametrize(
    ("images", "annotations", "kind", "place", "what"),
    [
        ([image(1, "a.png")], [annotation(1, 7, 50, 30, 20, 5)], "outside-picture", "annotation 1", "10 pixels out"),
        (
            [image(1, "a.png")],
            [annotation(1, 7, 50, 30, -2, 5)],
            "wrong-order",
            "annotation 1",
            "ends before it begins",
        ),
        ([image(1, "a.png")], [annotation(1, 7, 50, 30, 0, 5)], "no-area", "annotation 1", "no area"),
        ([image(1, "a.png")], [annotation(1, 7, 1, 1, "x", 5)], "not-a-number", "annotation 1", "not made of numbers"),
        ([image(1, "a.png")], [annotation(1, 7, 1, 1, 5)], "not-a-number", "annotation 1", "not made of numbers"),
        ([image(1, "a.png")], [annotation(1, 7, 1, 1, float("nan"), 5)], "not-a-number", "annotation 1", "numbers"),
        ([image(1, "a.png")], [annotation(1, 5, 1, 1, 5, 5)], "unknown-class", "annotation 1", "category_id 5"),
        ([image(1, "a.png")], [annotation(2, 7, 1, 1, 5, 5)], "unknown-image", "annotation 1", "image_id 2"),
        ([image(1, "a.png")], ["box"], "malformed", "annotation 1", "no object"),
        ([image(1, "a.png"), image(2, "b.png")], [], "missing-file", "image id 2", "'b.png' is not there"),
        ([image(1, "a.png"), image(1, "b.png")], [], "duplicate-id", "image 2", "has the id 1 of 'a.png'"),
        ([image(1, "a.png"), {"id": "x"}], [], "malformed", "image 2", "needs a whole number 'id'"),
        (
            [image(1, "a.png", (640, 480))],
            [],
            "size-mismatch",
            "image id 1",
            "says 640x480 pixels, but a.png has 60x40",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    tmp_path: Path, images: list[Any], annotations: list[Any], kind: str, place: str, what: str
) -> None:
    write(tmp_path, "boxes.json", values(images, annotations), ["a.png"])
    found = read_coco(open_tree(tmp_path))
    assert [problem.id for problem in found.problems] == [kind]
    (problem,) = found.problems
    assert problem.place == f"boxes.json: {place}"
    assert what in problem.text
    assert "\n" not in str(problem)


def test_what_is_no_json_is_named_with_its_line(tmp_path: Path) -> None:
    text = '{"images": [],\n "annotations": [],\n "categories": [}'
    write(tmp_path, "boxes.json", None, ["a.png"], text)
    (problem,) = read_coco(open_tree(tmp_path)).problems
    assert (problem.id, problem.place) == ("malformed", "boxes.json:3")
    write(tmp_path, "boxes.json", {"images": {}, "annotations": [], "categories": []}, [])
    (problem,) = read_coco(open_tree(tmp_path)).problems
    assert "needs lists" in problem.text
    # Nested too deep for the parser.
    write(tmp_path, "boxes.json", None, [], '{"images": "annotations" "categories": ' + "[" * 100_000)
    assert [p.id for p in read_coco(open_tree(tmp_path)).problems] == ["malformed"]


def test_a_picture_of_a_name_that_is_there_twice_is_not_guessed(tmp_path: Path) -> None:
    write(tmp_path, "boxes.json", values([image(1, "a.png")], []), ["one/a.png", "two/a.png"])
    (problem,) = read_coco(open_tree(tmp_path)).problems
    assert "is there 2 times (one/a.png, two/a.png)" in problem.text
    write(tmp_path, "boxes.json", values([image(1, "two/a.png")], []), [])
    assert read_coco(open_tree(tmp_path)).splits["all"][0].name == "two/a.png"


def test_a_file_too_large_to_be_held_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 2 GB, without holes in memory: its size alone is looked at."""
    write(tmp_path, "boxes.json", values([], []), ["a.png"])
    with (tmp_path / "boxes.json").open("r+b") as file:
        file.truncate(2 * 2**30)
    tree = open_tree(tmp_path)
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("it was read"))
    assert is_coco(tree)
    (problem,) = read_coco(tree).problems
    assert problem.id == "too-large"
    assert "has 2,048 MiB, more than the 512 that are read; take the polygons out" in problem.text


def test_other_json_is_none_of_ours(tmp_path: Path) -> None:
    assert not is_coco(open_tree(write(tmp_path, "captions.json", {"images": [], "annotations": []}, ["a.png"])))
