"""Pascal VOC as it is found in the wild, and what can be wrong with it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.data.tree import open_tree
from mobilenetv2.data.voc import is_voc, read_voc


def xml(objects: str, size_wh: tuple[int, int] = (60, 40)) -> str:
    size = f"<size><width>{size_wh[0]}</width><height>{size_wh[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>other.jpg</filename>{size}{objects}</annotation>"


def box(name: str, *edges: object, difficult: int = 0) -> str:
    sides = "".join(f"<{key}>{edge}</{key}>" for key, edge in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def write(folder: Path, files: dict[str, str], pictures: list[str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in pictures:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(folder / name)
    return folder


def devkit(folder: Path, annotations: dict[str, str]) -> Path:
    files = {f"Annotations/{stem}.xml": text for stem, text in annotations.items()}
    stems = list(annotations)
    files |= {"ImageSets/Main/train.txt": "\n".join(stems[:-1]), "ImageSets/Main/val.txt": stems[-1] + "\n"}
    return write(folder, files, [f"JPEGImages/{stem}.png" for stem in stems])


def test_splits_classes_and_coordinates(tmp_path: Path) -> None:
    texts = {
        "a": xml(box("dog", 1, 1, 60, 40) + box("cat", 5, 6, 10, 12, difficult=1)),
        "b": xml(""),
        "c": xml(box("cat", 11, 2, 20, 40)),
    }
    tree = open_tree(devkit(tmp_path, texts))
    assert is_voc(tree)
    found = read_voc(tree)
    assert found.problems == ()
    assert found.classes == ("cat", "dog")
    assert {split: [p.name for p in some] for split, some in found.splits.items()} == {
        "train": ["JPEGImages/a.png", "JPEGImages/b.png"],
        "val": ["JPEGImages/c.png"],
    }
    first, empty = found.splits["train"]
    # From 1, the last pixel inside: the whole picture is 0, 0, 60, 40.
    np.testing.assert_array_equal(first.boxes_xyxy, [[0, 0, 60, 40], [4, 5, 10, 12]])
    assert first.labels.tolist() == [1, 0]
    assert first.ignored.tolist() == [False, True]
    assert first.size_hw == (40, 60)
    assert empty.boxes_xyxy.shape == (0, 4)
    assert [p.image_id for some in found.splits.values() for p in some] == [1, 2, 3]


def test_boxes_counted_from_0_are_taken_as_they_are(tmp_path: Path) -> None:
    found = read_voc(open_tree(devkit(tmp_path, {"a": xml(box("x", 0, 3, 10, 12)), "b": xml(box("x", 5, 5, 60, 40))})))
    np.testing.assert_array_equal(found.splits["train"][0].boxes_xyxy, [[0, 3, 10, 12]])
    np.testing.assert_array_equal(found.splits["val"][0].boxes_xyxy, [[5, 5, 60, 40]])


def test_files_beside_the_pictures_and_in_a_zip(tmp_path: Path) -> None:
    content = io.BytesIO()
    picture = io.BytesIO()
    Image.new("RGB", (60, 40)).save(picture, "jpeg")
    with zipfile.ZipFile(content, "w") as archive:
        for split in ("train", "valid"):
            archive.writestr(f"cells/{split}/one.jpg", picture.getvalue())
            archive.writestr(f"cells/{split}/one.xml", xml(box("x", 2, 2, 9, 9)))
    (tmp_path / "cells.zip").write_bytes(content.getvalue())
    found = read_voc(open_tree(tmp_path / "cells.zip"))
    assert found.problems == ()
    assert sorted(found.splits) == ["train", "val"]
    assert found.splits["val"][0].name == "cells/valid/one.jpg"


BOMB = (
    '<!DOCTYPE bomb [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<annotation><object><name>&b;</name></object></annotation>"
)
FILE_READER = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotation><filename>&f;</filename></annotation>'


@pytest.mark.parametrize(
    ("text", "kind", "place", "what"),
    [
        (xml(box("x", 10, 10, 70, 20)), "outside-picture", "object 1", "10 pixels out of the picture of 60x40"),
        (xml(box("x", 2, 2, 9, 9) + box("x", 20, 10, 5, 20)), "wrong-order", "object 2", "ends before it begins"),
        (xml(box("x", 10, 10, 9, 20)), "no-area", "object 1", "has no area"),
        (xml(box("x", "ten", 10, 9, 20)), "not-a-number", "object 1", "not made of numbers"),
        (xml(box("x", "nan", 10, 9, 20)), "not-a-number", "object 1", "not made of numbers"),
        (xml("<object><name>x</name></object>"), "not-a-number", "object 1", "not made of numbers"),
        (xml(box(" ", 2, 2, 9, 9)), "no-class", "object 1", "has no name"),
        (xml("", (640, 480)), "size-mismatch", "Annotations/a.xml", "says 640x480 pixels, but"),
        ("<annotation><object>", "malformed", "Annotations/a.xml:1", "is not whole XML"),
        ("<annotation>\n\n</bnd>", "malformed", "Annotations/a.xml:3", "is not whole XML"),
        ("<?xml version='1.0' encoding='x-none'?><annotation/>", "malformed", "Annotations/a.xml", "known encoding"),
        (BOMB, "malformed", "Annotations/a.xml", "EntitiesForbidden"),
        (FILE_READER, "malformed", "Annotations/a.xml", "EntitiesForbidden"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, kind: str, place: str, what: str) -> None:
    found = read_voc(open_tree(devkit(tmp_path, {"a": text, "b": xml(box("x", 2, 2, 9, 9))})))
    (problem,) = found.problems
    assert problem.id == kind
    assert place in problem.place
    assert "Annotations/a.xml" in problem.place
    assert what in problem.text
    assert "\n" not in str(problem)
    # The rest is read all the same.
    assert len(found.splits["val"]) == 1


def test_missing_files_are_named_with_their_line(tmp_path: Path) -> None:
    folder = devkit(tmp_path, {"a": xml(""), "b": xml(""), "c": xml(box("x", 2, 2, 9, 9))})
    (folder / "JPEGImages/a.png").unlink()
    (folder / "Annotations/b.xml").unlink()
    problems = read_voc(open_tree(folder)).problems
    assert [str(problem) for problem in problems] == [
        "ImageSets/Main/train.txt:1: 'a' has no picture in JPEGImages/",
        "ImageSets/Main/train.txt:2: 'b' has no XML file in Annotations/",
    ]


def test_the_real_thing(shared_data: Path) -> None:
    found = read_voc(open_tree(shared_data / "bccd.zip"))
    assert found.classes == ("Platelets", "RBC", "WBC")
    assert {split: len(some) for split, some in found.splits.items()} == {"train": 205, "val": 87}
    assert not found.problems
    assert sum(len(p.labels) for some in found.splits.values() for p in some) == 3943
