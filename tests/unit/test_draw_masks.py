"""Masks as people see them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.errors import UserError
from mobilenetv2.predictions import Segmentation, Timing
from mobilenetv2.runtime.draw import draw, save_drawing
from mobilenetv2.runtime.draw_boxes import colour_of
from mobilenetv2.runtime.draw_masks import colours, legend, mask_png, paint_masks

FRAME = (161, 161, 170)


def segmentation(mask: NDArray[np.uint8], names: tuple[str, ...] = ("sky", "road", "car")) -> Segmentation:
    ms = Timing(decode=0, preprocess=0, network=0, postprocess=0)
    return Segmentation(mask=mask, names=names, size_hw=mask.shape, source="a/b.jpg", model="m", ms=ms)


def halves(size_hw: tuple[int, int] = (40, 60)) -> NDArray[np.uint8]:
    mask = np.zeros(size_hw, np.uint8)
    mask[:, size_hw[1] // 2 :] = 2
    return mask


def test_each_class_has_a_colour_of_its_own_that_of_its_boxes_first() -> None:
    assert [tuple(row) for row in colours(49)] == [colour_of(index) for index in range(49)]
    table = colours(255)
    np.testing.assert_array_equal(table[:60], colours(60))
    apart = np.abs(table[:, None].astype(int) - table).max(axis=2)
    assert apart[~np.eye(255, dtype=bool)].min() >= 5


def tint(index: int, grey: float) -> NDArray[np.float64]:
    """The colour of a class, 65 in 100, over a grey of 64 to 191."""
    return np.asarray(0.65 * colours(index + 1)[index].astype(float) + 0.35 * (64 + float(grey) * 127 / 255))


@pytest.mark.parametrize("grey", [0, 100, 255])
def test_the_picture_is_tinted_and_classes_are_parted(grey: int) -> None:
    painted = np.asarray(paint_masks(Image.new("RGB", (60, 40), (grey,) * 3), segmentation(halves()))).astype(int)
    for column, index in ((5, 0), (50, 2)):
        assert np.abs(painted[20, column] - tint(index, grey)).max() <= 1
    assert (painted[:, 29] == 255).all()
    assert (painted[:, [28, 30]] != 255).any(axis=2).all()


def test_a_colour_of_the_picture_does_not_change_that_of_a_class() -> None:
    mask = np.zeros((20, 20), np.uint8)
    blue = Image.new("RGB", (20, 20), (40, 40, 250))
    grey = blue.convert("L").convert("RGB")
    np.testing.assert_array_equal(paint_masks(blue, segmentation(mask)), paint_masks(grey, segmentation(mask)))


def test_rows_that_are_painted_together_leave_no_seam() -> None:
    random = np.random.default_rng(0)
    mask = np.zeros((200, 30), np.uint8)
    mask[64:] = 1  # just where a part ends
    mask[150:] = 2
    picture = Image.fromarray(random.integers(0, 256, (200, 30, 3), dtype=np.uint8))
    painted = np.asarray(paint_masks(picture, segmentation(mask)))
    assert np.flatnonzero((painted == 255).all(axis=(1, 2))).tolist() == [63, 149]
    greys = np.asarray(picture.convert("L"))
    for row in (0, 62, 64, 127, 128, 199):
        expected = np.stack([tint(mask[row, column], greys[row, column]) for column in range(30)])
        assert np.abs(painted[row] - expected).max() <= 1


def test_lines_grow_with_the_picture() -> None:
    for size, line in ((600, 1), (1300, 2), (1920, 3)):
        painted = np.asarray(paint_masks(Image.new("RGB", (size, size)), segmentation(halves((size, size)))))
        white = (painted == 255).all(axis=2)
        assert np.flatnonzero(white.all(axis=0)).tolist() == list(range(size // 2 - line, size // 2))
        assert white.sum() == line * size


def test_what_is_behind_everything_keeps_its_colours() -> None:
    grey = Image.new("RGB", (60, 40), (100, 100, 100))
    painted = np.asarray(paint_masks(grey, segmentation(halves(), ("Background", "road", "car"))))
    assert (painted[:, :29] == 100).all()
    assert (painted[20, 50] != 100).any()


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 900), (900, 1), (24, 24), (400, 300)])
def test_pictures_of_any_size_are_drawn(size_hw: tuple[int, int]) -> None:
    page = draw(Image.new("RGB", size_hw[::-1]), segmentation(halves(size_hw)))
    assert page.width >= 320
    assert page.height > size_hw[0]


@pytest.mark.parametrize("count", [1, 12, 13, 255])
@pytest.mark.parametrize("width", [320, 1600])
def test_the_legend_names_the_largest(count: int, width: int) -> None:
    names = tuple(f"a rather long name for class {index}" for index in range(count))
    mask = np.arange(count, dtype=np.uint8)[None].repeat(4, 0)
    band = legend(segmentation(mask, names), width, 14)
    assert band.width == width
    assert band.height < 14 * 2 * 14
    # A thirteenth class and more share a line.
    shown = {tuple(colour) for colour in np.unique(np.asarray(band).reshape(-1, 3), axis=0).tolist()}
    for index in range(count):
        # As the picture shows it.
        assert (tuple(np.rint(tint(index, 128)).astype(int).tolist()) in shown) == (index < 12)
    # An empty frame is of what is not painted, and nothing here is.
    assert FRAME not in shown


def test_the_legend_frames_what_is_not_painted() -> None:
    band = np.asarray(legend(segmentation(halves(), ("background", "road", "car")), 320, 14))
    assert (band == FRAME).all(axis=2).any()
    assert not (band == np.rint(tint(0, 128)).astype(np.uint8)).all(axis=2).any()
    assert (band == np.rint(tint(2, 128)).astype(np.uint8)).all(axis=2).any()


def test_a_saved_mask_holds_the_numbers(tmp_path: Path) -> None:
    one = segmentation(halves())
    with Image.open(io.BytesIO(mask_png(one))) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), one.mask)
        assert image.convert("RGB").getpixel((50, 5)) == colour_of(2)
    taken: set[str] = set()
    picture = Image.new("RGB", (60, 40))
    assert save_drawing(picture, one, tmp_path / "out", taken) == tmp_path / "out/b.jpg"
    assert save_drawing(picture, one, tmp_path / "out", taken) == tmp_path / "out/b-2.jpg"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b-2.jpg", "b-2.png", "b.jpg", "b.png"]


def test_a_picture_is_not_overwritten_by_its_own_answer(tmp_path: Path) -> None:
    path = tmp_path / "b.png"
    Image.new("RGB", (60, 40), (1, 2, 3)).save(path)
    before = path.read_bytes()
    one = replace(segmentation(halves()), source=str(path))
    with pytest.raises(UserError, match=r"b\.png: would take the place of the picture itself"):
        save_drawing(path, one, tmp_path, set())
    assert path.read_bytes() == before
    assert not (tmp_path / "b.jpg").exists()
