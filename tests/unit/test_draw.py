"""Drawings: the picture, and what the model said below it or on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.errors import UserError
from mobilenetv2.predictions import Classification, Detections, Timing
from mobilenetv2.runtime import letters
from mobilenetv2.runtime.draw import draw, save_drawing
from mobilenetv2.runtime.draw_boxes import colour_of, contrast, ink_on, text_size
from mobilenetv2.runtime.letters import letters_for

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


# ---- Boxes


def boxes_of(
    boxes: Sequence[Sequence[float]],
    *,
    size_hw: tuple[int, int],
    labels: Sequence[int] | None = None,
    names: tuple[str, ...] = NAMES,
) -> Detections:
    """Detections from the surest to the least sure."""
    none = Timing(decode=0, preprocess=0, network=0, postprocess=0)
    return Detections(
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.4, len(boxes), dtype=np.float32),
        labels=np.array(labels or [0] * len(boxes), np.int64),
        names=names,
        size_hw=size_hw,
        source="photos/a.png",
        model="m",
        ms=none,
    )


def is_colour(page: Image.Image, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((np.asarray(page) == colour).all(axis=-1))


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255), (127, 127, 127), colour_of(0), colour_of(4)])
@pytest.mark.parametrize("label", [0, 4])
def test_a_box_shows_on_any_ground(ground: tuple[int, int, int], label: int) -> None:
    picture = Image.new("RGB", (640, 480), ground)
    before = picture.tobytes()
    page = draw(picture, boxes_of([[200, 150, 400, 350]], size_hw=(480, 640), labels=[label], names=("x",) * 5))
    assert page.size == (640, 480)
    assert picture.tobytes() == before
    line, ink = is_colour(page, colour_of(label)), is_colour(page, ink_on(colour_of(label)))
    changed = (np.asarray(page) != ground).any(axis=-1)
    for pixel in ((250, 200), (250, 399), (349, 300), (150, 399)):  # the box's own edges
        assert line[pixel]
    for pixel in ((250, 199), (250, 400), (350, 300)):  # and the casing around them
        assert ink[pixel]
    assert line[130, 202]  # the chip above
    assert not changed[180:330, 220:380].any()
    assert not changed[:100].any()
    assert not changed[380:].any()


def test_boxes_at_all_borders_stay_on_the_page() -> None:
    boxes = [[0, 0, 99, 80], [300, 0, 340, 30], [600, 0, 640, 60], [0, 200, 30, 260], [610, 200, 640, 250]]
    boxes += [[0, 420, 50, 480], [300, 470, 400, 480], [600, 400, 640, 480], [0, 0, 640, 480], [200, 200, 200, 200]]
    for box in boxes:
        page = draw(Image.new("RGB", (640, 480)), boxes_of([box], size_hw=(480, 640)))
        assert page.size == (640, 480)
        chip = is_colour(page, colour_of(0))
        rows, columns = np.nonzero(chip)
        # The whole chip is there: a line of text high, and at least as wide as the score.
        assert np.ptp(rows) >= 15
        assert np.ptp(columns) >= 40
        if box[2] > box[0]:
            assert chip[int(box[3]) - 1, int(box[2]) - 1]


def test_the_surest_box_is_above() -> None:
    box = [100, 100, 300, 300]
    page = draw(Image.new("RGB", (400, 400)), boxes_of([box] * 3, size_hw=(400, 400), labels=[2, 0, 1]))
    assert is_colour(page, colour_of(2))[200, 100]
    assert is_colour(page, colour_of(2))[87, 101]
    # The others' chips are beside it, and not below it.
    assert is_colour(page, colour_of(0)).sum() > 300
    assert is_colour(page, colour_of(1)).sum() > 300


def test_sizes_follow_the_picture() -> None:
    box = np.array([0.3, 0.3, 0.7, 0.7])
    small, large = (
        draw(Image.new("RGB", (width, width)), boxes_of([list(box * width)], size_hw=(width, width)))
        for width in (400, 4000)
    )
    # The same drawing at ten times the size, up to rounding.
    shares = [is_colour(page, colour_of(0)).mean() for page in (small, large)]
    assert shares[1] == pytest.approx(shares[0], rel=0.25)
    assert text_size(640, 480, 100) < text_size(640, 480, 5)
    assert text_size(640, 480, 10_000) >= 11


@pytest.mark.parametrize(
    ("size", "page_size"),
    [((60, 40), (360, 240)), ((1, 1), (320, 320)), ((10, 1000), (320, 1000)), ((3000, 2), (3000, 40))],
)
def test_boxes_on_small_and_long_pictures(size: tuple[int, int], page_size: tuple[int, int]) -> None:
    width, height = size
    found = boxes_of([[0, 0, width, height], [width / 2, height / 2, width, height]], size_hw=(height, width))
    page = draw(noise(width, height), found)
    assert page.size == page_size
    assert is_colour(page, colour_of(0)).sum() > 300
    empty = draw(noise(width, height), boxes_of([], size_hw=(height, width)))
    assert empty.size == page_size
    assert not is_colour(empty, colour_of(0)).any()


def test_a_picture_that_is_made_smaller_keeps_its_boxes_in_place() -> None:
    page = draw(Image.new("RGB", (32_000, 400)), boxes_of([[16_000, 100, 20_000, 300]], size_hw=(400, 32_000)))
    assert page.size == (16_000, 200)
    columns = np.flatnonzero(is_colour(page, colour_of(0))[120])
    assert (columns[0], columns[-1]) == (8000, 9999)


def test_colours_tell_classes_apart() -> None:
    colours = [colour_of(index) for index in range(49)]
    assert len(set(colours)) == 49
    assert colour_of(49) == colour_of(0)
    assert all(contrast(ink_on(colour), colour) >= 4.5 for colour in colours)
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)


def test_a_hundred_boxes_and_a_long_name() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 400, (100, 2))
    boxes = np.concatenate([corners, corners + random.uniform(3, 80, (100, 2))], axis=1)
    labels = [int(label) for label in random.integers(0, 2, 100)]
    found = boxes_of(boxes.tolist(), size_hw=(480, 480), labels=labels, names=(LONG, "two\nlines"))
    page = draw(noise(480, 480), found)
    assert page.size == (480, 480)
    # Much of the picture is still to be seen.
    assert (np.asarray(page) == np.asarray(noise(480, 480))).all(axis=-1).mean() > 0.2


def test_names_in_every_script(monkeypatch: pytest.MonkeyPatch) -> None:
    letters_for.cache_clear()
    assert letters_for("two\n lines", 3, 20)[0] == "two lines"
    with monkeypatch.context() as without_fonts:
        without_fonts.setattr(letters, "FONT_FILES", ())
        assert letters_for("狐", 3, 20)[0] == "#3"
        assert letters_for("fox", 3, 20)[0] == "fox"
    letters_for.cache_clear()
    for name in ("狐", "müde", "лиса"):  # as far as this machine has letters for them
        shown, font = letters_for(name, 3, 20)
        assert shown in (name, "#3")
        assert font.getlength(shown) > 0
    letters_for.cache_clear()


def test_boxes_are_saved_too(tmp_path: Path) -> None:
    path = save_drawing(noise(64, 64), boxes_of([[3, 3, 40, 40]], size_hw=(64, 64)), tmp_path, set())
    with Image.open(path) as drawing:
        assert drawing.size == (320, 320)
