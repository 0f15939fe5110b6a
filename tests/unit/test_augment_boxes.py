"""Boxes follow their picture through every random change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mobilenetv2.data.augment_boxes import AugmentBoxes, Boxed, mosaic
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.training.recipes import DetectRecipe

# A dark ground, on which the colours are found again.
PREPROCESSING = Preprocessing(size_hw=(96, 96), mean_rgb=(0.1, 0.1, 0.1))
PLAIN = {"flip": 0.0, "flip_vertical": 0.0, "crop": 0.0, "zoom_out": 0.0, "photometric": 0.0, "mosaic": 0.0}


def scene(seed: int = 0, size_wh: tuple[int, int] = (160, 120)) -> Boxed:
    """Three filled rectangles in pure colours on black; the box of each is known, and can be found again by colour."""
    random = np.random.default_rng(seed)
    width, height = size_wh
    pixels = np.zeros((height, width, 3), np.uint8)
    boxes = []
    for channel in range(3):
        # Side by side, so that none hides another.
        left = channel * width // 3 + int(random.integers(2, 10))
        top = int(random.integers(5, height // 2))
        box = (left, top, left + int(random.integers(20, 36)), top + int(random.integers(20, 50)))
        pixels[box[1] : box[3], box[0] : box[2], channel] = 255
        boxes.append(box)
    return Boxed(Image.fromarray(pixels), np.array(boxes, np.float32), np.arange(3), np.zeros(3, bool))


def found(image: Image.Image, channel: int) -> list[int] | None:
    """Where a colour is."""
    mask = np.asarray(image)[..., channel] > 127
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": 1.0},
        {"flip_vertical": 1.0},
        {"crop": 1.0},
        {"zoom_out": 1.0, "zoom_out_max": 3.0},
        {"flip": 0.5, "flip_vertical": 0.5, "crop": 0.5, "zoom_out": 0.5},
    ],
)
def test_boxes_stay_around_what_they_were_around(options: dict[str, float]) -> None:
    augment = AugmentBoxes(DetectRecipe(**{**PLAIN, **options}), PREPROCESSING)  # type: ignore[arg-type]
    seen = 0
    for seed in range(30):
        torch.manual_seed(seed)
        sample = augment(scene(seed), lambda: scene(0))
        assert sample.image.size == (96, 96)
        assert len(sample.boxes_xyxy) == len(sample.labels) == len(sample.ignored)
        for box, label in zip(sample.boxes_xyxy, sample.labels, strict=True):
            place = found(sample.image, int(label))
            assert place is not None
            np.testing.assert_allclose(box, place, atol=1.51)
            seen += 1
    assert seen > 40


def test_nothing_random_leaves_the_picture_as_the_runtime_sees_it() -> None:
    from mobilenetv2.preprocessing import resize

    sample = AugmentBoxes(DetectRecipe(**PLAIN), PREPROCESSING)(scene(), lambda: scene())  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.asarray(sample.image), np.asarray(resize(scene().image, PREPROCESSING)))


def test_colours_change_and_the_seed_decides() -> None:
    augment = AugmentBoxes(DetectRecipe(photometric=1.0), PREPROCESSING)

    def draw(seed: int) -> bytes:
        torch.manual_seed(seed)
        return augment(scene(), lambda: scene()).image.tobytes()

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(8)}) > 4


def test_a_mosaic_holds_four_pictures_and_their_boxes() -> None:
    seen = 0
    for seed in range(20):
        torch.manual_seed(seed)
        put = mosaic([scene(seed + i) for i in range(4)], (96, 96), (0, 0, 0))
        assert put.image.size == (192, 192)
        assert (put.boxes_xyxy >= 0).all()
        assert (put.boxes_xyxy <= 192).all()
        pixels = np.asarray(put.image)
        for box, label in zip(put.boxes_xyxy.round().astype(int), put.labels, strict=True):
            inside = pixels[box[1] + 2 : box[3] - 2, box[0] + 2 : box[2] - 2, label]
            assert inside.size == 0 or inside.mean() > 240
            seen += 1
    assert seen > 60


def test_pictures_without_boxes_pass() -> None:
    empty = Boxed(Image.new("RGB", (50, 40)), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    recipe = DetectRecipe(mosaic=1.0, crop=0.0, zoom_out=1.0)
    sample = AugmentBoxes(recipe, PREPROCESSING)(empty, lambda: empty)
    assert sample.boxes_xyxy.shape == (0, 4)
    assert sample.image.size == (96, 96)
    sample = AugmentBoxes(DetectRecipe(crop=1.0), PREPROCESSING)(empty, lambda: empty)
    assert sample.image.size == (96, 96)
