"""Generated pictures: the truth about them is true, and the same everywhere."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.data import shapes
from mobilenetv2.data.boxed import read_boxes, recognise
from mobilenetv2.data.shapes import CLASSES, draw_scene, write_shapes
from mobilenetv2.data.tree import open_tree

SCENES = [draw_scene(0, index) for index in range(60)]


def test_boxes_are_around_what_the_mask_shows() -> None:
    for scene in SCENES:
        assert scene.image.shape == (192, 192, 3)
        assert scene.image.dtype == scene.mask.dtype == np.uint8
        assert 1 <= len(scene.labels) == len(scene.boxes_xyxy) <= 8
        union = np.zeros_like(scene.mask, bool)
        for box, label in zip(scene.boxes_xyxy.astype(int), scene.labels, strict=True):
            own = np.zeros_like(union)
            own[box[1] : box[3], box[0] : box[2]] = scene.mask[box[1] : box[3], box[0] : box[2]] == label + 1
            # The box touches its shape on all four sides.
            for edge in (own[box[1]], own[box[3] - 1], own[:, box[0]], own[:, box[2] - 1]):
                assert edge.any()
            union |= own
        assert ((scene.mask > 0) == union).all()


def test_classes_are_even_and_sizes_are_many() -> None:
    labels = np.concatenate([scene.labels for scene in SCENES])
    counts = np.bincount(labels, minlength=len(CLASSES))
    assert counts.min() > 0.5 * counts.mean()
    sides = np.concatenate([(b[:, 2:] - b[:, :2]).max(axis=1) for b in (scene.boxes_xyxy for scene in SCENES)])
    assert np.percentile(sides, 10) < 30
    assert np.percentile(sides, 90) > 55


def test_no_shape_is_mostly_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are 100 pixels high from the top: one 100 wide, then what would hide half, .3 and another .2 of it."""
    columns = iter([(0, 100), (0, 50), (0, 30), (30, 50)])

    def scripted(random: np.random.Generator, label: int, size_hw: tuple[int, int]) -> np.ndarray[Any, Any]:
        cover = np.zeros(size_hw, np.uint8)
        left, right = next(columns, (0, 0))
        cover[:100, left:right] = 255
        return cover

    monkeypatch.setattr(shapes, "_cover", scripted)
    scene = draw_scene(0, 0)
    assert next(columns, None) is None
    assert scene.boxes_xyxy.tolist() == [[30, 0, 100, 100], [0, 0, 30, 100]]


def test_seed_and_number_decide() -> None:
    again = draw_scene(0, 7)
    np.testing.assert_array_equal(again.image, SCENES[7].image)
    np.testing.assert_array_equal(again.boxes_xyxy, SCENES[7].boxes_xyxy)
    assert not np.array_equal(draw_scene(1, 7).image, SCENES[7].image)
    code = (
        "import hashlib; from mobilenetv2.data.shapes import draw_scene;"
        "print(hashlib.sha256(draw_scene(0, 7).image.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert there == hashlib.sha256(again.image.tobytes()).hexdigest()


def test_a_size_that_is_no_square() -> None:
    scene = draw_scene(0, 0, (90, 160))
    assert scene.image.shape == (90, 160, 3)
    assert scene.mask.shape == (90, 160)
    assert (scene.boxes_xyxy[:, 2:] <= [160, 90]).all()


def test_the_folder_is_a_data_set(tmp_path: Path) -> None:
    write_shapes(tmp_path, train=5, val=2, seed=3)
    assert recognise(open_tree(tmp_path)) == "coco"
    data = read_boxes(tmp_path)
    assert data.problems == ()
    assert set(data.classes) <= set(CLASSES)
    assert {split: len(some) for split, some in data.splits.items()} == {"train": 5, "val": 2}
    scene = draw_scene(3, 5)
    first = data.splits["val"][0]
    np.testing.assert_array_equal(first.boxes_xyxy, scene.boxes_xyxy)
    assert [data.classes[label] for label in first.labels] == [CLASSES[label] for label in scene.labels]
    with Image.open(tmp_path / "masks/val/00001.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), scene.mask)
