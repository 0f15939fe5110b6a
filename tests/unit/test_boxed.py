"""Pictures with boxes, whatever their format: recognised, split, refused where they are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_voc import box, devkit, write, xml

from mobilenetv2.data.boxed import read_boxes, read_boxes_of_split, recognise
from mobilenetv2.data.shapes import write_shapes
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


def test_every_format_of_the_same_boxes_gives_the_same_boxes(tmp_path: Path) -> None:
    """COCO as it is generated, and from it Pascal VOC and YOLO; each as a folder and as a `.zip`."""
    write_shapes(tmp_path / "coco", train=6, val=2, size_hw=(96, 128))
    (tmp_path / "coco/classes.txt").unlink()
    source = read_boxes(tmp_path / "coco")
    voc, yolo = {}, {"data.yaml": f"names: {list(source.classes)}\ntrain: images/train\nval: images/val\n"}
    for split, pictures in source.splits.items():
        for picture in pictures:
            stem = Path(picture.name).stem
            lines, objects = [], []
            for (x1, y1, x2, y2), label in zip(picture.boxes_xyxy.tolist(), picture.labels.tolist(), strict=True):
                objects.append(box(source.classes[label], x1 + 1, y1 + 1, x2, y2))
                shares = [(x1 + x2) / 256, (y1 + y2) / 192, (x2 - x1) / 128, (y2 - y1) / 96]
                lines.append(" ".join(map(str, [label, *shares])))
            voc[f"{split}/{stem}.xml"] = xml("".join(objects), (128, 96))
            yolo[f"labels/{split}/{stem}.txt"] = "\n".join(lines)
            for place in (tmp_path / "voc" / split, tmp_path / "yolo/images" / split):
                place.mkdir(parents=True, exist_ok=True)
                (place / Path(picture.name).name).write_bytes(source.tree.read(picture.name))
    write(tmp_path / "voc", voc, [])
    write(tmp_path / "yolo", yolo, [])
    for name in ("coco", "voc", "yolo"):
        # With a folder around everything, as archives have it.
        archive = shutil.make_archive(str(tmp_path / name), "zip", tmp_path, name)
        for path in (tmp_path / name, Path(archive)):
            data = read_boxes(path)
            assert (data.format, data.problems, data.derived) == (name, (), False)
            assert {split: len(some) for split, some in data.splits.items()} == {"train": 6, "val": 2}
            for split, expected in source.splits.items():
                for ours, theirs in zip(data.splits[split], expected, strict=True):
                    assert Path(ours.name).name == Path(theirs.name).name
                    assert ours.size_hw == theirs.size_hw
                    np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, atol=1e-3)
                    assert [data.classes[i] for i in ours.labels] == [source.classes[i] for i in theirs.labels]
