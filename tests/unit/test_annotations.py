"""What all readers of annotations share: boxes that are checked, pictures that are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenetv2.data.annotations import checked_boxes, find_picture, pictures_by_name
from mobilenetv2.data.tree import FolderTree

SIZE_HW = (40, 60)


@pytest.mark.parametrize(
    ("edges", "kind"),
    [
        ([np.nan, 0, 5, 5], "not-a-number"),
        ([-np.inf, 0, np.inf, 5], "not-a-number"),
        ([9, 9, 2, 20], "wrong-order"),
        ([9, 9, 20, 2], "wrong-order"),
        ([5, 5, 5, 9], "no-area"),
        ([60, 0, 60.5, 4], "no-area"),
        # Thinner than what a float32 can tell.
        ([59, 39, 59 + 1e-8, 40], "no-area"),
        ([-1.5, 0, 5, 5], "outside-picture"),
        ([0, 0, 5, 41.5], "outside-picture"),
        ([1e300, 0, 1e301, 5], "outside-picture"),
    ],
)
def test_wrong_boxes_are_named_and_left_out(edges: list[float], kind: str) -> None:
    good = [1.0, 2.0, 3.0, 4.0]
    boxes, kept, problems = checked_boxes(np.array([good, edges, good]), SIZE_HW, ["a:1", "a:2", "a:3"])
    np.testing.assert_array_equal(boxes, [good, good])
    assert kept.tolist() == [0, 2]
    assert [(problem.id, problem.place) for problem in problems] == [(kind, "a:2")]


def test_up_to_a_pixel_is_rounding() -> None:
    boxes, _, problems = checked_boxes(np.array([[-1.0, -0.5, 61.0, 40.9]]), SIZE_HW, ["a"])
    np.testing.assert_array_equal(boxes, [[0, 0, 60, 40]])
    assert problems == []
    boxes, kept, _ = checked_boxes(np.empty((0, 4)), SIZE_HW, [])
    assert boxes.shape == (0, 4)
    assert (str(boxes.dtype), str(kept.dtype)) == ("float32", "int64")


@given(st.lists(st.tuples(*[st.floats()] * 4), max_size=8))
def test_what_is_kept_is_a_box_inside_the_picture(edges: list[tuple[float, ...]]) -> None:
    given_edges = np.array(edges, np.float64).reshape(-1, 4)
    boxes, kept, problems = checked_boxes(given_edges, SIZE_HW, [str(i) for i in range(len(edges))])
    assert len(kept) + len(problems) == len(edges)
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= (60, 40)).all()
    assert (np.abs(boxes - given_edges[kept]) <= 1.001).all()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("one/a.png", ["one/a.png"]),
        ("/home/me/two/a.png", ["two/a.png"]),
        ("D:\\set\\two\\a.png", ["two/a.png"]),
        ("../a.png", ["one/a.png", "two/a.png"]),
        ("elsewhere/b.JPG", ["one/b.JPG"]),
        ("one/c.png", []),
        ("one/notes.txt", []),
        ("", []),
        ("..", []),
    ],
)
def test_a_picture_is_found_by_the_end_of_its_path(path: str, found: list[str]) -> None:
    tree = FolderTree(Path("/"), ("one/a.png", "one/b.JPG", "one/notes.txt", "two/a.png"))
    assert find_picture(path, pictures_by_name(tree)) == found
