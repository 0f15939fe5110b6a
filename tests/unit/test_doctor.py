"""What `mobilenetv2 check` finds: each fault planted once, and found."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.data import doctor_pictures
from mobilenetv2.data.diagnosis import Diagnosis, Finding
from mobilenetv2.data.doctor import check
from mobilenetv2.data.folder import read_image_folder
from mobilenetv2.errors import DataError, UserError
from mobilenetv2.runtime.images import open_image


def encoded(
    kind: str = "png", mode: str = "RGB", seed: int = 0, size: tuple[int, int] = (40, 32), **options: Any
) -> bytes:
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(levels).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Nothing wrong with it."""
    root = tmp_path / "pets"
    seed = 0
    for split, count in (("train", 12), ("val", 3)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                seed += 1
                (root / split / name / f"{index}.png").write_bytes(encoded(seed=seed))
    return root


def put(root: Path, name: str, content: bytes) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


def only(diagnosis: Diagnosis) -> Finding:
    """The one finding there is."""
    (finding,) = diagnosis.findings
    return finding


def ids(diagnosis: Diagnosis) -> set[str]:
    return {finding.id for finding in diagnosis.findings}


def test_nothing_is_found_where_nothing_is_wrong(pets: Path) -> None:
    diagnosis = check(pets)
    assert diagnosis.findings == ()
    assert not diagnosis.has_errors
    assert diagnosis.to_dict() == {
        "data": str(pets),
        "task": "classify",
        "format": "image-folder",
        "images": 30,
        "classes": ["cat", "dog"],
        "splits": {"train": 24, "val": 6},
        "findings": [],
    }
    assert diagnosis.to_text() == (f"{pets}: 2 classes, 30 pictures (train 24, val 6)\n\nnothing wrong")


@pytest.mark.parametrize(
    ("content", "kind", "why"),
    [
        (b"", "empty-file", "0 bytes"),
        (b"this is a text", "not-a-picture", "is not a picture"),
        (encoded("jpeg", size=(200, 200))[:3000], "damaged", "truncated"),
        (png_that_claims(60_000, 60_000), "too-large", "60000x60000"),
    ],
)
def test_pictures_that_cannot_be_decoded(pets: Path, content: bytes, kind: str, why: str) -> None:
    put(pets, "train/cat/bad.jpg", content)
    diagnosis = check(pets)
    finding = only(diagnosis)
    assert (finding.id, finding.severity, finding.count) == (kind, "error", 1)
    assert finding.examples == ("train/cat/bad.jpg",)
    assert why in finding.text
    assert "in memory" not in finding.text
    assert diagnosis.has_errors
    assert diagnosis.images == 31


def test_a_file_that_the_system_does_not_give(pets: Path) -> None:
    (pets / "train/cat/gone.jpg").symlink_to(pets / "nowhere.jpg")
    assert only(check(pets)).id == "unreadable-file"


def test_many_faults_of_a_kind_are_one_finding_with_five_examples(pets: Path) -> None:
    for index in range(9):
        put(pets, f"val/dog/bad{index}.png", b"bad%d" % index)
    finding = only(check(pets))
    assert finding.count == 9
    assert finding.examples == tuple(f"val/dog/bad{index}.png" for index in range(5))
    text = check(pets).to_text()
    assert "val/dog/bad4.png, ..." in text
    assert text.endswith("1 error")


@pytest.mark.parametrize(
    ("name", "kind", "severity"),
    [
        ("stray.png", "no-class-folder", "error"),
        ("train/stray.png", "no-class-folder", "error"),
        ("bird/1.png", "beside-splits", "error"),
        ("val/bird/1.png", "unknown-class-in-val", "error"),
        ("test/bird/1.png", "unknown-class-in-test", "error"),
        ("train/labels.csv", "not-pictures", "note"),
    ],
)
def test_files_in_the_wrong_place(pets: Path, name: str, kind: str, severity: str) -> None:
    put(pets, name, encoded(seed=999))
    # A test folder of one class lacks the others too.
    (finding,) = (finding for finding in check(pets).findings if finding.id != "class-missing-in-test")
    assert (finding.id, finding.severity, finding.count) == (kind, severity, 1)
    expected = "bird" if kind.startswith("unknown") else name
    assert finding.examples == (expected,)


def test_hidden_files_are_not_worth_a_word(pets: Path) -> None:
    put(pets, "train/cat/.DS_Store", b"x")
    put(pets, "__MACOSX/train/cat/._1.png", b"x")
    assert check(pets).findings == ()


def test_classes_that_val_lacks(pets: Path) -> None:
    for index in range(10):
        put(pets, f"train/bird/{index}.png", encoded(seed=500 + index))
    finding = only(check(pets))
    assert (finding.id, finding.severity, finding.examples) == ("class-missing-in-val", "warning", ("bird",))


def test_empty_class_folders(pets: Path) -> None:
    for name in ("train/bird", "val/fish", "test", "notes"):
        (pets / name).mkdir()
    finding = only(check(pets))
    assert (finding.id, finding.severity) == ("empty-class-folder", "warning")
    assert finding.examples == ("test", "train/bird", "val/fish")


def test_empty_folders_of_classes_alone_and_behind_a_wrapping_folder(tmp_path: Path) -> None:
    for index in range(20):
        put(tmp_path, f"wrap/{'cat' if index < 10 else 'dog'}/{index}.png", encoded(seed=index))
    (tmp_path / "wrap/bird").mkdir()
    diagnosis = check(tmp_path)
    assert only(diagnosis).examples == ("wrap/bird",)
    assert diagnosis.splits == {"all": 20}


def test_one_class_only(tmp_path: Path) -> None:
    for index in range(10):
        put(tmp_path, f"cat/{index}.png", encoded(seed=index))
    assert only(check(tmp_path)).id == "one-class"


def test_few_pictures_and_imbalance(tmp_path: Path) -> None:
    for name, count in (("cat", 10), ("dog", 201), ("bird", 9)):
        for index in range(count):
            put(tmp_path, f"{name}/{index}.png", encoded(seed=1000 * len(name) + 7 * count + index, size=(32, 32)))
    few, imbalance = check(tmp_path).findings
    assert (few.id, few.examples) == ("few-pictures", ("bird (9)",))
    assert (imbalance.id, imbalance.examples) == ("imbalance", ("bird (9)", "cat (10)"))
    assert "'dog' (201)" in imbalance.text


def test_the_same_bytes_twice(pets: Path) -> None:
    content = (pets / "train/cat/0.png").read_bytes()
    put(pets, "train/cat/copy.png", content)
    finding = only(check(pets))
    assert (finding.id, finding.severity, finding.count) == ("duplicates", "warning", 1)
    assert finding.examples == ("train/cat/0.png = train/cat/copy.png",)


def test_the_same_bytes_in_two_splits(pets: Path) -> None:
    put(pets, "val/cat/copy.png", (pets / "train/cat/0.png").read_bytes())
    finding = only(check(pets))
    assert (finding.id, finding.severity, finding.count) == ("duplicates-across-splits", "warning", 1)


def test_the_same_bytes_in_two_classes(pets: Path) -> None:
    put(pets, "val/dog/copy.png", (pets / "train/cat/0.png").read_bytes())
    assert ids(check(pets)) == {"contradictory-labels", "duplicates-across-splits"}
    put(pets, "train/dog/copy.png", (pets / "train/cat/0.png").read_bytes())
    findings = {finding.id: finding for finding in check(pets).findings}
    assert set(findings) == {"contradictory-labels", "duplicates-across-splits", "duplicates"}
    assert all(finding.count == 1 for finding in findings.values())


def test_sizes(pets: Path) -> None:
    put(pets, "train/cat/tiny.png", encoded(size=(31, 200), seed=77))
    stream = io.BytesIO()
    Image.new("1", (8000, 6251)).save(stream, "png")
    put(pets, "train/cat/huge.png", stream.getvalue())
    findings = {finding.id: finding for finding in check(pets).findings}
    assert set(findings) == {"tiny", "huge", "not-rgb"}
    assert {findings["tiny"].severity, findings["not-rgb"].severity} == {"note"}
    assert findings["huge"].severity == "warning"
    assert findings["tiny"].examples == ("train/cat/tiny.png",)
    assert findings["huge"].examples == ("train/cat/huge.png",)


def test_notes(pets: Path) -> None:
    put(pets, "train/cat/grey.png", encoded(mode="L", seed=1))
    put(pets, "train/cat/print.jpg", encoded("jpeg", mode="CMYK", seed=2))
    exif = Image.Exif()
    exif[0x0112] = 6
    put(pets, "train/dog/turned.jpg", encoded("jpeg", seed=3, exif=exif))
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "png", save_all=True, append_images=frames[1:])
    put(pets, "train/dog/moving.png", stream.getvalue())
    diagnosis = check(pets)
    findings = {finding.id: finding for finding in diagnosis.findings}
    assert {finding.severity for finding in diagnosis.findings} == {"note"}
    assert not diagnosis.has_errors
    assert set(findings) == {"not-rgb", "turned", "animated"}
    assert findings["turned"].examples == ("train/dog/turned.jpg",)
    assert findings["animated"].examples == ("train/dog/moving.png",)
    assert "L 1" in findings["not-rgb"].text
    assert "CMYK 1" in findings["not-rgb"].text


# ---- It never fails for bad data, and is as strict as the training


def test_only_a_place_without_files_raises(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 no archive")
    for name, message in (
        ("nowhere", "no such folder"),
        ("empty", "is empty"),
        ("broken.zip", "is neither a folder nor"),
    ):
        with pytest.raises(DataError, match=f"{name}: {message}"):
            check(tmp_path / name)
    put(tmp_path, "texts/readme.txt", b"x")
    diagnosis = check(tmp_path / "texts")
    assert {finding.id: finding.severity for finding in diagnosis.findings} == {"no-pictures": "error"}
    assert (diagnosis.images, diagnosis.classes, diagnosis.splits) == (0, (), {})
    assert str(tmp_path / "texts") in diagnosis.to_text()


@pytest.mark.parametrize(
    "names",
    [
        ["readme.txt"],
        ["cat/1.png", "cat/2.png"],
        ["val/cat/1.png", "val/dog/1.png"],
        ["val/cat/1.png", "more/dog/1.png"],
        ["train/cat/1.png", "train/dog/1.png", "bird/1.png"],
        ["cat/1.png", "cat/2.png", "dog/1.png", "stray.png"],
        ["train/cat/1.png", "train/dog/1.png", "val/wolf/1.png"],
        ["cat/1.png", "dog/1.png"],
        ["cat/1.png", "cat/2.png", "dog/1.png"],
        ["train/cat/1.png", "train/dog/1.png", "val/dog/1.png"],
    ],
)
def test_there_is_an_error_exactly_where_the_training_would_refuse(tmp_path: Path, names: list[str]) -> None:
    for index, name in enumerate(names):
        put(tmp_path, name, encoded(seed=index))
    try:
        read_image_folder(tmp_path)
        refused = False
    except UserError:
        refused = True
    assert check(tmp_path).has_errors == refused


def test_an_archive_is_checked_as_its_folder(pets: Path, tmp_path: Path) -> None:
    put(pets, "train/cat/bad.png", b"bad")
    put(pets, "train/dog/copy.png", (pets / "val/cat/0.png").read_bytes())
    path = tmp_path / "pets.zip"
    with zipfile.ZipFile(path, "w") as file:
        for picture in pets.rglob("*.png"):
            file.write(picture, picture.relative_to(tmp_path))
    folder, zipped = check(pets), check(path)
    assert ids(folder) == ids(zipped) == {"not-a-picture", "contradictory-labels", "duplicates-across-splits"}
    assert folder.images == zipped.images
    assert zipped.findings[0].examples == ("pets/train/cat/bad.png",)


def test_findings_come_gravest_first_and_are_plain_json(pets: Path) -> None:
    put(pets, "train/cat/bad.png", b"bad")
    put(pets, "train/dog/copy.png", (pets / "train/dog/0.png").read_bytes())
    put(pets, "train/readme.txt", b"x")
    diagnosis = check(pets)
    assert [finding.severity for finding in diagnosis.findings] == ["error", "warning", "note"]
    findings = json.loads(json.dumps(diagnosis.to_dict()))["findings"]
    assert set(findings[0]) == {"id", "severity", "count", "examples", "text", "remedy"}
    assert diagnosis.to_text().endswith("\n\n1 error, 1 warning, 1 note")


def test_control_characters_in_names_do_not_reach_the_terminal(pets: Path) -> None:
    put(pets, "train/cat/\x1b[31mred\n.png", b"bad")
    text = check(pets).to_text()
    assert "\x1b" not in text
    assert "?[31mred?.png" in text


def test_names_that_are_no_text_reach_json_all_the_same(pets: Path) -> None:
    name = os.fsdecode(b"train/cat/caf\xe9.png")
    try:
        put(pets, name, b"bad")
    except OSError:
        pytest.skip("this file system takes only names that are text")
    diagnosis = check(pets)
    assert only(diagnosis).examples == (name,)
    content = json.dumps(diagnosis.to_dict(), ensure_ascii=False).encode()
    assert json.loads(content)["findings"][0]["examples"] == [r"train/cat/caf\udce9.png"]
    diagnosis.to_text().encode()


def test_of_huge_pictures_one_is_decoded_at_a_time(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_pictures, "HUGE_PIXELS", 40 * 32 - 1)
    decoding, most = 0, 0

    def open_one(content: bytes) -> Image.Image:
        nonlocal decoding, most
        decoding += 1
        most = max(most, decoding)
        time.sleep(0.002)
        decoding -= 1
        return open_image(content)

    monkeypatch.setattr(doctor_pictures, "open_image", open_one)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert only(check(pets)).count == 30
    assert most == 1
    monkeypatch.setattr(doctor_pictures, "HUGE_PIXELS", 40 * 32)
    check(pets)
    assert most > 1


def test_checking_needs_no_torch(pets: Path) -> None:
    code = f"import sys, mobilenetv2; mobilenetv2.check({str(pets)!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
