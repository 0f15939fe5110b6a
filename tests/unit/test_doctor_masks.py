"""What `check` says about masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_masked import damage, halves, mask, picture, root  # noqa: F401  the fixture is used by its name

from mobilenetv2.data.diagnosis import Diagnosis
from mobilenetv2.data.doctor import check
from mobilenetv2.data.shapes import write_shapes
from mobilenetv2.errors import DataError, UserError


def found(diagnosis: Diagnosis) -> dict[str, str]:
    return {finding.id: finding.severity for finding in diagnosis.findings}


def test_good_masks_are_counted(root: Path) -> None:  # noqa: F811
    diagnosis = check(root)
    assert (diagnosis.task, diagnosis.format, diagnosis.images) == ("segment", "index", 3)
    assert diagnosis.pixels == {"sky": 72, "road": 72, "car": 0}
    assert diagnosis.splits == {"train": 2, "val": 1}
    assert not diagnosis.has_errors
    notes = found(diagnosis)
    assert notes["ignored-classes"] == "note"
    assert notes["few-pictures"] == "warning"
    assert "144 pixels in INDEX form: sky 50.0%, road 50.0%, car 0.0%" in diagnosis.to_text()
    assert diagnosis.to_dict()["pixels"] == diagnosis.pixels


@pytest.mark.parametrize(
    ("kind", "id_"),
    [
        ("size-mismatch", "size-mismatch"),
        ("unknown-class", "unknown-class"),
        ("unknown-class-16", "unknown-class"),
        ("no-class-table", "no-class-table"),
        ("unknown-class-65534", "unknown-class"),
        ("unreadable-mask", "unreadable-mask"),
        ("no-picture", "unreadable-mask"),
        ("cut-off", "unreadable-mask"),
        ("grey-and-alpha", "unreadable-mask"),
        ("all-ignored", "all-ignored"),
        ("missing-file", "missing-file"),
        ("missing-mask", "missing-mask"),
        ("unreadable-picture", "unreadable-picture"),
    ],
)
def test_every_error_is_a_finding(root: Path, kind: str, id_: str) -> None:  # noqa: F811
    place = damage(root, kind)
    diagnosis = check(root)
    (finding,) = (one for one in diagnosis.findings if one.severity == "error")
    assert (finding.id, finding.count) == (id_, 1)
    assert finding.examples[0].startswith(place)
    assert finding.examples[0] in diagnosis.to_text()


def test_what_is_odd(root: Path) -> None:  # noqa: F811
    for number in range(6):
        picture(root / f"images/train/{number}.jpg", (60, 60))
        mask(root / f"masks/train/{number}.png", np.zeros((60, 60), np.uint8))
    mask(root / "masks/train/a.png", np.where(halves() > 0, 3, 0).astype(np.uint16))
    values = np.full((6, 8), 255, np.uint8)
    values[0, 0] = 0
    mask(root / "masks/train/b.png", values)
    picture(root / "images/val/d.jpg", (1, 1))
    mask(root / "masks/val/d.png", np.zeros((1, 1), np.uint8))
    Image.new("RGB", (40, 40)).save(root / "cover.png")
    diagnosis = check(root)
    notes = found(diagnosis)
    assert not diagnosis.has_errors
    for id_ in ("one-class", "16-bit-masks", "mostly-ignored", "not-annotated"):
        assert notes[id_] == "note", id_
    assert notes["class-missing-in-val"] == "warning"
    assert {finding.id: finding.examples for finding in diagnosis.findings}["class-missing-in-val"] == ("car",)


def test_a_class_that_is_next_to_never_there(root: Path) -> None:  # noqa: F811
    values = np.zeros((200, 200), np.uint8)
    values[0, 0] = 3
    picture(root / "images/train/a.jpg", (200, 200))
    mask(root / "masks/train/a.png", values)
    assert found(check(root))["imbalance"] == "warning"


def test_boxes_come_before_masks_unless_asked(tmp_path: Path) -> None:
    write_shapes(tmp_path, train=3, val=2, size_hw=(48, 48))
    assert check(tmp_path).task == "detect"
    diagnosis = check(tmp_path, task="segment")
    assert (diagnosis.task, diagnosis.format, diagnosis.images) == ("segment", "index", 5)
    with pytest.raises(UserError, match=r"task 'segmnt' is not known .did you mean 'segment'"):
        check(tmp_path, task="segmnt")


def test_nothing_for_the_task(tmp_path: Path) -> None:
    picture(tmp_path / "cat/a.jpg")
    assert check(tmp_path).task == "classify"
    with pytest.raises(DataError, match="holds no masks"):
        check(tmp_path, task="segment")


def test_without_training_masks(root: Path) -> None:  # noqa: F811
    for name in "ab":
        (root / f"masks/train/{name}.png").write_bytes(b"")
    ids = found(check(root))
    assert ids["no-train-split"] == ids["nothing-to-train-on"] == "error"
