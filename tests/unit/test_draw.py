"""Drawings: the picture, and below it what the model said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.errors import UserError
from mobilenetv2.predictions import Classification, Timing
from mobilenetv2.runtime.draw import draw, save_drawing

LONG = "a name that is much too long for one line of any picture " * 4
NAMES = ("tench", "electric ray", "brambling", "robin")


def answer(scores: tuple[float, ...] = (0.1, 0.6, 0.0, 0.3), *, names: tuple[str, ...] = NAMES) -> Classification:
    none = Timing(decode=0, preprocess=0, network=0, postprocess=0)
    return Classification(
        scores=np.array(scores, np.float32), names=names, size_hw=(1, 1), source="photos/a.png", model="m", ms=none
    )


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 200, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((1600, 1200), (1600, 1200)),
        ((320, 20), (320, 20)),
        ((32, 32), (320, 320)),
        ((1, 1), (320, 320)),
        ((240, 320), (480, 640)),
        ((10, 1000), (10, 1000)),
        ((3000, 2), (3000, 2)),
    ],
)
def test_the_picture_stays_above_the_band(size: tuple[int, int], shown: tuple[int, int]) -> None:
    picture = noise(*size)
    before = picture.tobytes()
    page = draw(picture, answer())
    assert page.mode == "RGB"
    assert page.width == max(320, shown[0])
    assert shown[1] + 60 < page.height < shown[1] + 60 + page.width
    left = (page.width - shown[0]) // 2
    kept = page.crop((left, 0, left + shown[0], shown[1]))
    np.testing.assert_array_equal(np.asarray(kept), np.asarray(picture.resize(shown, Image.Resampling.NEAREST)))
    assert picture.tobytes() == before


def bars(page: Image.Image, top: int) -> list[int]:
    """Blue pixels of each row of bars below `top`, from above."""
    blue = (np.asarray(page)[top:] == (37, 99, 235)).all(axis=-1).sum(axis=1)
    starts = np.flatnonzero((blue[1:] > 0) & (blue[:-1] == 0)) + 1
    return [int(blue[start]) for start in starts]


def test_bars_are_as_long_as_scores_are_high() -> None:
    first, second, third = bars(draw(noise(1000, 500), answer()), 500)
    assert first / 0.6 == pytest.approx(second / 0.3, rel=0.05)
    assert first / 0.6 == pytest.approx(third / 0.1, rel=0.05)
    # A score that rounds to nothing has no bar.
    assert len(bars(draw(noise(1000, 500), answer((1.0, 0.0, 0.0, 0.0))), 500)) == 1


@pytest.mark.parametrize("size", [(32, 32), (500, 375), (1600, 1200), (20, 400)])
@pytest.mark.parametrize("name", [LONG, "W" * 500, "two\nlines", "", "狐 ünïcode"])
def test_no_name_reaches_the_bars(size: tuple[int, int], name: str) -> None:
    picture = noise(*size)
    usual = draw(picture, answer(names=("", "", "", "")))
    page = draw(picture, answer(names=(name, name, name, name)))
    assert page.size == usual.size
    changed = np.flatnonzero((np.asarray(page) != np.asarray(usual)).any(axis=(0, 2)))
    # The noise is darker than the bars' blue, so whatever has it is a bar.
    bar = np.flatnonzero((np.asarray(usual) == (37, 99, 235)).all(axis=-1).any(axis=0))
    assert changed.size == 0 or changed.max() < bar.min()
    assert (changed.size > 0) == bool(name)


def test_fewer_classes_have_a_lower_band() -> None:
    two = draw(noise(400, 300), answer((0.7, 0.3), names=("cat", "dog")))
    assert two.height < draw(noise(400, 300), answer()).height


def test_names_never_collide(tmp_path: Path) -> None:
    taken: set[str] = set()
    picture = noise(4, 4)
    sources = ["a/x.png", "b/x.jpg", "x-2.png", "X.png", "-", "", "https://host/x.png?y=1", "x", f"{'é' * 400}.png"]
    paths = []
    for source in sources:
        one = answer()
        object.__setattr__(one, "source", source)
        paths.append(save_drawing(picture, one, tmp_path / "new" / "folder", taken))
    assert len({path.name.lower() for path in paths}) == len(sources)
    assert sorted(path.name for path in paths) == sorted(file.name for file in (tmp_path / "new/folder").iterdir())
    assert [path.name for path in paths[:6]] == [
        "x.jpg",
        "x-2.jpg",
        "x-2-2.jpg",
        "X-3.jpg",
        "picture.jpg",
        "picture-2.jpg",
    ]
    for path in paths:
        with Image.open(path) as drawing:
            assert drawing.format == "JPEG"


def test_longer_than_a_jpeg_can_be(tmp_path: Path) -> None:
    with Image.open(save_drawing(Image.new("RGB", (70_000, 3)), answer(), tmp_path, set())) as drawing:
        assert drawing.width == 16_000
    with Image.open(save_drawing(Image.new("RGB", (3, 70_000)), answer(), tmp_path, set())) as drawing:
        assert 16_000 < drawing.height < 16_200


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be made"):
        save_drawing(noise(4, 4), answer(), tmp_path / "file", set())
