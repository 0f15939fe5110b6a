"""Pictures with boxes, whatever their format: recognised, split, refused where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_voc import box, devkit, write, xml

from mobilenetv2.data.boxed import read_boxes, read_boxes_of_split, recognise
from mobilenetv2.data.tree import fingerprint, open_tree
from mobilenetv2.errors import DataError


def flat(folder: Path, count: int = 20) -> Path:
    """XML files beside the pictures, and no splits."""
    texts = {f"{i:02d}.xml": xml(box("cat" if i % 2 else "dog", 2, 2, 9 + i, 9)) for i in range(count)}
    return write(folder, texts, [f"{i:02d}.png" for i in range(count)])


def test_formats_are_recognised_by_looking(tmp_path: Path) -> None:
    assert recognise(open_tree(flat(tmp_path / "voc"))) == "voc"
    classes = write(tmp_path / "classes", {}, ["cat/1.png", "dog/1.png"])
    assert recognise(open_tree(classes)) is None
    with pytest.raises(DataError, match="holds no boxes in COCO JSON, Pascal VOC XML or YOLO text"):
        read_boxes(classes)
    coco: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    (tmp_path / "voc/instances.json").write_text(json.dumps(coco))
    with pytest.raises(DataError, match=r"more than one format \(coco, voc\)"):
        read_boxes(tmp_path / "voc")


def test_val_is_split_off_by_seed_and_found_again(tmp_path: Path) -> None:
    folder = flat(tmp_path / "data")
    data = read_boxes(folder, val_fraction=0.25, seed=3)
    assert data.derived
    assert data.format == "voc"
    assert (len(data.splits["train"]), len(data.splits["val"])) == (15, 5)
    assert {p.name for p in data.splits["val"]} != {p.name for p in read_boxes(folder, seed=4).splits["val"]}
    counts = [data.counts(split) for split in ("train", "val")]
    assert {name: counts[0][name] + counts[1][name] for name in data.classes} == {"cat": 10, "dog": 10}
    trained_on = {"derived_val": True, "fingerprint": fingerprint(data.tree), "val_fraction": 0.25, "seed": 3}
    # The model numbers its classes in its own way.
    _, split, pictures = read_boxes_of_split(folder, ("dog", "mouse", "cat"), trained_on=trained_on)
    assert split == "val"
    assert [p.name for p in pictures] == [p.name for p in data.splits["val"]]
    for ours, theirs in zip(pictures, data.splits["val"], strict=True):
        assert [("dog", "mouse", "cat")[i] for i in ours.labels] == [data.classes[i] for i in theirs.labels]
    # Other data: nothing of it was trained on, and all of it counts.
    (folder / "20.xml").write_text(xml(box("cat", 2, 2, 9, 9)))
    Image.new("RGB", (60, 40)).save(folder / "20.png")
    _, split, pictures = read_boxes_of_split(folder, ("dog", "cat"), trained_on=trained_on)
    assert (split, len(pictures)) == ("all", 21)


def test_a_class_that_the_model_lacks_and_a_split_that_is_not_there(tmp_path: Path) -> None:
    folder = devkit(tmp_path, {"a": xml(box("dog", 1, 1, 5, 5)), "b": xml(box("cat", 1, 1, 5, 5))})
    with pytest.raises(DataError, match=r"has 1 classes that the model lacks .first: 'cat'.; known are 'dog'"):
        read_boxes_of_split(folder, ("dog",))
    _, split, pictures = read_boxes_of_split(folder, ("dog",), "train")
    assert (split, len(pictures)) == ("train", 1)
    with pytest.raises(DataError, match="has no 'test' split; choose one with --split: 'train', 'val'"):
        read_boxes_of_split(folder, ("dog", "cat"), "test")


def test_problems_stop_a_training_and_can_be_skipped(tmp_path: Path) -> None:
    texts = {
        "a": xml(box("x", 10, 10, 90, 20) + box("x", 5, 5, 9, 9)),
        "b": "<annotation>",
        "c": xml(box("x", 2, 2, 9, 9)),
    }
    folder = devkit(tmp_path, texts)
    with pytest.raises(DataError, match=r"2 annotations are wrong \(first: Annotations/b.xml:1: .*check.*--skip-bad"):
        read_boxes(folder)
    data = read_boxes(folder, skip_bad=True)
    assert len(data.problems) == 2
    (picture,) = data.splits["train"]
    np.testing.assert_array_equal(picture.boxes_xyxy, [[4, 4, 9, 9]])


def test_what_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no boxes to train on in its 1 training pictures"):
        read_boxes(devkit(tmp_path / "none", {"a": xml(""), "b": xml(box("x", 1, 1, 5, 5))}))
    only_val = write(tmp_path / "val", {"val/a.xml": xml(box("x", 1, 1, 5, 5))}, ["val/a.png"])
    with pytest.raises(DataError, match="has 'val' but no 'train' split"):
        read_boxes(only_val)
    with pytest.raises(DataError, match="too few pictures to split one off"):
        read_boxes(flat(tmp_path / "one", 1))
    data = read_boxes(flat(tmp_path / "some", 6))
    gone = data.splits["train"][0].name
    assert gone not in {p.name for p in data.without({gone}).splits["train"]}
