"""The page that a run ends with: one HTML file that needs nothing else, to look at and to send on."""

from __future__ import annotations

import base64
import html
import io
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from mobilenetv2.data.tree import Tree, decode, open_tree
from mobilenetv2.evaluation import Answer, ClassMetrics, Evaluation
from mobilenetv2.files import write_aside
from mobilenetv2.plots import DPI, confusion_png, curves_png
from mobilenetv2.training.recipes import Recipe

REPORT = "report.html"
THUMBNAIL_PX = 160
PIXELATED_BELOW_PX = 80
ANSWERS_SHOWN = 12
CLASSES_OPEN = 20  # more are folded away

_STYLE = """
:root { --ink: #18181b; --quiet: #63636b; --line: #e4e4e7; --paper: #ffffff; --card: #f4f4f5; --good: #005b8f;
  --bad: #b03a06; --bar: #7fb2d6; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #f4f4f5; --quiet: #a1a1aa; --line: #3f3f46; --paper: #18181b;
  --card: #27272a; --good: #6cbcec; --bad: #fb923c; --bar: #2b6c99; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3.5rem 1.5rem 5rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 3.5rem 0 .3rem; letter-spacing: -.005em; }
h3 { font-size: 1rem; margin: 2rem 0 .5rem; }
p { margin: 0 0 1rem; max-width: 42rem; overflow-wrap: anywhere; } .quiet { color: var(--quiet); }
dl.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); margin: 2rem 0 0;
  border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); padding: 1.1rem 0; gap: 1rem; }
.figures div { display: flex; flex-direction: column-reverse; }
.figures dt { font-size: .85rem; color: var(--quiet); }
.figures dd { margin: 0; font-size: 1.9rem; font-weight: 600; line-height: 1.2; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.plot { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: .8rem 0 0;
  width: fit-content; max-width: 100%; overflow-x: auto; }
.plot img { display: block; max-width: 100%; height: auto; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.4rem, 1fr)); gap: 1.4rem 1rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 6px;
  background: var(--card); }
img.pixels { image-rendering: pixelated; }
figcaption { font-size: .82rem; line-height: 1.4; margin-top: .4rem; overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
table.wide { width: 100%; }
th { text-align: left; font-weight: 500; color: var(--quiet); } td:first-child { overflow-wrap: anywhere; }
th, td { padding: .35rem 2rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; white-space: nowrap; }
.meter { width: 30%; min-width: 8rem; }
td.meter span { display: block; height: .55rem; border-radius: 2px; background: var(--bar); }
summary { cursor: pointer; color: var(--quiet); padding: .7rem 0; }
dl.recipe { columns: 17rem; column-gap: 2.5rem; font-size: .88rem; margin: .8rem 0 0; }
dl.recipe div { display: flex; justify-content: space-between; gap: 1rem; break-inside: avoid; padding: .22rem 0;
  border-bottom: 1px solid var(--line); }
.recipe dt { color: var(--quiet); } .recipe dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; }
pre { background: var(--card); border-radius: 8px; padding: .9rem 1.1rem; overflow-x: auto; margin: .6rem 0 1rem;
  font: .86rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media (max-width: 40rem) { .meter { display: none; } th, td { padding-right: 1.2rem; } }
@media print { body { padding: 0; max-width: none; } .plot, figure, tr { break-inside: avoid; } }
"""


def write_report(run: Path, recipe: Recipe, evaluation: Evaluation) -> Path:
    """Write `report.html` into a run's folder from its `metrics.jsonl` and its evaluation; returns its path.

    Raises UserError if the pictures it shows are gone, or the page cannot be written.
    """
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    data = Path(evaluation.data)
    tree = open_tree(data)
    title = _text(evaluation.model)
    skipped = f" {evaluation.skipped:,} more could not be decoded and were left out." if evaluation.skipped else ""
    sections = [
        f"<h1>{title}</h1>",
        f'<p class="quiet">MobileNetV2 {recipe.width} at {recipe.resolution} px, trained on {_text(data.name)} by '
        f"the recipe {_text(recipe.recipe)}. Measured on the {evaluation.images:,} pictures of "
        f"{_text(evaluation.split)}, from the model file, by the runtime that predicts.{skipped}</p>",
        _figures(evaluation, run / "model.safetensors"),
        "<h2>Training</h2>",
        '<p class="quiet">The training loss is taken of augmented pictures and smoothed labels, so it may lie above '
        "the other. The epoch with the ring is the one that was kept.</p>",
        _plot(curves_png(history), "Loss and top-1 by epoch"),
        "<h2>What is taken for what</h2>",
        _confusions(evaluation),
        _plot(confusion_png(evaluation), "Confusion matrix: what pictures show by what the model says"),
        "<h2>Class by class</h2>",
        '<p class="quiet">Recall is the share of a class that was found, precision the share of the answers '
        "naming it that were right, F1 their harmonic mean. Lowest recall first.</p>",
        _classes(evaluation.per_class),
    ]
    if evaluation.mistakes:
        sections += [
            "<h2>The mistakes it was surest of</h2>",
            '<p class="quiet">Look here for wrong labels, and for what the training pictures lack.</p>',
            _grid(tree, evaluation.mistakes[:ANSWERS_SHOWN]),
        ]
    if evaluation.examples:
        sections += [
            "<h2>Right answers</h2>",
            '<p class="quiet">The first one of each class, with how sure the model was.</p>',
            _grid(tree, evaluation.examples[:ANSWERS_SHOWN]),
        ]
    sections += [
        "<h2>Use it</h2>",
        _commands(run / "model.safetensors", data),
        "<h2>Recipe</h2>",
        '<p class="quiet">Every option, as it was resolved; change one with --set name=value.</p>',
        '<dl class="recipe">'
        + "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in asdict(recipe).items())
        + "</dl>",
    ]
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        "<body>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )
    path = run / REPORT
    # Names of files need not be valid Unicode.
    write_aside(path, page.encode(errors="replace"))
    return path


def _text(value: object) -> str:
    return html.escape(str(value))


def _inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _plot(png: bytes, alternative: str) -> str:
    with Image.open(io.BytesIO(png)) as picture:
        width = picture.width * 96 // DPI
    return f'<div class="plot"><img width="{width}" alt="{_text(alternative)}" src="{_inline(png, "png")}"></div>'


def _figures(evaluation: Evaluation, model: Path) -> str:
    figures = [
        ("top-1", f"{evaluation.top1:.2%}"),
        # Of five classes or fewer it is always all.
        *([("top-5", f"{evaluation.top5:.2%}")] if len(evaluation.classes) > 5 else []),
        ("pictures measured", f"{evaluation.images:,}"),
        ("classes", f"{len(evaluation.classes):,}"),
        ("model file", f"{model.stat().st_size / 1e6:.1f} MB"),
    ]
    return (
        '<dl class="figures">'
        + "".join(f"<div><dt>{what}</dt><dd>{number}</dd></div>" for what, number in figures)
        + "</dl>"
    )


def _confusions(evaluation: Evaluation) -> str:
    confusions = evaluation.confusions(3)
    if not confusions:
        return '<p class="quiet">Nothing: every answer was right.</p>'
    listed = ", ".join(f"{_text(true)} for {_text(said)} ({count:,})" for true, said, count in confusions)
    return (
        f'<p class="quiet">Most often: {listed}. Numbers are pictures; colours are shares of a row, '
        "so the diagonal is the recall. Rows without pictures are grey.</p>"
    )


def _grid(tree: Tree, answers: Sequence[Answer]) -> str:
    return '<div class="grid">' + "".join(_answer(tree, answer) for answer in answers) + "</div>"


def _answer(tree: Tree, answer: Answer) -> str:
    picture = decode(tree, answer.image)
    # Tiny pictures keep their pixels, and their exact levels.
    is_tiny = max(picture.size) < PIXELATED_BELOW_PX
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    stream = io.BytesIO()
    kind = "png" if is_tiny else "jpeg"
    picture.save(stream, kind, quality=85)
    if answer.true == answer.predicted:
        caption = f'{_text(answer.true)} <span class="good">{answer.score:.0%}</span>'
    else:
        said = f'<span class="bad">says {_text(answer.predicted)} {answer.score:.0%}</span>'
        caption = f"{_text(answer.true)}<br>{said}"
    return (
        f'<figure><img{" class=pixels" if is_tiny else ""} alt="{_text(answer.image)}" title="{_text(answer.image)}" '
        f'src="{_inline(stream.getvalue(), kind)}"><figcaption>{caption}</figcaption></figure>'
    )


def _classes(classes: Sequence[ClassMetrics]) -> str:
    """Weakest first; classes that have no pictures last."""
    ordered = sorted(classes, key=lambda metrics: 2 if metrics.recall is None else metrics.recall)
    rows = [_class_row(metrics) for metrics in ordered]
    if len(rows) <= CLASSES_OPEN:
        return _class_table(rows)
    rest = _class_table(rows[CLASSES_OPEN:])
    more = f"<details><summary>the other {len(rows) - CLASSES_OPEN:,} classes</summary>{rest}</details>"
    return _class_table(rows[:CLASSES_OPEN]) + more


def _class_row(metrics: ClassMetrics) -> str:
    shares = (metrics.recall, metrics.precision, metrics.f1)
    numbers = [f"{metrics.images:,}", *("-" if share is None else f"{share:.1%}" for share in shares)]
    return (
        f"<tr><td>{_text(metrics.name)}</td>"
        + "".join(f'<td class="number">{number}</td>' for number in numbers)
        + f'<td class="meter"><span style="width:{metrics.recall or 0:.1%}"></span></td></tr>'
    )


def _class_table(rows: Iterable[str]) -> str:
    numbers = "".join(
        f'<th class="number" scope="col">{name}</th>' for name in ("pictures", "recall", "precision", "F1")
    )
    head = f'<tr><th scope="col">class</th>{numbers}<th class="meter" scope="col">recall</th></tr>'
    return f'<div class="scroll"><table class="wide"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _commands(model: Path, data: Path) -> str:
    """Commands that work where the training was started."""
    file, folder = (shlex.quote(str(_from_here(path))) for path in (model, data))
    lines = [
        f"mobilenetv2 predict photo.jpg --model {file}",
        f"mobilenetv2 evaluate {file} --data {folder}",
        f"mobilenetv2 export {file} --to onnx",
    ]
    return f"<pre>{_text(chr(10).join(lines))}</pre>"


def _from_here(path: Path) -> Path:
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
