"""Pictures with masks in every layout, and everything that can be wrong with them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.data.masked import read_mask, read_mask_annotations, read_masks, read_masks_of_split, recognise_masks
from mobilenetv2.data.shapes import write_shapes
from mobilenetv2.data.tree import open_tree
from mobilenetv2.errors import DataError
from mobilenetv2.masks import IGNORED

SIZE = (6, 8)


def picture(path: Path, size_hw: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_hw[::-1], (90, 120, 40)).save(path)


def mask(path: Path, values: NDArray[Any], mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([255, 0, 0, 0, 255, 0] * 128)
    image.save(path)


def halves(low: int = 0, high: int = 1, size_hw: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    values = np.full(size_hw, low, np.uint8)
    values[:, size_hw[1] // 2 :] = high
    return values


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes and one to be ignored, two pictures to train on and one to validate on."""
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        picture(tmp_path / "images" / split / f"{name}.jpg")
        mask(tmp_path / "masks" / split / f"{name}.png", halves(0, 2))
    (tmp_path / "classes.txt").write_text("sky\nvoid\nroad\ncar\n")
    return tmp_path


def problems(root: Path) -> list[tuple[str, str, str]]:
    return [(one.id, one.place, one.text) for one in read_mask_annotations(open_tree(root)).problems]


def test_index_masks(root: Path) -> None:
    data = read_masks(root)
    assert (data.format, data.classes, data.derived) == ("index", ("sky", "road", "car"), False)
    assert [picture.name for picture in data.splits["train"]] == ["images/train/a.jpg", "images/train/b.jpg"]
    assert data.counts("train") == {"sky": 2, "road": 2, "car": 0}
    assert data.pixels("train").tolist() == [48, 48, 0]
    # What is called void does not count, and what comes after it moves up.
    np.testing.assert_array_equal(read_mask(data.tree, data.splits["val"][0]), halves(0, 1))
    assert data.without({"images/train/a.jpg"}).counts("train")["sky"] == 1


def test_ignored_pixels(root: Path) -> None:
    values = halves(0, 255)
    values[0] = 1
    mask(root / "masks/train/a.png", values)
    data = read_masks(root)
    expected = halves(0, IGNORED)
    expected[0] = IGNORED
    np.testing.assert_array_equal(read_mask(data.tree, data.splits["train"][0]), expected)
    assert data.splits["train"][0].ignored == 28


def interlaced_png(values: NDArray[np.uint8]) -> bytes:
    """Grey, in Adam7's seven passes, which Pillow reads but does not write."""
    rows = b""
    for y, x, dy, dx in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        part = values[y::dy, x::dx]
        rows += b"".join(b"\0" + row.tobytes() for row in part) if part.size else b""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["L", "P", "1", "I;16", "interlaced"])
def test_every_kind_of_png(root: Path, kind: str) -> None:
    path = root / "masks/train/a.png"
    if kind == "1":
        mask(path, halves().astype(bool))
        (root / "classes.txt").write_text("sky\nroad\n")
        mask(root / "masks/train/b.png", halves())
        mask(root / "masks/val/c.png", halves())
    elif kind == "I;16":
        mask(path, halves(0, 2).astype(np.uint16))
    elif kind == "interlaced":
        path.write_bytes(interlaced_png(halves(0, 2)))
    else:
        mask(path, halves(0, 2), kind)
    data = read_masks(root)
    np.testing.assert_array_equal(read_mask(data.tree, data.splits["train"][0]), halves(0, 1))


@pytest.mark.parametrize("arrangement", ["wrapped", "split first", "no splits", "labels"])
def test_arrangements_of_folders(tmp_path: Path, arrangement: str) -> None:
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        at, kind = {
            "wrapped": (f"street/{{}}/{split}", "masks"),
            "split first": (f"{split}/{{}}", "masks"),
            "no splits": ("{}", "masks"),
            "labels": (f"{{}}/{split}", "labels"),
        }[arrangement]
        picture(tmp_path / at.format("images") / f"{name}.jpg")
        mask(tmp_path / at.format(kind) / f"{name}.png", halves())
    (tmp_path / ("street" if arrangement == "wrapped" else "") / "classes.txt").write_text("sky\nroad\n\n")
    data = read_masks(tmp_path)
    assert data.derived is (arrangement == "no splits")
    assert {split: len(some) for split, some in data.splits.items()} == {"train": 2, "val": 1}
    assert data.classes == ("sky", "road")


def test_colours_with_a_table(root: Path) -> None:
    table = {"sky": (128, 128, 128), "void": (0, 0, 0), "road": (128, 64, 128), "car": (64, 0, 128)}
    for file in root.glob("masks/*/*.png"):
        mask(file, np.array(list(table.values()), np.uint8)[np.asarray(Image.open(file))])
    for name, text in (
        ("class_dict.csv", "name,r,g,b\n" + "".join(f"{k}, {r}, {g}, {b}\n" for k, (r, g, b) in table.items())),
        ("classes.txt", "".join(f"{k} {r} {g} {b}\n" for k, (r, g, b) in table.items())),
    ):
        (root / "classes.txt").unlink(missing_ok=True)
        (root / name).write_text(text)
        data = read_masks(root)
        assert data.classes == ("sky", "road", "car")
        np.testing.assert_array_equal(read_mask(data.tree, data.splits["train"][0]), halves(0, 1))
        (root / name).unlink()


def test_voc(tmp_path: Path) -> None:
    base = tmp_path / "VOCdevkit/VOC2012"
    for name in "abcd":
        picture(base / "JPEGImages" / f"{name}.jpg")
    for name in "abc":
        values = halves(15, 255)
        values[0, 0] = 0
        mask(base / "SegmentationClass" / f"{name}.png", values, "P")
    lists = base / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    data = read_masks(tmp_path)
    assert data.format == "voc"
    assert data.classes[0] == "background"
    assert len(data.classes) == 21
    assert data.counts("val")["person"] == 1
    assert data.splits["val"][0].ignored == 24


def voc(root: Path, lists: dict[str, str]) -> None:
    for name in "abc":
        picture(root / "JPEGImages" / f"{name}.jpg")
        mask(root / "SegmentationClass" / f"{name}.png", halves(0, 15), "P")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, text in lists.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(text)


def test_voc_lists_what_is_nowhere(tmp_path: Path) -> None:
    voc(tmp_path, {"train": "a\nz\n", "val": "c\n"})
    place = "ImageSets/Segmentation/train.txt:2"
    assert problems(tmp_path) == [("missing-file", place, "lists 'z', which is nowhere")]


def test_voc_lists_of_other_data(tmp_path: Path) -> None:
    voc(tmp_path, {"train": "x\ny\n", "val": "z\n"})
    with pytest.raises(DataError, match=r"no mask has the name of a picture .first: x"):
        read_masks(tmp_path)


def test_generated_shapes_are_masks_too(tmp_path: Path) -> None:
    write_shapes(tmp_path, train=3, val=2, size_hw=(48, 48))
    data = read_masks(tmp_path)
    assert (data.format, data.classes[0], len(data.classes)) == ("index", "ground", 6)
    assert data.pixels("train").sum() == 3 * 48 * 48


def damage(root: Path, kind: str) -> str:
    """Make one thing wrong; returns where."""
    place = root / "masks/train/a.png"
    if kind == "size-mismatch":
        mask(place, halves(0, 2, (8, 6)))
    elif kind == "unknown-class":
        mask(place, halves(0, 9))
    elif kind == "unknown-class-16":
        mask(place, np.where(halves() > 0, 4000, 0).astype(np.uint16))
    elif kind == "unknown-class-65534":
        mask(place, np.where(halves() > 0, 65534, 0).astype(np.uint16))
    elif kind == "no-picture":
        place.write_bytes(b"no picture")
    elif kind == "no-class-table":
        mask(place, np.zeros((*SIZE, 3), np.uint8))
    elif kind == "unreadable-mask":
        place.write_bytes(b"")
    elif kind == "cut-off":
        place.write_bytes(place.read_bytes()[:50])
    elif kind == "all-ignored":
        mask(place, np.full(SIZE, 255, np.uint8))
    elif kind == "grey-and-alpha":
        place.write_bytes(b"")
        Image.new("LA", SIZE[::-1]).save(place)
    elif kind == "missing-file":
        place.with_name("z.png").write_bytes(place.read_bytes())
        return "masks/train/z.png"
    elif kind == "missing-mask":
        place.unlink()
        return "images/train/a.jpg"
    elif kind == "unreadable-picture":
        (root / "images/train/a.jpg").write_bytes(b"no picture")
        return "images/train/a.jpg"
    return "masks/train/a.png"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("size-mismatch", "has 6x8 pixels, its picture 8x6"),
        ("unknown-class", "24 pixels are of class 9, but there are 4 (0 to 3)"),
        ("unknown-class-16", "24 pixels are of class 4000, but there are 4 (0 to 3)"),
        ("no-class-table", "is made of RGB colours, and nothing says which class each is"),
        ("unknown-class-65534", "24 pixels are of class 65534, but there are 4 (0 to 3)"),
        ("unreadable-mask", "is empty (0 bytes)"),
        ("no-picture", "is not a PNG, whatever its ending"),
        ("cut-off", "cannot be decoded"),
        ("grey-and-alpha", "has pixels of mode LA"),
        ("all-ignored", "has no pixel of any class"),
        ("missing-file", "is a mask without its picture"),
        ("missing-mask", "has no mask"),
        ("unreadable-picture", "cannot"),
    ],
)
def test_what_is_wrong_is_named_and_refused(root: Path, kind: str, text: str) -> None:
    place = damage(root, kind)
    names = dict.fromkeys(("unknown-class-16", "unknown-class-65534"), "unknown-class")
    names |= dict.fromkeys(("cut-off", "grey-and-alpha", "no-picture"), "unreadable-mask")
    ((id_, where, what),) = problems(root)
    assert (id_, where) == (names.get(kind, kind), place)
    assert text in what
    with pytest.raises(DataError, match=rf"1 masks are wrong \(first: {place}: .*mobilenetv2 check") as caught:
        read_masks(root)
    assert "\n" not in str(caught.value)
    left = read_masks(root, skip_bad=True)
    assert [one.name for one in left.splits["train"]] == (
        ["images/train/a.jpg", "images/train/b.jpg"] if kind == "missing-file" else ["images/train/b.jpg"]
    )


def test_an_unknown_colour_is_named(root: Path) -> None:
    (root / "classes.txt").write_text("sky 1 2 3\nroad 4 5 6\n")
    values = np.full((*SIZE, 3), (1, 2, 3), np.uint8)
    values[0] = (9, 9, 200)
    for file in root.glob("masks/*/*.png"):
        mask(file, values)
    assert problems(root)[0][2] == "8 pixels are of colours that no class has, most of them (9, 9, 200)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"nothing names the classes of its masks; write classes.txt"),
        ("sky\nroad\nsky\n", r"classes.txt: names 'sky' twice"),
        ("sky\n\nroad\n", r"classes.txt:2: is empty"),
        ("void\nignore\n", "names 0 classes"),
        ("\n".join(map(str, range(300))), "names 300 classes; masks can have 255"),
        ("sky 1 2 300\nroad 4 5 6\n", "has a colour beyond 0 to 255"),
        ("sky 1 2 3\nroad 1 2 3\n", r"gives the colour \(1, 2, 3\) to more than one class"),
    ],
)
def test_classes_that_are_not_named(root: Path, text: str | None, message: str) -> None:
    (root / "classes.txt").unlink()
    if text is not None:
        (root / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_masks(root)


def test_a_table_that_is_none(root: Path) -> None:
    (root / "class_dict.csv").write_text('name,r,g,b\n"' + "x" * 200_000 + '",1,2,3\n')
    with pytest.raises(DataError, match=r"class_dict.csv: is no table of columns"):
        read_masks(root)


def test_a_turned_photograph_has_an_upright_mask(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF orientation: to be turned by a quarter
    Image.new("RGB", SIZE[::-1]).save(root / "images/train/a.jpg", exif=exif)
    text = "has 8x6 pixels, its picture 6x8; a mask is of the picture as it is shown, turned where EXIF says so"
    assert problems(root) == [("size-mismatch", "masks/train/a.png", text)]
    mask(root / "masks/train/a.png", halves(0, 2, SIZE[::-1]))
    assert read_masks(root).splits["train"][0].size_hw == (8, 6)


def test_a_one_pixel_picture_is_one(root: Path) -> None:
    picture(root / "images/train/a.jpg", (1, 1))
    mask(root / "masks/train/a.png", np.zeros((1, 1), np.uint8))
    assert read_masks(root).splits["train"][0].pixels.tolist() == [1, 0, 0]


def test_a_split_without_masks_is_not_labelled(root: Path) -> None:
    picture(root / "images/test/d.jpg")
    assert set(read_masks(root).splits) == {"train", "val"}


def test_nothing_to_recognise(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    assert recognise_masks(open_tree(tmp_path)) is None
    with pytest.raises(DataError, match="holds no masks"):
        read_masks(tmp_path)


def test_measuring_numbers_masks_as_the_model_does(root: Path) -> None:
    tree, split, (one,) = read_masks_of_split(root, ("road", "sky", "tree"))
    assert split == "val"
    np.testing.assert_array_equal(read_mask(tree, one), halves(1, 0))
    assert one.pixels.tolist() == [24, 24, 0]
    with pytest.raises(DataError, match=r"has 1 classes that the model lacks .first: 'road'"):
        read_masks_of_split(root, ("sky", "car"))
    with pytest.raises(DataError, match="has no 'test' split"):
        read_masks_of_split(root, ("sky", "road"), "test")


def test_what_was_split_off_is_split_off_again(tmp_path: Path) -> None:
    for number in range(10):
        picture(tmp_path / "images" / f"{number}.jpg")
        mask(tmp_path / "masks" / f"{number}.png", halves())
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    data = read_masks(tmp_path, val_fraction=0.3, seed=5)
    from mobilenetv2.data.tree import fingerprint

    record = {"derived_val": True, "fingerprint": fingerprint(data.tree), "val_fraction": 0.3, "seed": 5}
    _, split, pictures = read_masks_of_split(tmp_path, data.classes, trained_on=record)
    assert split == "val"
    assert [one.name for one in pictures] == [one.name for one in data.splits["val"]]


def test_camvid(shared_data: Path) -> None:
    data = read_masks(shared_data / "camvid.zip")
    assert {split: len(some) for split, some in data.splits.items()} == {"train": 367, "val": 101}
    assert data.classes[0] == "sky"
    assert len(data.classes) == 11
    with Image.open(io.BytesIO(data.tree.read("camvid/masks/val/0016E5_07959.png"))) as image:
        raw = np.asarray(image)
    one = next(one for one in data.splits["val"] if one.name.endswith("0016E5_07959.jpg"))
    np.testing.assert_array_equal(read_mask(data.tree, one), np.where(raw == 11, IGNORED, raw))
