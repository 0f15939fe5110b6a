"""Image folders and archives of them: which picture belongs to which class and split."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mobilenetv2.data.folder import ImageFolder, read_image_folder, read_labelled
from mobilenetv2.data.tree import MAX_MEMBER_BYTES, ZipTree, decode, fingerprint, open_tree
from mobilenetv2.errors import DataError, ImageError


def png(level: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (level % 256, 0, 0)).save(stream, "png")
    return stream.getvalue()


def build(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())
    return root


def archive(path: Path, names: Iterable[str]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, png())
    return path


def split_names(data: ImageFolder, split: str) -> set[str]:
    return {item.name for item in data.splits[split]}


def alone(count: int) -> list[str]:
    return [f"{name}/{index:03d}.png" for name in ("cat", "dog") for index in range(count)]


# ---- Splits and classes


@pytest.mark.parametrize(
    ("train", "val"), [("train", "val"), ("Training", "valid"), ("TRAIN", "Validation"), ("train", "testing")]
)
def test_splits_are_found_by_name_and_alias(tmp_path: Path, train: str, val: str) -> None:
    build(tmp_path, [f"{split}/{name}/{i}.png" for split in (train, val) for name in ("dog", "cat") for i in range(3)])
    data = read_image_folder(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.counts("train")["cat"] == (3 if val != "testing" else 2)
    assert data.derived == (val == "testing")
    assert set(data.splits) == {"train", "val"} | ({"test"} if val == "testing" else set())
    for item in data.splits["train"]:
        assert item.name.split("/")[:2] == [train, data.classes[item.label]]


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    build(tmp_path, ["train/cat/a/1.png", "train/cat/2.png", "train/dog/b/c/3.png", "val/cat/1.png", "val/dog/1.png"])
    data = read_image_folder(tmp_path)
    assert data.counts("train") == {"cat": 2, "dog": 1}


def test_a_derived_split_is_stratified_and_the_same_everywhere(tmp_path: Path) -> None:
    names = [*alone(40), *(f"rare/{i}.png" for i in range(3)), "single/1.png"]
    first = read_image_folder(build(tmp_path / "one", names), val_fraction=0.2, seed=3)
    again = read_image_folder(build(tmp_path / "two", reversed(names)), val_fraction=0.2, seed=3)
    other = read_image_folder(tmp_path / "two", val_fraction=0.2, seed=4)
    assert first.splits == again.splits
    assert first.counts("val") == {"cat": 8, "dog": 8, "rare": 1, "single": 0}
    assert first.counts("train") == {"cat": 32, "dog": 32, "rare": 2, "single": 1}
    assert split_names(first, "train").isdisjoint(split_names(first, "val"))
    assert split_names(first, "val") != split_names(other, "val")


def test_a_new_picture_moves_at_most_one_other(tmp_path: Path) -> None:
    before = read_image_folder(build(tmp_path, alone(40)))
    after = read_image_folder(build(tmp_path, ["cat/new.png"]))
    old, new = split_names(before, "val"), split_names(after, "val")
    assert len(old - new) <= 1
    assert len((old ^ new) - {"cat/new.png"}) <= 1
    assert {name for name in old ^ new if name.startswith("dog")} == set()


def test_an_archive_is_read_as_its_folder(tmp_path: Path) -> None:
    names = alone(12)
    folder = read_image_folder(build(tmp_path / "pets", names))
    zipped = read_image_folder(archive(tmp_path / "pets.zip", names))
    assert (folder.classes, folder.splits) == (zipped.classes, zipped.splits)
    assert decode(zipped.tree, names[0]).tobytes() == decode(folder.tree, names[0]).tobytes()
    assert fingerprint(folder.tree) == fingerprint(zipped.tree)


@pytest.mark.parametrize("inner", [["train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/dog/1.png"], alone(5)])
def test_a_folder_around_everything_is_looked_through(tmp_path: Path, inner: list[str]) -> None:
    data = read_image_folder(archive(tmp_path / "pets.zip", [f"pets-v2/{name}" for name in inner]))
    assert data.classes == ("cat", "dog")


def test_what_systems_leave_behind_is_no_picture(tmp_path: Path) -> None:
    rubbish = ["__MACOSX/cat/._1.png", ".git/x/1.png", "cat/.hidden.png", "cat/Thumbs.db", "desktop.ini"]
    for data in (
        read_image_folder(build(tmp_path / "a", [*alone(5), *rubbish])),
        read_image_folder(archive(tmp_path / "a.zip", [*alone(5), *rubbish])),
    ):
        assert len(data.tree.names) == 10


def test_without_leaves_pictures_out(tmp_path: Path) -> None:
    data = read_image_folder(build(tmp_path, alone(5)))
    name = data.splits["train"][0].name
    kept = data.without({name})
    assert split_names(kept, "train") == split_names(data, "train") - {name}


# ---- What cannot be used


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["readme.txt"], "holds no pictures (1 other files)"),
        (["cat/1.png", "cat/2.png"], "one class only ('cat')"),
        (["train/cat/1.png", "train/cat/2.png", "val/cat/1.png"], "one class only ('cat')"),
        (["val/cat/1.png", "val/dog/1.png"], "has 'val' but no 'train' folder"),
        (["val/cat/1.png", "more/dog/1.png"], "has 'val' but no 'train' folder"),
        (["train/cat/1.png", "train/dog/1.png", "bird/1.png"], "bird/1.png lies beside the split folders"),
        ([*alone(2), "stray.png"], "stray.png: lies in no class folder"),
        (["train/cat/1.png", "train/stray.png"], "train/stray.png: lies in no class folder"),
        (["train/cat/1.png", "train/dog/1.png", "val/wolf/1.png"], "val: has 1 class folders that the training"),
        (alone(1), "too few pictures to split one off (2)"),
    ],
)
def test_unusable_layouts_are_named(tmp_path: Path, names: list[str], message: str) -> None:
    for path in (build(tmp_path / "data", names), archive(tmp_path / "data.zip", names)):
        with pytest.raises(DataError) as raised:
            read_image_folder(path)
        assert message in str(raised.value)
        assert str(path) in str(raised.value)


def test_missing_empty_and_foreign_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_tree(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        open_tree(tmp_path / "empty")
    (tmp_path / "file.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"neither a folder nor a \.zip"):
        open_tree(tmp_path / "file.tar")


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    build(tmp_path, alone(3))
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    tree = open_tree(tmp_path)
    with pytest.raises(ImageError, match=r"cat/gone\.png: cannot be read: no such file"):
        decode(tree, "cat/gone.png")
    with pytest.raises(DataError, match=r"cat/gone\.png"):
        fingerprint(tree)


@pytest.mark.parametrize("links", [{"cat/up": ""}, {"cat/self": "cat"}, {"cat/to": "dog", "dog/to": "cat"}])
def test_links_in_a_circle_are_named(tmp_path: Path, links: dict[str, str]) -> None:
    build(tmp_path, alone(2))
    for link, target in links.items():
        (tmp_path / link).symlink_to(tmp_path / target, target_is_directory=True)
    with pytest.raises(DataError, match=r"(cat|dog)/.*: is a link to a folder that holds it"):
        open_tree(tmp_path)


def test_links_to_other_folders_are_followed(tmp_path: Path) -> None:
    elsewhere = build(tmp_path / "elsewhere", ["1.png", "2.png"])
    build(tmp_path / "data", alone(2))
    for name in ("bird", "fish"):
        (tmp_path / "data" / name).symlink_to(elsewhere, target_is_directory=True)
    assert {"bird/1.png", "fish/2.png"} <= set(open_tree(tmp_path / "data").names)


def test_names_that_are_no_text_are_split_as_others_are(tmp_path: Path) -> None:
    try:
        build(tmp_path, [*alone(3), os.fsdecode(b"cat/caf\xe9.png")])
    except OSError:
        pytest.skip("this file system takes only names that are text")
    data = read_image_folder(tmp_path)
    assert sum(data.counts("train").values()) + sum(data.counts("val").values()) == 7
    assert len(fingerprint(data.tree)) == 16


# ---- Hostile and damaged archives


def test_names_that_climb_are_only_names(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = archive(inside / "evil.zip", [*alone(3), "../../climbed.png", "/etc/absolute.png", "cat/../../up.png"])
    tree = open_tree(path)
    for name in tree.names:
        assert len(tree.read(name)) > 0
    # What starts with dots counts as hidden; the root of the system is a folder like any other.
    assert tree.names == ("/etc/absolute.png", *sorted(alone(3)))
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["evil.zip", "inside"]
    assert not Path("/etc/absolute.png").exists()


def test_a_member_that_claims_too_much_is_not_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path / "bomb.zip", ["cat/1.png", "dog/1.png"])
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + 24 : entry + 28] = struct.pack("<I", MAX_MEMBER_BYTES + 1)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cat/1\.png: unpacks to more than 512 MiB"):
        open_tree(path).read("cat/1.png")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    build(tmp_path, alone(2))
    with (tmp_path / "cat/000.png").open("r+b") as file:
        file.truncate(MAX_MEMBER_BYTES + 1)  # takes no room
    with pytest.raises(ImageError, match=r"cat/000\.png: is larger than 512 MiB"):
        decode(open_tree(tmp_path), "cat/000.png")


@pytest.mark.parametrize(("old", "new"), [("\u00e9".encode(), b"\xff\xff"), (b"dog/1.png", b"\0og/1.png")])
def test_an_archive_with_names_that_are_none(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = archive(tmp_path / "names.zip", ["cat/\u00e9.png", "dog/1.png"])
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(DataError, match=r"names\.zip: is not a readable \.zip"):
        open_tree(path)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_anywhere_in_an_archive_is_an_error_of_the_data(tmp_path: Path, kind: int) -> None:
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w", kind) as file:
        file.writestr("cat/1.png", png() * 3)
    content = whole.read_bytes()
    refused = 0
    for position in range(0, len(content), 2):
        damaged = tmp_path / f"{position}.zip"
        damaged.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        try:
            tree = open_tree(damaged)
            for name in tree.names:
                tree.size(name)
                tree.read(name)
        except DataError as error:
            refused += 1
            assert str(damaged) in str(error)
            assert "\n" not in str(error)
    assert refused > len(content) // 8


def test_an_archive_cut_short(tmp_path: Path) -> None:
    content = archive(tmp_path / "a.zip", alone(2)).read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut\.zip"):
        open_tree(tmp_path / "cut.zip")


def test_a_name_that_stands_twice_is_one_picture(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "twice.zip", [*alone(2), "cat/000.png"])
    assert len(open_tree(path).names) == 4


def test_an_archive_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", ["cat/1.png"])
    open_tree(path).read("cat/1.png")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("dog/1.png", b"new")
    assert open_tree(path).read("dog/1.png") == b"new"


def test_archives_are_never_unpacked(tmp_path: Path) -> None:
    tree = open_tree(archive(tmp_path / "a.zip", alone(2)))
    assert isinstance(tree, ZipTree)
    tree.read("cat/000.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


# ---- Pictures to measure on


def trained_on(data: ImageFolder, **changes: Any) -> dict[str, Any]:
    record = {"fingerprint": fingerprint(data.tree), "derived_val": True, "val_fraction": 0.1, "seed": 0}
    return {**record, **changes}


def test_labels_follow_the_model_not_the_folder(tmp_path: Path) -> None:
    build(tmp_path, alone(2))
    _, split, items = read_labelled(tmp_path, ("dog", "bird", "cat"))
    assert split == "all"
    assert {(item.name.split("/")[0], item.label) for item in items} == {("dog", 0), ("cat", 2)}


def test_the_split_is_val_or_the_only_one_or_the_one_asked_for(tmp_path: Path) -> None:
    build(tmp_path, [f"{split}/{name}" for split in ("train", "val", "test") for name in alone(2)])
    classes = ("cat", "dog")
    assert read_labelled(tmp_path, classes)[1] == "val"
    assert read_labelled(tmp_path, classes, "test")[1] == "test"
    with pytest.raises(DataError, match="has no 'tets' split; choose one with --split: 'test', 'train', 'val'"):
        read_labelled(tmp_path, classes, "tets")
    only = build(tmp_path / "only", [f"test/{name}" for name in alone(2)])
    assert read_labelled(only, classes)[1] == "test"
    two = build(tmp_path / "two", [f"{split}/{name}" for split in ("train", "test") for name in alone(2)])
    with pytest.raises(DataError, match="has no 'val' split"):
        read_labelled(two, classes)


def test_classes_matter_in_the_split_that_is_measured(tmp_path: Path) -> None:
    build(tmp_path, ["val/cat/1.png", "val/dog/1.png", "test/wolf/1.png"])
    assert len(read_labelled(tmp_path, ("cat", "dog"))[2]) == 2
    with pytest.raises(DataError, match=r"test: has 1 class folders .*'wolf'"):
        read_labelled(tmp_path, ("cat", "dog"), "test")


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_the_split_of_the_training_is_found_again(tmp_path: Path, prefix: str) -> None:
    data = read_image_folder(build(tmp_path, [prefix + name for name in alone(20)]))
    _, split, items = read_labelled(tmp_path, data.classes, trained_on=trained_on(data))
    assert (split, items) == ("val", data.splits["val"])
    _, _, rest = read_labelled(tmp_path, data.classes, "train", trained_on=trained_on(data))
    assert rest == data.splits["train"]
    # Other data, or a training that had its own val folder: everything is counted.
    for record in (trained_on(data, fingerprint="other"), trained_on(data, derived_val=False), {}, None):
        assert len(read_labelled(tmp_path, data.classes, trained_on=record)[2]) == 40
