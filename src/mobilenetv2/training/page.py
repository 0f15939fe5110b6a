"""The parts of a run's page that all tasks share: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from mobilenetv2.plots import DPI

CLASSES_OPEN = 20  # more are folded away

STYLE = """
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
.grid.wide { grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); }
.grid.wide figure img { aspect-ratio: auto; }
.triple { display: grid; grid-template-columns: repeat(3, 1fr); gap: .4rem; max-width: none; margin: 0 0 1.4rem; }
p.triple { font-size: .82rem; margin: 1.2rem 0 .2rem; }
.triple figcaption { grid-column: 1 / -1; margin: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; margin: 0; padding: 0;
  font-size: .88rem; }
.legend span { display: inline-block; width: .9rem; height: .9rem; margin-right: .4rem; border-radius: 3px;
  vertical-align: -.1rem; }
.hatched, .triple img { background: repeating-linear-gradient(45deg, var(--line) 0 3px, var(--paper) 3px 6px); }
figure { margin: 0; }
figure img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 6px;
  background: var(--card); }
.triple img { aspect-ratio: auto; }
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


def whole_page(title: str, sections: Iterable[str]) -> str:
    """title: HTML; sections: HTML, one after another."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        "<body>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    return html.escape(str(value))


def inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def plot(png: bytes, alternative: str) -> str:
    with Image.open(io.BytesIO(png)) as picture:
        width = picture.width * 96 // DPI
    return f'<div class="plot"><img width="{width}" alt="{text(alternative)}" src="{inline(png, "png")}"></div>'


def figures(rows: Iterable[tuple[str, str]], model: Path) -> str:
    """Large numbers with what they are; the size of the model file is added."""
    rows = [*rows, ("model file", f"{model.stat().st_size / 1e6:.1f} MB")]
    return (
        '<dl class="figures">'
        + "".join(f"<div><dt>{what}</dt><dd>{number}</dd></div>" for what, number in rows)
        + "</dl>"
    )


def class_tables(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str], float]], meter: str) -> str:
    """A line for each class: its name, a number for each column, and a bar; beyond the first 20 folded away.

    columns: what the numbers are. rows: name, numbers, share of the bar 0..1. meter: what the bar is.
    """
    lines = [
        f"<tr><td>{text(name)}</td>"
        + "".join(f'<td class="number">{number}</td>' for number in numbers)
        + f'<td class="meter"><span style="width:{share:.1%}"></span></td></tr>'
        for name, numbers, share in rows
    ]
    heads = "".join(f'<th class="number" scope="col">{name}</th>' for name in columns)
    head = f'<tr><th scope="col">class</th>{heads}<th class="meter" scope="col">{meter}</th></tr>'

    def table(some: Sequence[str]) -> str:
        body = "".join(some)
        return f'<div class="scroll"><table class="wide"><thead>{head}</thead><tbody>{body}</tbody></table></div>'

    if len(lines) <= CLASSES_OPEN:
        return table(lines)
    rest = table(lines[CLASSES_OPEN:])
    more = f"<details><summary>the other {len(lines) - CLASSES_OPEN:,} classes</summary>{rest}</details>"
    return table(lines[:CLASSES_OPEN]) + more


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def jpeg(picture: Image.Image) -> str:
    """An RGB picture as the source of an `img`."""
    stream = io.BytesIO()
    picture.save(stream, "jpeg", quality=85)
    return inline(stream.getvalue(), "jpeg")


def commands(model: Path, data: Path) -> str:
    """Commands that work where the training was started."""
    file, folder = (shlex.quote(str(_from_here(path))) for path in (model, data))
    lines = [
        f"mobilenetv2 predict photo.jpg --model {file}",
        f"mobilenetv2 evaluate {file} --data {folder}",
        f"mobilenetv2 export {file} --to onnx",
    ]
    return f"<pre>{text(chr(10).join(lines))}</pre>"


def _from_here(path: Path) -> Path:
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
