"""Strange files and folders of masks, as people have them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from test_masked import SIZE, halves, mask, picture, problems, root  # noqa: F401  the fixture is used by its name

from mobilenetv2.data.doctor import check
from mobilenetv2.data.masked import read_mask, read_mask_annotations, read_masks
from mobilenetv2.data.tree import open_tree, upright_size
from mobilenetv2.errors import DataError

COLOURS = np.array([(0, 0, 0), (9, 9, 9), (255, 0, 0)], np.uint8)  # of sky, road and car


def masks_of(path: Path) -> list[NDArray[np.uint8]]:
    found = read_mask_annotations(open_tree(path))
    return [read_mask(found.tree, one) for some in found.splits.values() for one in some]


def few_bits_png(values: NDArray[np.uint8], bits: int) -> bytes:
    """Grey of 2 or 4 bits, which Pillow does not write; the rows fill whole bytes."""
    shifts = np.arange(8 - bits, -1, -bits)
    packed = (values.reshape(len(values), -1, 8 // bits) << shifts).sum(axis=2).astype(np.uint8)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [2, 4])
def test_numbers_of_few_bits_are_as_written(root: Path, bits: int) -> None:  # noqa: F811
    # As levels, 3 of 2 bits would be 255, which is ignored.
    (root / "masks/train/a.png").write_bytes(few_bits_png(halves(0, 3), bits))
    np.testing.assert_array_equal(masks_of(root)[0], halves(0, 2))


@pytest.mark.parametrize("ending", ["jpeg", "eps", "gif"])
def test_only_png_is_exact(root: Path, ending: str) -> None:  # noqa: F811
    Image.fromarray(halves(0, 2)).save(root / f"x.{ending}")
    (root / f"x.{ending}").rename(root / "masks/train/a.png")
    text = "is not a PNG, whatever its ending; save it as one"
    assert problems(root) == [("unreadable-mask", "masks/train/a.png", text)]


@pytest.mark.parametrize(
    "text",
    [
        "Name,R,G,B\nsky,0,0,0\nroad,9,9,9\ncar,255,0,0\n",
        "r, g , b,name\r\n0,0,0,sky\r\n9,9,9,road\r\n255,0,0,car\r\n",
        "\ufeffname;r;g;b\rsky;0;0;0\rroad;9;9;9\rcar;255;0;0",
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_tables_of_colours_as_programs_write_them(tmp_path: Path, text: str, mode: str) -> None:
    picture(tmp_path / "Images/a.JPG")
    mask(tmp_path / "Masks/a.PNG", COLOURS[halves(0, 2)])
    if mode == "P":
        # Few colours become a palette, in whatever order.
        Image.open(tmp_path / "Masks/a.PNG").quantize(2).save(tmp_path / "Masks/a.PNG")
    (tmp_path / "Class_Dict.csv").write_bytes(text.encode())
    np.testing.assert_array_equal(masks_of(tmp_path)[0], halves(0, 2))


def test_grey_masks_with_a_table_of_greys(root: Path) -> None:  # noqa: F811
    (root / "class_dict.csv").write_text("name,r,g,b\nroad,255,255,255\nground,0,0,0\n")
    for file in root.glob("masks/*/*.png"):
        mask(file, halves(0, 255))
    mask(root / "masks/train/b.png", halves().astype(bool))
    assert all(np.array_equal(one, halves(1, 0)) for one in masks_of(root))


def test_white_that_is_no_class_leaves_nothing_to_tell_apart(root: Path) -> None:  # noqa: F811
    (root / "classes.txt").write_text("ground\nroad\n")
    for file in root.glob("masks/*/*.png"):
        mask(file, halves(0, 255))
    with pytest.raises(DataError, match="show only 'ground' beside 255, which is ignored; segmentation needs two"):
        read_masks(root)
    assert [one.id for one in check(root).findings if one.severity == "error"] == ["nothing-to-tell-apart"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classes.txt", "sky\nroad\n".encode("utf-16"), "is not UTF-8 text .*; save it as that"),
        ("classes.txt", b"sky 1 2 3\nroad 4 5\n", "classes.txt:2: has no colour, but lines before have"),
        ("classes.txt", b"sky\nroad 4 5 6\n", "classes.txt:1: has no colour, but later lines have"),
        ("classes.txt", b"\n".join(b"%d" % n for n in range(50_000)), "names 50000 classes"),
        ("class_dict.csv", b"name,r,g,b\n,0,0,0\nroad,1,1,1\n", "has a class without a name"),
    ],
)
def test_tables_that_are_none(root: Path, name: str, content: bytes, message: str) -> None:  # noqa: F811
    (root / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_masks(root)


@pytest.mark.parametrize("what", ["pictures", "masks"])
def test_two_of_a_name_are_not_guessed_at(root: Path, what: str) -> None:  # noqa: F811
    if what == "pictures":
        picture(root / "images/train/a.png")
        expected = ("same-name", "images/train/a.png", "cannot be told from images/train/a.jpg; remove or rename one")
    else:
        mask(root / "labels/train/a.png", halves())
        expected = ("same-name", "masks/train/a.png", "cannot be told from labels/train/a.png; remove or rename one")
    assert problems(root) == [expected]
    assert [one.name for one in read_masks(root, skip_bad=True).splits["train"]] == ["images/train/b.jpg"]


def test_the_nearest_folder_says_what_a_file_is(tmp_path: Path) -> None:
    picture(tmp_path / "labels/images/a.png")
    mask(tmp_path / "labels/masks/a.png", halves())
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    assert problems(tmp_path) == []


@pytest.mark.parametrize(
    ("listed", "found"),
    [("my street\r\nb\r\n", ["JPEGImages/b.jpg", "JPEGImages/x/my street.jpg"]), ("x/my street\n", None)],
)
def test_lists_of_voc(tmp_path: Path, listed: str, found: Any) -> None:
    for name in ("x/my street", "b"):
        picture(tmp_path / f"JPEGImages/{name}.jpg")
        mask(tmp_path / f"SegmentationClass/{name}.png", halves())
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes(listed.encode("utf-8-sig"))
    data = read_mask_annotations(open_tree(tmp_path))
    assert data.problems == ()
    assert [one.name for one in data.splits["train"]] == (found or ["JPEGImages/x/my street.jpg"])


def test_no_mask_that_can_be_used(root: Path) -> None:  # noqa: F811
    for file in root.glob("masks/*/*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"has no mask that can be used .first: masks/train/a.png: is empty"):
        read_masks(root, skip_bad=True)


def test_the_size_of_a_turned_photograph_is_found_without_waiting(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "a.jpg", exif=exif)
    assert upright_size(open_tree(tmp_path), "a.jpg") == SIZE[::-1]
