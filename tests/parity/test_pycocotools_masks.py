"""Run-length codes and painted polygons against COCO's own tool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mobilenetv2.data.mask_files import OutlinedMask
from mobilenetv2.data.tree import FolderTree
from mobilenetv2.masks import rle_decode, rle_encode

coco = pytest.importorskip("pycocotools.mask")


def test_codes_are_the_same_text() -> None:
    random = np.random.default_rng(0)
    shapes = [(1, 1), (1, 50), (50, 1), (7, 11), (60, 80), (480, 640)]
    for number in range(150):
        height, width = shapes[number % len(shapes)]
        share = random.choice([0, 0.01, 0.3, 0.5, 0.99, 1])
        mask = random.random((height, width)) < share
        if number % 3 == 0:
            mask = np.kron(random.random((5, 6)) < 0.5, np.ones((9, 8))) > 0
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle_encode(mask) == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
        np.testing.assert_array_equal(rle_decode(rle_encode(mask)), mask)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (1500, 1200)])
def test_long_runs_and_the_other_form(shape: tuple[int, int]) -> None:
    """Runs of more than 2^15 and 2^20 pixels; and counts as a list, which their tool makes text of."""
    for inside in (False, True):
        mask = np.full(shape, inside)
        runs = [0, mask.size] if inside else [mask.size]
        if mask.size > 2**20:
            mask[-1, 40], runs = not inside, [*runs[:-1], 41 * shape[0] - 1, 1, mask.size - 41 * shape[0]]
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert rle_encode(mask)["counts"] == theirs
        listed = {"size": list(shape), "counts": runs}
        assert coco.frPyObjects(listed, *shape)["counts"].decode() == theirs
        for code in (listed, {"size": list(shape), "counts": theirs}):
            np.testing.assert_array_equal(rle_decode(code), mask)


def test_polygons_are_painted_nearly_alike() -> None:
    """A pixel on the edge may go either way."""
    random = np.random.default_rng(1)
    tree = FolderTree(path=Path(), names=())
    for _ in range(100):
        turns = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 12)))
        radius = random.uniform(15, 45, len(turns))
        polygon = np.stack([60 + radius * np.cos(turns), 50 + radius * np.sin(turns)], axis=1).reshape(-1).tolist()
        code = coco.merge(coco.frPyObjects([polygon], 100, 120))
        theirs = rle_decode({"size": [100, 120], "counts": code["counts"].decode()})
        ours = OutlinedMask(name="x", objects=((1, [polygon], False),)).read(tree, (100, 120)) == 1
        if theirs.sum() > 1000:
            assert (ours & theirs).sum() / (ours | theirs).sum() > 0.97
            # Neither larger nor smaller on the whole.
            assert abs(int(ours.sum()) - int(theirs.sum())) < 0.03 * theirs.sum()
