"""COCO JSON as it is found in the wild, and what can be wrong with it."""

from __future__ import annotations

import json
import tracemalloc
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


def test_pictures_are_found_whatever_machine_named_them(tmp_path: Path) -> None:
    named = ["/home/me/set/images/a.png", "C:\\set\\images\\b.png", "../images/c.png"]
    images = [image(number, name) for number, name in enumerate(named)]
    folder = write(tmp_path, "labels/boxes.json", values(images, []), [f"images/{letter}.png" for letter in "abc"])
    found = read_coco(open_tree(folder))
    assert found.problems == ()
    assert [picture.name for picture in found.splits["all"]] == ["images/a.png", "images/b.png", "images/c.png"]


def test_a_picture_s_split_is_its_folder_and_not_its_own_name(tmp_path: Path) -> None:
    for split in ("train", "val"):
        content = values([image(1, "test_1.png")], [])
        write(tmp_path, f"annotations/instances_{split}.json", content, [f"images/{split}/test_1.png"])
    found = read_coco(open_tree(tmp_path))
    assert found.problems == ()
    assert {split: [p.name for p in some] for split, some in found.splits.items()} == {
        "train": ["images/train/test_1.png"],
        "val": ["images/val/test_1.png"],
    }


def test_a_class_is_its_name_however_a_file_numbers_it(tmp_path: Path) -> None:
    train = values([image(1, "a.png")], [annotation(1, 7, 1, 1, 5, 5)])
    val = values([image(1, "a.png")], [annotation(1, 7, 1, 1, 5, 5)], [{"id": 7, "name": "cat"}])
    write(tmp_path, "train/boxes.json", train, ["train/a.png"])
    found = read_coco(open_tree(write(tmp_path, "val/boxes.json", val, ["val/a.png"])))
    assert found.problems == ()
    assert found.classes == ("cat", "dog")
    assert [found.classes[found.splits[split][0].labels[0]] for split in ("train", "val")] == ["dog", "cat"]


def test_two_names_of_one_id_are_wrong(tmp_path: Path) -> None:
    categories = [*CATEGORIES, {"id": 3, "name": "mouse"}]
    found = read_coco(open_tree(write(tmp_path, "a.json", values([image(1, "a.png")], [], categories), ["a.png"])))
    assert found.classes == ("cat", "dog")
    (problem,) = found.problems
    assert (problem.id, str(problem)) == ("duplicate-id", "a.json: category 3: 'mouse' has the id 3 of 'cat'")


def test_a_category_that_is_its_own_supercategory_is_a_class(tmp_path: Path) -> None:
    """As COCO's person, also where a part of the data has none."""
    categories = [{"id": 1, "name": "person", "supercategory": "person"}, *CATEGORIES]
    content = values([image(1, "a.png")], [annotation(1, 7, 1, 1, 5, 5)], categories)
    assert read_coco(open_tree(write(tmp_path, "a.json", content, ["a.png"]))).classes == ("person", "cat", "dog")


def test_a_picture_that_is_listed_twice(tmp_path: Path) -> None:
    content = values(
        [image(1, "a.png"), image(2, "a.png")], [annotation(1, 7, 1, 1, 5, 5), annotation(2, 7, 9, 9, 5, 5)]
    )
    found = read_coco(open_tree(write(tmp_path, "a.json", content, ["a.png"])))
    assert len(found.splits["all"]) == 1
    (problem,) = found.problems
    assert (problem.id, problem.place) == ("listed-twice", "a.json: image id 2")
    assert "is listed before, as id 1" in problem.text


@pytest.mark.parametrize("edge", [10**400, float("inf"), 1e308, True, None])
def test_numbers_beyond_all_pictures_are_wrong_edges(tmp_path: Path, edge: object) -> None:
    content = values([image(1, "a.png")], [annotation(1, 7, edge, 1, edge, 5)])
    (problem,) = read_coco(open_tree(write(tmp_path, "a.json", content, ["a.png"]))).problems
    assert problem.id == "not-a-number"


def test_what_is_to_be_ignored_is_no_crowd(tmp_path: Path) -> None:
    content = values([image(1, "a.png")], [annotation(1, 7, 1, 1, 5, 5, iscrowd=0, ignore=1)])
    (picture,) = read_coco(open_tree(write(tmp_path, "a.json", content, ["a.png"]))).splits["all"]
    assert (picture.ignored.tolist(), picture.crowd.tolist()) == ([True], [False])


def test_sizes_that_are_not_said_and_that_are_no_numbers(tmp_path: Path) -> None:
    content = values([{"id": 1, "file_name": "a.png", "width": None, "height": 0}], [annotation(1, 7, 1, 1, 5, 5)])
    found = read_coco(open_tree(write(tmp_path, "a.json", content, ["a.png"])))
    assert found.problems == ()
    assert found.splits["all"][0].size_hw == (40, 60)
    content["images"] = [image(1, "a.png") | {"height": "40"}]
    (problem,) = read_coco(open_tree(write(tmp_path, "a.json", content, []))).problems
    assert (problem.id, problem.text) == ("malformed", "needs numbers as 'width' and 'height', not 60 and '40'")


@pytest.mark.parametrize("size", [{}, {"width": float("inf"), "height": 40}, {"width": 60, "height": 40}])
def test_what_is_no_picture_is_left_to_those_who_decode(tmp_path: Path, size: dict[str, Any]) -> None:
    content = values([{"id": 1, "file_name": "a.png", **size}], [annotation(1, 7, 1, 1, 5, 5)])
    write(tmp_path, "a.json", content, [])
    (tmp_path / "a.png").write_bytes(b"no picture")
    found = read_coco(open_tree(tmp_path))
    assert found.problems == ()
    assert [picture.name for picture in found.splits["all"]] == ["a.png"]


def test_polygons_are_dropped_while_they_are_read(tmp_path: Path) -> None:
    """They are most of a file, and as Python's numbers several times as large."""
    polygons = [[float(i) + 0.5 for i in range(1000)]]
    annotations = [annotation(1, 7, 1, 1, 5, 5, segmentation=polygons) for _ in range(200)]
    folder = write(tmp_path, "a.json", values([image(1, "a.png")], annotations), ["a.png"])
    tree = open_tree(folder)
    tracemalloc.start()
    found = read_coco(tree)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.splits["all"][0].labels) == 200
    # The file as bytes and as text, but not its 200,000 numbers of 24 bytes and a pointer each.
    assert peak < 3 * tree.size("a.json")
