"""A segmenter's page: each of the worst pictures beside its mask and what was found, in colours that a legend names."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2 import plots
from mobilenetv2.data.masked import read_mask, read_masks_of_split
from mobilenetv2.evaluation.mask_metrics import boundary_counts, boundary_f, confusion, mask_metrics
from mobilenetv2.evaluation.segment import PictureMask, SegmentationEvaluation
from mobilenetv2.plots import confusion_png, curves_png
from mobilenetv2.runtime.draw_masks import colours
from mobilenetv2.training.recipes import SegmentRecipe
from mobilenetv2.training.report import write_report

HOSTILE = "<script>alert('x')</script> & \"$x_1$\""
NAMES = ("sky", "road", "car")
HISTORY = [
    {"epoch": 1, "loss": 2.0},
    {"epoch": 2, "loss": 1.0, "val_miou": 0.25, "val_pixel_accuracy": 0.5},
    {"epoch": 3, "loss": 0.8},
    {"epoch": 4, "loss": 0.7, "val_miou": 0.5, "val_pixel_accuracy": 0.75},
]
# Upper half sky, lower half road, and a strip that nobody knows.
TRUE = np.zeros((40, 60), np.uint8)
TRUE[20:], TRUE[:, 55:] = 1, 3


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in HISTORY))
    (folder / "model.safetensors").write_bytes(bytes(1000))
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind / "val").mkdir(parents=True)
    for number in (1, 2, 3):
        Image.new("RGB", (60, 40), (0, 90, 0)).save(tmp_path / f"data/images/val/{number}.png")
        Image.fromarray(TRUE).save(tmp_path / f"data/masks/val/{number}.png")
    (tmp_path / "data/classes.txt").write_text("sky\nroad\ncar\nvoid\n")
    return folder


def evaluation_of(
    data: Path, names: tuple[str, ...] = NAMES, *, wrong: tuple[int, ...] = (0, 4, 12)
) -> SegmentationEvaluation:
    """On each picture the first rows of the sky are found as road."""
    tree, split, pictures = read_masks_of_split(data, NAMES)
    total, boundaries, worst = np.zeros((len(names), len(names)), np.int64), [], []
    for picture, rows in zip(pictures, wrong, strict=True):
        true = read_mask(tree, picture)
        found = (np.arange(40)[:, None] >= 20).astype(np.uint8).repeat(60, 1)
        found[:rows] = 1
        counts = confusion(true, found, len(names))
        total += counts
        boundaries.append(boundary_f(boundary_counts(true, found, len(names))))
        worst.append(PictureMask(picture=picture, found=found, miou=1 - rows / 20, pixel_accuracy=1 - rows / 40))
    return SegmentationEvaluation(
        model="m",
        data=str(data),
        split=split,
        images=len(pictures),
        skipped=0,
        classes=names,
        metrics=mask_metrics(total, np.stack(boundaries), names),
        confusion=total,
        worst=tuple(sorted(worst, key=lambda one: one.miou)),
    )


def drawn(page: str) -> list[tuple[str, NDArray[np.uint8]]]:
    """Names and RGBA pixels of the pictures under the plots."""
    found = re.findall(r'<img alt="([^"]*)" title="[^"]*" src="data:image/\w+;base64,([^"]*)"', page)
    return [
        (name, np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA"))) for name, content in found
    ]


def test_the_worst_picture_is_first_and_whole_ones_are_not_shown(run: Path) -> None:
    page = write_report(run, SegmentRecipe(), evaluation_of(run.parent / "data"), (321, 481)).read_text("utf-8")
    pictures = drawn(page)
    assert [name for name, _ in pictures] == [
        f"images/val/{number}.png: {what}" for number in (3, 2) for what in ("picture", "mask", "found")
    ]
    assert 'mIOU 40.0%, <span class="bad">30.0% of the pixels wrong' in page
    for expected in ("mIOU", "boundary F", "MobileNetV2 1.0 at 321x481 px", "mobilenetv2 predict", "sky for road"):
        assert expected in page
    sky, road, car = colours(3).tolist()
    mask, found = pictures[1][1], pictures[2][1]
    assert mask.shape == found.shape == (40, 60, 4)
    assert mask[10, 10].tolist() == [*sky, 255]
    assert mask[30, 10].tolist() == [*road, 255]
    # Nothing is drawn where nothing is known.
    assert (mask[:, 55:, 3] == 0).all()
    assert (mask[:, :55, 3] == 255).all()
    assert (found[:12, :, :3] == road).all()
    assert (found[12:20, :, :3] == sky).all()
    # The legend names what is there, and nothing else.
    legend = page[page.index('<ul class="legend">') : page.index("</ul>")]
    assert re.findall(r"</span>([^<]*)</li>", legend) == ["sky", "road", "ignored, does not count"]
    assert f"rgb({','.join(map(str, sky))})" in legend
    assert f"rgb({','.join(map(str, car))})" not in legend


def test_the_weakest_class_is_first_and_what_is_nowhere_last(run: Path) -> None:
    page = write_report(run, SegmentRecipe(), evaluation_of(run.parent / "data"), (64, 64)).read_text("utf-8")
    assert re.findall(r"<tr><td>(\w+)</td>", page) == ["sky", "road", "car"]
    row = page[page.index("<tr><td>car</td>") :]
    assert re.findall(r'<td class="number">([^<]*)</td>', row)[:5] == ["0.0%", "-", "-", "-", "-"]


def test_names_are_text_and_nothing_else(run: Path) -> None:
    for names in ((HOSTILE, "猫", "c"), ("line\nend \\frac{", "a" * 300, "c")):
        page = write_report(run, SegmentRecipe(), evaluation_of(run.parent / "data", names), (64, 64)).read_text(
            "utf-8"
        )
        assert "<script" not in page
    assert "a" * 300 in page


def test_a_model_that_is_always_right_has_a_page(run: Path) -> None:
    evaluation = evaluation_of(run.parent / "data", wrong=(0, 0, 0))
    page = write_report(run, SegmentRecipe(), evaluation, (64, 64)).read_text("utf-8")
    assert "every pixel was right" in page
    assert "lowest mIOU" not in page
    assert drawn(page) == []
    assert "at 64 px" in page


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


def test_cells_are_shares_of_pixels(run: Path, figures: list[Figure]) -> None:
    confusion_png(evaluation_of(run.parent / "data", wrong=(0, 0, 12)))
    axes = figures[0].axes[0]
    # 660 of 3,300 pixels of sky; the class without pixels has no shares.
    assert [(cell.get_position(), cell.get_text()) for cell in axes.texts] == [
        ((0, 0), "80"),
        ((1, 0), "20"),
        ((1, 1), "100"),
    ]
    assert axes.get_title(loc="left") == "Pixels by class, 3 pictures"


def test_both_measures_have_a_curve(figures: list[Figure]) -> None:
    curves_png(HISTORY)
    measures = figures[0].axes[1]
    labels = [text.get_text() for text in measures.get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == ["mIOU, best: 50.00 % in epoch 4", "pixel accuracy"]
