"""The page that a run ends with: one HTML file that needs nothing else, to look at and to send on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from mobilenetv2.data.tree import open_tree
from mobilenetv2.evaluation import AnyEvaluation, DetectionEvaluation, SegmentationEvaluation
from mobilenetv2.files import write_aside
from mobilenetv2.training.page import commands, figures, text, whole_page
from mobilenetv2.training.recipe import Recipe
from mobilenetv2.training.report_classify import classify_figures, classify_sections
from mobilenetv2.training.report_detect import detect_figures, detect_sections
from mobilenetv2.training.report_segment import segment_figures, segment_sections

REPORT = "report.html"


def write_report(run: Path, recipe: Recipe, evaluation: AnyEvaluation, size_hw: tuple[int, int]) -> Path:
    """Write `report.html` into a run's folder from its `metrics.jsonl` and its evaluation; returns its path.

    size_hw: height and width of the network's input.
    Raises UserError if the pictures it shows are gone, or the page cannot be written.
    """
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    data = Path(evaluation.data)
    tree, model = open_tree(data), run / "model.safetensors"
    if isinstance(evaluation, DetectionEvaluation):
        numbers, sections = detect_figures(evaluation), detect_sections(evaluation, history, tree)
    elif isinstance(evaluation, SegmentationEvaluation):
        numbers, sections = segment_figures(evaluation), segment_sections(evaluation, history, tree)
    else:
        numbers, sections = classify_figures(evaluation), classify_sections(evaluation, history, tree)
    title = text(evaluation.model)
    height, width = size_hw
    size = f"{height}" if height == width else f"{height}x{width}"
    skipped = f" {evaluation.skipped:,} more could not be decoded and were left out." if evaluation.skipped else ""
    page = [
        f"<h1>{title}</h1>",
        f'<p class="quiet">MobileNetV2 {recipe.width} at {size} px, trained on {text(data.name)} by '
        f"the recipe {text(recipe.recipe)}. Measured on the {evaluation.images:,} pictures of "
        f"{text(evaluation.split)}, from the model file, by the runtime that predicts.{skipped}</p>",
        figures(numbers, model),
        *sections,
        "<h2>Use it</h2>",
        commands(model, data),
        "<h2>Recipe</h2>",
        '<p class="quiet">Every option, as it was resolved; change one with --set name=value.</p>',
        '<dl class="recipe">'
        + "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in asdict(recipe).items())
        + "</dl>",
    ]
    path = run / REPORT
    # Names of files need not be valid Unicode.
    write_aside(path, whole_page(title, page).encode(errors="replace"))
    return path
