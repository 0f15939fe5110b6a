"""What `check` says about pictures with boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_voc import box, devkit, xml

from mobilenetv2.data.diagnosis import Diagnosis, Finding
from mobilenetv2.data.doctor import check
from mobilenetv2.data.shapes import write_shapes


def find(diagnosis: Diagnosis, id_: str) -> Finding:
    (found,) = [finding for finding in diagnosis.findings if finding.id == id_]
    return found


def noise(path: Path, seed: int, size_wh: tuple[int, int] = (320, 320)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size_wh[1], size_wh[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def annotated(folder: Path, boxes: dict[str, list[tuple[str, list[float]]]], classes: list[str]) -> Path:
    """COCO JSON of one split in 320x320 pictures."""
    images, annotations = [], []
    for number, (name, some) in enumerate(boxes.items(), 1):
        noise(folder / "train" / name, number)
        images.append({"id": number, "file_name": name, "width": 320, "height": 320})
        annotations += [{"image_id": number, "category_id": classes.index(c), "bbox": b} for c, b in some]
    categories = [{"id": index, "name": name} for index, name in enumerate(classes)]
    values = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(values))
    return folder


def test_good_data_is_counted(tmp_path: Path) -> None:
    write_shapes(tmp_path, train=40, val=8)
    diagnosis = check(tmp_path)
    assert (diagnosis.task, diagnosis.format, diagnosis.images) == ("detect", "coco", 48)
    assert diagnosis.splits == {"train": 40, "val": 8}
    assert not diagnosis.has_errors
    # Its masks are for another task.
    assert "not-annotated" not in {finding.id for finding in diagnosis.findings}
    values = diagnosis.to_dict()
    assert values["task"] == "detect"
    assert values["boxes"] == diagnosis.boxes
    assert diagnosis.boxes is not None
    assert (
        f"{sum(diagnosis.boxes.values()):,} boxes in COCO form: disc {diagnosis.boxes['disc']}" in diagnosis.to_text()
    )


def test_every_problem_is_grouped_with_file_and_line(tmp_path: Path) -> None:
    texts = {
        "a": xml(box("x", 10, 10, 90, 20) + box("x", 10, 10, 95, 20)),
        "b": "<annotation>\n<",
        "c": xml(box("x", 2, 2, 9, 9)),
    }
    diagnosis = check(devkit(tmp_path, texts))
    outside = find(diagnosis, "outside-picture")
    assert (outside.severity, outside.count) == ("error", 2)
    assert outside.examples[0].startswith("Annotations/a.xml: object 1: box 9, 9, 90, 20")
    assert "--skip-bad" in outside.remedy
    assert find(diagnosis, "malformed").examples[0].startswith("Annotations/b.xml:2: is not whole XML")
    assert diagnosis.has_errors


def test_boxes_drawn_twice_tiny_and_rare(tmp_path: Path) -> None:
    many = [("a", [float(10 + 5 * i), 20.0, 60.0, 60.0]) for i in range(30)]
    boxes = {
        "one.png": [*many, ("a", [10.2, 20.0, 60.0, 60.0]), ("b", [100.0, 100.0, 2.0, 50.0])],
        "two.png": [],
        "three.png": [("a", [50.0, 50.0, 100.0, 100.0]), ("b", [50.0, 50.0, 100.0, 100.0])],
    }
    diagnosis = check(annotated(tmp_path, boxes, ["a", "b"]))
    # The same place in two classes is no repetition.
    assert find(diagnosis, "boxes-twice").examples == ("train/one.png (a)",)
    assert find(diagnosis, "tiny-boxes").count == 1
    assert find(diagnosis, "few-boxes").examples == ("b (2)",)
    assert find(diagnosis, "no-boxes").examples == ("train/two.png",)
    noise(tmp_path / "train/four.png", 9)
    assert find(check(tmp_path), "not-annotated").examples == ("train/four.png",)


def test_boxes_that_no_anchor_reaches_are_counted_by_size(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    thin = [("a", [float(x), float(y), 150.0, 9.0]) for x, y in random.uniform(0, 160, (40, 2))]
    large = [("a", [float(x), float(y), 120.0, 120.0]) for x, y in random.uniform(0, 190, (40, 2))]
    diagnosis = check(annotated(tmp_path, {"thin.png": thin, "large.png": large}, ["a"]))
    missed = find(diagnosis, "anchors-miss-boxes")
    assert missed.count == 40
    assert "40 of 80 training boxes overlap no default anchor by 0.5" in missed.text
    assert "medium 0.0% of 40, large 100.0% of 40" in missed.text
    assert "Train with --anchors fit, which reaches" in missed.remedy
    assert "instead of 50.0%" in missed.remedy
    assert missed.examples == ("train/thin.png (40)",)
    only_large = annotated(tmp_path / "large", {"large.png": large}, ["a"])
    assert "anchors-miss-boxes" not in {finding.id for finding in check(only_large).findings}


def test_splits_and_pictures_are_looked_at_too(tmp_path: Path) -> None:
    folder = devkit(tmp_path, {"a": xml(box("x", 2, 2, 9, 9)), "b": xml(box("y", 2, 2, 9, 9)), "c": xml("")})
    (folder / "JPEGImages/b.png").write_bytes(b"no picture")
    diagnosis = check(folder)
    assert find(diagnosis, "not-a-picture").examples == ("JPEGImages/b.png",)
    assert find(diagnosis, "class-missing-in-val").count == 2
    # The devkit's pictures are all black, and so the same.
    assert find(diagnosis, "duplicates-across-splits").count == 1


def test_the_real_thing(shared_data: Path) -> None:
    diagnosis = check(shared_data / "bccd.zip")
    assert diagnosis.boxes == {"Platelets": 292, "RBC": 3350, "WBC": 301}
    assert find(diagnosis, "tiny-boxes").count == 2
    missed = find(diagnosis, "anchors-miss-boxes")
    assert missed.count == 213
    assert missed.text.count("%") == 3


@pytest.mark.parametrize("name", ["a", "ö", "b c"])
def test_names_of_any_kind(tmp_path: Path, name: str) -> None:
    diagnosis = check(annotated(tmp_path, {f"{name}.png": [(name, [5.0, 5.0, 40.0, 40.0])]}, [name]))
    assert diagnosis.classes == (name,)
    json.dumps(diagnosis.to_dict())


def test_every_problem_of_a_reader_has_words(tmp_path: Path) -> None:
    """One of each kind: a kind without words would end the check."""
    noise(tmp_path / "a.png", 0, (60, 40))
    noise(tmp_path / "b.png", 1, (60, 40))
    images = [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}, {"id": 2, "file_name": "a.png"}]
    images += [{"id": 3, "file_name": "b.png", "width": 1, "height": 1}, {"id": 4, "file_name": "c.png"}]
    boxes = [["x", 1, 1, 1], [1, 1, -1, 1], [1, 1, 0, 1], [1, 1, 90, 1], [1, 1, 9, 9]]
    annotations = [{"image_id": 1, "category_id": 1, "bbox": box} for box in boxes]
    annotations += [{"image_id": 9}, {"image_id": 1, "category_id": 9}]
    values = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}, {}]}
    (tmp_path / "boxes.json").write_text(json.dumps(values))
    diagnosis = check(tmp_path)
    found = {finding.id for finding in diagnosis.findings if finding.severity == "error"}
    assert found == {
        "malformed",
        "duplicate-id",
        "listed-twice",
        "size-mismatch",
        "missing-file",
        "not-a-number",
        "wrong-order",
        "no-area",
        "outside-picture",
        "unknown-image",
        "unknown-class",
    }
    assert all(finding.examples[0].startswith("boxes.json: ") for finding in diagnosis.findings if finding.id in found)
