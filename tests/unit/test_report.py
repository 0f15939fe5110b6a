"""The report page, and the plots in it: whole, safe with any name, and needing nothing else."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.errors import MissingExtraError
from mobilenetv2.evaluation.classify import Answer, Evaluation
from mobilenetv2.plots import confusion_png, curves_png
from mobilenetv2.training.recipes import ClassifyRecipe
from mobilenetv2.training.report import write_report

HOSTILE = "<script>alert('x')</script> & \"$x_1$\""
HISTORY = [
    {"epoch": n, "loss": 2 / n, "learning_rate": 0.001, "seconds": 1.0, "val_top1": 1 - 0.5 / n, "val_loss": 1 / n}
    for n in range(1, 6)
]
VOID = {"meta", "img", "br"}


def evaluation_of(classes: tuple[str, ...], data: str = "data", *, perfect: bool = False) -> Evaluation:
    random = np.random.default_rng(len(classes))
    confusion = np.diag(random.integers(10, 60, len(classes))).astype(np.int64)
    if not perfect:
        confusion += random.integers(0, 3, confusion.shape)
        confusion[1] = 0
    images = int(confusion.sum())
    top1 = int(confusion.trace()) / images
    mistakes = () if perfect else (Answer(image="a/1.png", true=classes[0], predicted=classes[1], score=0.83),)
    return Evaluation(
        model=f"model {classes[0]}",
        data=data,
        split="val",
        images=images,
        skipped=0,
        top1=top1,
        top5=0.98765,
        classes=classes,
        confusion=confusion,
        mistakes=mistakes,
        examples=(Answer(image="a/2.jpg", true=classes[0], predicted=classes[0], score=0.97),),
    )


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class number {index}" for index in range(count))


class Reader(HTMLParser):
    """Tags in order, checked to be nested rightly, and what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "poster")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag == "img":
            assert dict(attrs)["alt"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with metrics and a model file, beside data with two pictures."""
    folder = tmp_path / "runs/it's mine"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in HISTORY))
    (folder / "model.safetensors").write_bytes(bytes(2_500_000))
    pictures = tmp_path / "data/a"
    pictures.mkdir(parents=True)
    Image.new("RGB", (8, 8), (200, 0, 0)).save(pictures / "1.png")
    Image.new("RGB", (800, 500), (0, 0, 200)).save(pictures / "2.jpg")
    return folder


def report(run: Path, evaluation: Evaluation) -> tuple[str, Reader]:
    path = write_report(run, ClassifyRecipe(), evaluation, (64, 64))
    assert path == run / "report.html"
    page = path.read_text(encoding="utf-8")
    return page, read(page)


def data_of(run: Path) -> str:
    return str(run.parents[1] / "data")


def test_it_needs_nothing_else(run: Path) -> None:
    page, reader = report(run, evaluation_of(names(10), data_of(run)))
    assert len(reader.addresses) == 4
    for address in reader.addresses:
        kind, content = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", address).groups()  # type: ignore[union-attr]
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert picture.format == kind.upper()
            picture.load()
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert "url(" not in page
    assert "@import" not in page
    assert "prefers-color-scheme: dark" in page
    assert len(page) < 2_000_000


def test_it_says_what_was_measured(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parents[1])
    evaluation = evaluation_of(names(10), data_of(run))
    _, reader = report(run, evaluation)
    text = " ".join(reader.words)
    for expected in (
        f"{evaluation.top1:.2%}",
        "98.77%",
        f"{evaluation.images:,}",
        "2.5 MB",
        "says class number 1 83%",
        "97%",
        "head_learning_rate",
    ):
        assert expected in text.replace("  ", " ")
    # Commands that can be pasted into a shell where the training was started.
    assert "mobilenetv2 predict photo.jpg --model 'runs/it'\"'\"'s mine/model.safetensors'" in text
    assert "mobilenetv2 evaluate 'runs/it'\"'\"'s mine/model.safetensors' --data data" in text


def test_names_are_text_and_nothing_else(run: Path) -> None:
    page, reader = report(run, evaluation_of((HOSTILE, "猫", "b"), data_of(run)))
    assert "<script" not in page
    assert "script" not in reader.tags
    assert any(HOSTILE in words for words in reader.words)
    assert any("猫" in words for words in reader.words)


def test_thumbnails_are_small_and_tiny_pictures_stay_exact(run: Path) -> None:
    page, _ = report(run, evaluation_of(names(3), data_of(run)))
    pictures = re.findall(r'<figure><img([^>]*) src="data:image/(\w+);base64,([^"]*)"', page)
    sizes = {}
    for attributes, kind, content in pictures:
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            sizes[kind] = (picture.size, "pixels" in attributes)
    assert sizes == {"png": ((8, 8), True), "jpeg": ((160, 100), False)}


def test_without_a_mistake_there_is_no_section_of_mistakes(run: Path) -> None:
    page, _ = report(run, evaluation_of(names(4), data_of(run), perfect=True))
    assert "mistakes" not in page
    assert "every answer was right" in page
    # Of four classes, five best are all.
    assert "top-5" not in page


def test_many_classes_are_folded_weakest_first(run: Path) -> None:
    evaluation = evaluation_of(names(60), data_of(run))
    _, reader = report(run, evaluation)
    assert reader.tags.count("details") == 1
    assert reader.tags.count("tr") == 60 + 2
    weakest = min((m for m in evaluation.per_class if m.recall is not None), key=lambda m: m.recall or 0)
    shown = [words for words in reader.words if words in evaluation.classes]
    assert shown[0] == weakest.name
    # The class without pictures has no recall, and closes the table.
    assert shown[59] == "class number 1"


def test_an_old_report_is_replaced_whole(run: Path) -> None:
    (run / "report.html").write_text("old")
    report(run, evaluation_of(names(3), data_of(run)))
    assert sorted(file.name for file in run.iterdir()) == ["metrics.jsonl", "model.safetensors", "report.html"]


# ---- Plots


@pytest.mark.parametrize("count", [2, 20, 100, 101])
def test_a_confusion_matrix_of_any_size(count: int) -> None:
    with Image.open(io.BytesIO(confusion_png(evaluation_of(names(count))))) as picture:
        assert picture.format == "PNG"
        assert 300 < picture.width < 5000
        # Square cells and room for names: never a sliver.
        assert 0.6 < picture.width / picture.height < 1.7


def test_names_that_a_plot_cannot_draw_do_not_warn() -> None:
    # Warnings are errors here: missing letters and formulas that do not parse would raise.
    for classes in (("猫", "犬", "鳥"), ("$x", "$\\frac{", "a$b$c"), ("a" * 300, "line\nend", "\t")):
        confusion_png(evaluation_of(classes))


def test_the_matrix_shows_shares_of_rows() -> None:
    """A row of few pictures is as dark as one of many; a row of none is grey."""
    confusion = np.array([[1000, 0, 0], [0, 3, 0], [0, 0, 0]], np.int64)
    base = evaluation_of(names(3), perfect=True)
    values = {name: getattr(base, name) for name in base.__dataclass_fields__}
    with Image.open(io.BytesIO(confusion_png(Evaluation(**{**values, "confusion": confusion})))) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    dark = np.abs(pixels.astype(int) - (8, 48, 107)).sum(1) < 12
    grey = np.abs(pixels.astype(int) - (228, 228, 231)).sum(1) < 6
    # Two dark cells (less their numbers) against one row of three grey ones.
    assert 0.5 < dark.sum() / grey.sum() < 0.75


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_curves_of_any_length(epochs: int) -> None:
    with Image.open(io.BytesIO(curves_png(HISTORY[:epochs]))) as picture:
        assert picture.width > 2 * picture.height


def test_plots_leave_no_global_state() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    confusion_png(evaluation_of(names(3)))
    curves_png(HISTORY)
    assert dict(mpl.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"mobilenetv2\[train\]"):
        curves_png(HISTORY)
