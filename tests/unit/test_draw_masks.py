"""Masks as people see them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.predictions import Segmentation, Timing
from mobilenetv2.runtime.draw import draw, save_drawing
from mobilenetv2.runtime.draw_boxes import colour_of
from mobilenetv2.runtime.draw_masks import colours, legend, mask_png, paint_masks


def segmentation(mask: NDArray[np.uint8], names: tuple[str, ...] = ("sky", "road", "car")) -> Segmentation:
    ms = Timing(decode=0, preprocess=0, network=0, postprocess=0)
    return Segmentation(mask=mask, names=names, size_hw=mask.shape, source="a/b.jpg", model="m", ms=ms)


def halves(size_hw: tuple[int, int] = (40, 60)) -> NDArray[np.uint8]:
    mask = np.zeros(size_hw, np.uint8)
    mask[:, size_hw[1] // 2 :] = 2
    return mask


def test_each_class_has_the_colour_of_its_boxes() -> None:
    assert [tuple(row) for row in colours(60)] == [colour_of(index) for index in range(60)]
    assert len({tuple(row) for row in colours(49).tolist()}) == 49


def test_the_picture_is_tinted_and_classes_are_parted() -> None:
    grey = Image.new("RGB", (60, 40), (100, 100, 100))
    painted = np.asarray(paint_masks(grey, segmentation(halves()))).astype(int)
    for column, index in ((5, 0), (50, 2)):
        # Between the picture's colour and that of the class, nearer to the latter.
        expected = 0.45 * 100 + 0.55 * colours(3)[index].astype(float)
        assert np.abs(painted[20, column] - expected).max() <= 1
    assert (painted[:, 29] == 255).all()
    assert (painted[:, 30] != 255).any()


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
    assert (np.asarray(band) == colours(count)[0]).all(axis=2).any()
    # A thirteenth class and more share a line.
    assert (np.asarray(band) == colours(count)[-1]).all(axis=2).any() == (count <= 12 or count > 49)


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
