"""A detector's page: what it shows, safe with any name, and the worst pictures first."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mobilenetv2 import plots
from mobilenetv2.data.annotations import BoxedPicture
from mobilenetv2.evaluation.box_metrics import box_metrics
from mobilenetv2.evaluation.detect import DetectionEvaluation
from mobilenetv2.plots import curves_png, pr_curves_png
from mobilenetv2.predictions import Detections, Timing
from mobilenetv2.training.recipes import DetectRecipe
from mobilenetv2.training.report import write_report

HOSTILE = "<script>alert('x')</script> & \"$x_1$\""
# Not every epoch is measured.
HISTORY = [
    {"epoch": 1, "loss": 2.0},
    {"epoch": 2, "loss": 1.0, "val_AP": 0.25, "val_AP50": 0.5},
    {"epoch": 3, "loss": 0.8},
    {"epoch": 4, "loss": 0.7, "val_AP": 0.125, "val_AP50": 0.4},
]
A, B, FAR = (10.0, 10.0, 30.0, 30.0), (50.0, 50.0, 90.0, 80.0), (0.0, 80.0, 10.0, 100.0)
Boxes = list[tuple[float, float, float, float]]


def boxed(name: str, boxes: Boxes, labels: list[int]) -> BoxedPicture:
    none = np.zeros(len(labels), bool)
    return BoxedPicture(
        name=name,
        size_hw=(100, 100),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        ignored=none,
        crowd=none,
        image_id=1,
    )


def detections(boxes: Boxes, labels: list[int], scores: list[float], names: tuple[str, ...]) -> Detections:
    return Detections(
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        scores=np.array(scores, np.float32),
        names=names,
        size_hw=(100, 100),
        source="",
        model="m",
        ms=Timing(decode=0, preprocess=0, network=0, postprocess=0),
    )


def measured(
    pictures: tuple[BoxedPicture, ...], found: tuple[Detections, ...], names: tuple[str, ...], data: Path = Path("data")
) -> DetectionEvaluation:
    return DetectionEvaluation(
        model="m",
        data=str(data),
        split="val",
        skipped=0,
        classes=names,
        metrics=box_metrics(pictures, found, names),
        pictures=pictures,
        found=found,
    )


def evaluation_of(data: Path, names: tuple[str, str]) -> DetectionEvaluation:
    """Three pictures: all right; one missed; two missed and one that hits nothing."""
    pictures = (boxed("1.png", [A], [0]), boxed("2.png", [A, B], [0, 1]), boxed("3.png", [A, B], [0, 1]))
    found = (
        detections([A], [0], [0.9], names),
        detections([A], [0], [0.8], names),
        detections([FAR], [1], [0.85], names),
    )
    return measured(pictures, found, names, data)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in HISTORY))
    (folder / "model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "data").mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (100, 100), (0, 90, 0)).save(tmp_path / f"data/{number}.png")
    return folder


def drawn(page: str) -> list[tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]]:
    """Names and pixels of the pictures under the plots."""
    found = re.findall(r'<figure><img alt="([^"]*)"[^>]* src="data:image/jpeg;base64,([^"]*)"', page)
    return [(name, np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))) for name, content in found]


def test_the_worst_picture_is_first_and_whole_ones_are_not_shown(run: Path) -> None:
    evaluation = evaluation_of(run.parent / "data", ("cell", "plate"))
    page = write_report(run, DetectRecipe(), evaluation, (64, 64)).read_text(encoding="utf-8")
    pictures = drawn(page)
    assert [name for name, _ in pictures] == ["3.png", "2.png"]
    assert '0 right, <span class="bad">1 wrong, 2 missed' in page
    assert '1 right, <span class="bad">0 wrong, 1 missed' in page
    for expected in ("cell", "plate", "-", "AP50", "class_loss", "5", "mobilenetv2 predict"):
        assert expected in page
    (_, worst), (_, better) = pictures
    scale = len(worst) / 100

    def near(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], x: float, y: float, colour: object) -> bool:
        """Whether a pixel about (x, y) of the picture has the colour, as JPEG keeps it."""
        row, column = round(y * scale), round(x * scale)
        some = pixels[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].reshape(-1, 3).astype(int)
        return bool((np.abs(some - np.array(colour)).max(axis=1) < 60).any())

    blue, orange, white = (86, 180, 233), (213, 94, 0), (255, 255, 255)
    assert near(better, 20, 30, blue)
    assert near(worst, 10, 90, orange)
    assert any(near(better, x, 80, white) for x in np.linspace(55, 85, 9))
    assert not any(near(worst, x, 30, blue) for x in np.linspace(12, 28, 9))


def test_names_are_text_and_nothing_else(run: Path) -> None:
    for names in ((HOSTILE, "\u732b"), ("line\nend \\frac{", "a" * 300)):
        evaluation = evaluation_of(run.parent / "data", names)
        page = write_report(run, DetectRecipe(), evaluation, (64, 64)).read_text(encoding="utf-8")
        assert "<script" not in page
    assert "a" * 300 in page


def test_a_model_that_finds_nothing_has_a_page(run: Path) -> None:
    pictures = evaluation_of(run.parent / "data", ("a", "b")).pictures
    none = tuple(detections([], [], [], ("a", "b")) for _ in pictures)
    evaluation = measured(pictures, none, ("a", "b"), run.parent / "data")
    page = write_report(run, DetectRecipe(), evaluation, (64, 64)).read_text(encoding="utf-8")
    assert "The model shows boxes" not in page
    assert len(drawn(page)) == 3


def pixels_of(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(np.int64)


def test_a_single_right_answer_is_a_line() -> None:
    found = detections([A], [0], [0.9], ("a",))
    pixels = pixels_of(pr_curves_png(measured((boxed("1.png", [A], [0]),), (found,), ("a",))))
    is_blue = (np.abs(pixels - (0, 114, 178)).max(axis=2) < 12).any(axis=0)
    # Across the axes, which are more than half of the picture; the legend's sample alone would be far less.
    assert is_blue.sum() > len(is_blue) / 2


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn instead of their PNGs."""
    made: list[Figure] = []

    def keep(figure: Figure) -> bytes:
        figure.draw_without_rendering()
        made.append(figure)
        return b""

    monkeypatch.setattr(plots, "to_png", keep)
    return made


@pytest.mark.parametrize(("count", "letters"), [(1, 1), (10, 24), (40, 300)])
def test_names_stand_beside_the_curves(figures: list[Figure], count: int, letters: int) -> None:
    labels = list(range(count))
    names = tuple(f"{index}{'m' * letters}" for index in labels)
    found = detections([A] * count, labels, [0.5] * count, names)
    pr_curves_png(measured((boxed("1.png", [A] * count, labels),), (found,), names))
    (axes,) = figures[0].axes
    legend = axes.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == len(axes.get_lines()) == min(count, 10)
    assert legend.get_window_extent().x0 > axes.get_window_extent().x1
    # However long the names, the curves keep their room.
    assert 0.8 < axes.get_window_extent().width / axes.get_window_extent().height < 2


def test_epochs_that_were_not_measured_have_no_point() -> None:
    assert curves_png(HISTORY) != curves_png([*HISTORY[:2], {**HISTORY[2], "val_AP": 0.2, "val_AP50": 0.4}, HISTORY[3]])


def test_no_axis_of_shares_is_below_0(figures: list[Figure]) -> None:
    for reached in (0.0, 0.001, 0.5):
        curves_png([{"epoch": 1, "loss": 2.0, "val_AP": reached, "val_AP50": reached}])
        assert figures[-1].axes[1].get_ylim()[0] >= 0
