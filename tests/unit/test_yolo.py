"""YOLO text as it is found in the wild, and what can be wrong with it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.data.tree import FolderTree, open_tree
from mobilenetv2.data.yolo import is_yolo, read_yolo
from mobilenetv2.errors import DataError


def write(folder: Path, texts: dict[str, str], pictures: list[str]) -> Path:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in pictures:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(folder / name)
    return folder


YAML = "path: ../somewhere/else\ntrain: images/train\nval: images/holdout\nnames:\n  0: cat\n  1: dog\n"


def test_images_and_labels_with_a_yaml(tmp_path: Path) -> None:
    texts = {
        "data.yaml": YAML,
        "labels/train/a.txt": "1 0.5 0.5 0.5 0.5\n\n0 0.25 .25 0.1 0.2\n",
        "labels/holdout/c.txt": "0 0.1 0.1 0.4 0.1 0.4 0.5\n",
    }
    folder = write(tmp_path, texts, ["images/train/a.png", "images/train/b.png", "images/holdout/c.png"])
    tree = open_tree(folder)
    assert is_yolo(tree)
    found = read_yolo(tree)
    assert found.problems == ()
    assert found.classes == ("cat", "dog")
    assert {split: [p.name for p in some] for split, some in found.splits.items()} == {
        "train": ["images/train/a.png", "images/train/b.png"],
        "val": ["images/holdout/c.png"],
    }
    first, empty = found.splits["train"]
    np.testing.assert_allclose(first.boxes_xyxy, [[15, 10, 45, 30], [12, 6, 18, 14]], atol=1e-4)
    assert first.labels.tolist() == [1, 0]
    assert empty.boxes_xyxy.shape == (0, 4)
    # A polygon: the box around it.
    np.testing.assert_allclose(found.splits["val"][0].boxes_xyxy, [[6, 4, 24, 20]], atol=1e-4)


def test_roboflow_s_layout_lists_and_names_without_yaml(tmp_path: Path) -> None:
    robo = {"data.yaml": "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['x']\n"}
    robo |= {f"{split}/labels/a.txt": "0 .5 .5 .2 .2\n" for split in ("train", "valid", "test")}
    found = read_yolo(open_tree(write(tmp_path / "a", robo, [f"{s}/images/a.png" for s in ("train", "valid", "test")])))
    assert {split: some[0].name for split, some in found.splits.items()} == {
        "train": "train/images/a.png",
        "val": "valid/images/a.png",
        "test": "test/images/a.png",
    }
    beside = {"a.txt": "0 .5 .5 .2 .2\n", "classes.txt": "x\ny\n"}
    found = read_yolo(open_tree(write(tmp_path / "b", beside, ["a.png", "b.png"])))
    assert found.classes == ("x", "y")
    assert [len(p.labels) for p in found.splits["all"]] == [1, 0]
    lists = {"d.yaml": "train: train.txt\nval: val.txt\nnames: [x]", "train.txt": "./images/a.png\n"}
    lists |= {"val.txt": "./images/b.png", "labels/a.txt": "0 .5 .5 .2 .2\n", "labels/b.txt": ""}
    found = read_yolo(open_tree(write(tmp_path / "c", lists, ["images/a.png", "images/b.png"])))
    assert {split: some[0].name for split, some in found.splits.items()} == {
        "train": "images/a.png",
        "val": "images/b.png",
    }


@pytest.mark.parametrize(
    ("line", "kind", "what"),
    [
        ("2 .5 .5 .2 .2", "unknown-class", "is of class 2; there are 0 to 1"),
        ("-1 .5 .5 .2 .2", "unknown-class", "is of class -1"),
        ("0.5 .5 .5 .2 .2", "unknown-class", "is of class 0.5"),
        ("nan .5 .5 .2 .2", "unknown-class", "is of class nan"),
        ("0 .95 .5 .2 .2", "outside-picture", "3 pixels out of the picture of 60x40"),
        ("0 .5 .5 -.2 .2", "wrong-order", "ends before it begins"),
        ("0 .5 .5 0 .2", "no-area", "has no area"),
        ("0 .5 inf .2 .2", "not-a-number", "not made of numbers"),
        ("0 .5 half .2 .2", "not-a-number", "is not all numbers"),
        ("0 .5 .5 .2", "malformed", "has 4 numbers; a box has 5"),
        ("0 .5 .5 .2 .2 .9", "malformed", "has 6 numbers"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(tmp_path: Path, line: str, kind: str, what: str) -> None:
    texts = {"classes.txt": "x\ny\n", "a.txt": f"0 .5 .5 .2 .2\n{line}\n"}
    found = read_yolo(open_tree(write(tmp_path, texts, ["a.png"])))
    (problem,) = found.problems
    assert (problem.id, problem.place) == (kind, "a.txt:2")
    assert what in problem.text
    assert len(found.splits["all"][0].labels) == 1


def test_classes_must_be_named(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.txt": "0 .5 .5 .2 .2"}, ["a.png"])
    with pytest.raises(DataError, match=r"nothing names the classes; add a data.yaml"):
        read_yolo(open_tree(folder))
    (folder / "data.yaml").write_text("names: {0: x, 2: y}")
    with pytest.raises(DataError, match="from 0 without gaps"):
        read_yolo(open_tree(folder))
    (folder / "data.yaml").write_text("names: [x\nother: }")
    (folder / "classes.txt").write_text("x")
    (problem,) = read_yolo(open_tree(folder)).problems
    assert problem.place.startswith("data.yaml:2")


def test_nothing_in_a_yaml_is_run(tmp_path: Path) -> None:
    evil = f"names: !!python/object/apply:os.mkdir ['{tmp_path / 'evil'}']"
    folder = write(tmp_path, {"data.yaml": evil, "classes.txt": "x", "a.txt": "0 .5 .5 .2 .2"}, ["a.png"])
    assert [problem.id for problem in read_yolo(open_tree(folder)).problems] == ["malformed"]
    assert not (tmp_path / "evil").exists()


def test_text_that_is_no_boxes_is_none_of_ours(tmp_path: Path) -> None:
    assert not is_yolo(open_tree(write(tmp_path, {"a.txt": "a caption of five words"}, ["a.png"])))
    assert not is_yolo(open_tree(write(tmp_path, {"readme.txt": "1 2 3 4 5"}, ["b.png"])))


LINE = "0 .5 .5 .2 .2\n"


def of_splits(folder: Path) -> dict[str, list[str]]:
    found = read_yolo(open_tree(folder))
    assert found.problems == ()
    return {split: [picture.name for picture in some] for split, some in found.splits.items()}


def test_the_nearest_folder_decides_on_the_split(tmp_path: Path) -> None:
    texts = {"d.yaml": "train: images\nval: images/holdout\nnames: [x]", "labels/a.txt": LINE}
    folder = write(tmp_path, texts, ["images/a.png", "images/holdout/a.png"])
    assert of_splits(folder) == {"train": ["images/a.png"], "val": ["images/holdout/a.png"]}
    (folder / "d.yaml").write_text("train: ..\\images\nval: [..\\images\\holdout]\nnames: [x]")
    assert of_splits(folder) == {"train": ["images/a.png"], "val": ["images/holdout/a.png"]}
    # A val of the very pictures of train is none.
    (folder / "d.yaml").write_text("train: images\nval: images\nnames: [x]")
    assert of_splits(folder) == {"train": ["images/a.png", "images/holdout/a.png"]}
    (folder / "d.yaml").write_text("path: /a\ntrain: .\nnames: [x]")
    assert of_splits(folder) == {"train": ["images/a.png", "images/holdout/a.png"]}


def test_lists_with_spaces_and_folders_of_another_machine(tmp_path: Path) -> None:
    texts = {"d.yaml": "train: t.txt\nval: v.txt\nnames: [x]", "a b.txt": LINE}
    texts |= {"t.txt": "/home/me/set/a b.png\n\n", "v.txt": "./c d.png\nfar/away.png\n"}
    found = read_yolo(open_tree(write(tmp_path, texts, ["a b.png", "c d.png"])))
    assert {split: [p.name for p in some] for split, some in found.splits.items()} == {
        "train": ["a b.png"],
        "val": ["c d.png"],
    }
    assert [(p.id, str(p)) for p in found.problems] == [("missing-file", "v.txt:2: 'far/away.png' is not there")]


def test_a_path_that_leads_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    texts = {"d.yaml": "train: images\nval: holdout\ntest: gone\nnames: [x]", "labels/a.txt": LINE}
    folder = write(tmp_path, texts, ["images/a.png"])
    (problem,) = read_yolo(open_tree(folder)).problems
    assert (problem.id, problem.place) == ("missing-file", "d.yaml")
    assert problem.text.startswith("'val: holdout' leads to no picture")
    (folder / "d.yaml").write_text("train: images\nval: val.txt\nnames: [x]")
    (problem,) = read_yolo(open_tree(folder)).problems
    assert problem.text.startswith("'val: val.txt' leads to no picture")
    # Of another machine, but the folder's name says it.
    (folder / "d.yaml").write_text("train: images\nval: /home/me/set/valid/images\nnames: [x]")
    assert of_splits(write(folder, {}, ["valid/images/b.png"])) == {
        "train": ["images/a.png"],
        "val": ["valid/images/b.png"],
    }


def test_boxes_of_a_picture_that_is_not_there(tmp_path: Path) -> None:
    texts = {
        "classes.txt": "x",
        "labels/a.txt": LINE,
        "labels/gone.txt": LINE,
        "labels/empty.txt": "",
        "notes.txt": "?",
    }
    (problem,) = read_yolo(open_tree(write(tmp_path, texts, ["images/a.png"]))).problems
    assert (problem.id, problem.place) == ("missing-file", "labels/gone.txt")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ("{0: x, y: z}", "from 0 without gaps"),
        ("[x, no]", "class 1 is no name; put it in quotes"),
        ("[x, [y]]", "class 1 is no name"),
        ("[x, y, x]", "names the class 'x' twice"),
        ("[]", "nothing names the classes"),
        ("x", "nothing names the classes"),
    ],
)
def test_names_that_are_none(tmp_path: Path, names: str, what: str) -> None:
    folder = write(tmp_path, {"d.yaml": f"names: {names}", "a.txt": LINE}, ["a.png"])
    with pytest.raises(DataError, match=what):
        read_yolo(open_tree(folder))


@pytest.mark.parametrize(
    "text", ["[" * 1200, "names: [x]\nday: 2020-99-99", "day: !!int ''", "day: !!timestamp x", "\0"]
)
def test_yaml_that_its_reader_stumbles_over(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path, {"d.yaml": text, "a.txt": LINE}, ["a.png"])
    with pytest.raises(DataError, match=r"nothing names the classes \(d.yaml.* is not whole YAML") as error:
        read_yolo(open_tree(folder))
    assert "\n" not in str(error.value)
    (folder / "classes.txt").write_text("x")
    assert [problem.id for problem in read_yolo(open_tree(folder)).problems] == ["malformed"]


def test_two_yaml_files(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.yaml": "names: [x]", "b.yml": "names: [x]\nnc: 1", "a.txt": LINE}, ["a.png"])
    assert read_yolo(open_tree(folder)).classes == ("x",)
    (folder / "b.yml").write_text("names: [y]")
    with pytest.raises(DataError, match=r"a\.yaml and b\.yml say different things of the data; keep one"):
        read_yolo(open_tree(folder))


def test_a_first_file_that_is_wrong_or_has_a_mark_is_recognised_still(tmp_path: Path) -> None:
    texts = {"classes.txt": "\ufeffx\n", "a.txt": "nothing", "b.txt": "\ufeff" + LINE}
    tree = open_tree(write(tmp_path, texts, ["a.png", "b.png"]))
    assert is_yolo(tree)
    found = read_yolo(tree)
    assert found.classes == ("x",)
    assert [problem.place for problem in found.problems] == ["a.txt:1"]
    assert [len(picture.labels) for picture in found.splits["all"]] == [0, 1]


def test_many_pictures_in_lists_take_no_more_than_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture once for every line would be minutes."""
    names = [f"images/{number:05d}.png" for number in range(10_000)]
    texts = {"d.yaml": "train: t.txt\nnames: [x]", "t.txt": "\n".join(names), "labels/00000.txt": LINE}
    tree = open_tree(write(tmp_path, texts, []))
    listed = FolderTree(tree.path, tuple(sorted([*tree.names, *names])))
    monkeypatch.setattr("mobilenetv2.data.yolo.upright_size", lambda *_: (40, 60))
    start = time.process_time()
    assert len(read_yolo(listed).splits["train"]) == 10_000
    assert time.process_time() - start < 10
