"""What can be exported to what: as data, from which the table of the documentation is made.

`validated` is what tests export from the shipped models, run in that runtime and hold against the model file;
`validated.json` is the record that `make test-export` writes of it. A row without record is `available` at best.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mobilenetv2.exports.target import TARGETS
from mobilenetv2.modelfile import NETWORKS
from mobilenetv2.runtime.exported import PRECISIONS

RECORD = Path(__file__).with_name("validated.json")
State = Literal["validated", "available", "blocked"]

# (target, precision) -> why not.
BLOCKED: Mapping[tuple[str, str], str] = {
    ("native", "float32"): "model files are what it runs",
    ("ncnn", "int8"): "ncnn2table and ncnn2int8, which quantise, are C++ programs that no Python package brings",
}


@dataclass(frozen=True, kw_only=True)
class Support:
    """One row. reason: why it is not validated, or with which version it was; on: on what day it was."""

    task: str
    target: str
    precision: str
    state: State
    reason: str
    on: str = ""


def support() -> list[Support]:
    """Every task, target and precision."""
    return [_row(task, target, precision) for precision in PRECISIONS for target in TARGETS for task in NETWORKS]


def support_table() -> str:
    """The same as Markdown: a line for each target and precision, a column for each task."""
    rows = {(row.target, row.precision, row.task): row for row in support()}
    lines = [f"| runtime | precision | {' | '.join(NETWORKS)} | |", f"|-|-|{'-|' * len(NETWORKS)}-|"]
    for precision in PRECISIONS:
        for target in TARGETS.values():
            states = [rows[target.name, precision, task] for task in NETWORKS]
            days = sorted({row.on for row in states if row.on})
            when = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""
            reasons = ", ".join(filter(None, [*dict.fromkeys(row.reason for row in states), when]))
            cells = " | ".join(row.state for row in states)
            lines.append(f"| {target.title} | {precision} | {cells} | {reasons} |")
    return "\n".join(lines) + "\n"


def _row(task: str, target: str, precision: str) -> Support:
    about: dict[str, Any] = {"task": task, "target": target, "precision": precision}
    if reason := BLOCKED.get((target, precision)):
        return Support(**about, state="blocked", reason=reason)
    if reason := TARGETS[target].not_run:
        weights = "every weight" if precision == "float32" else "every weight (they alone are in 8 bits)"
        return Support(**about, state="available", reason=f"not run: {reason}; names, shapes and {weights} are checked")
    record = _records().get(f"{task} {target} {precision}")
    if record is None:
        return Support(**about, state="available", reason="")
    return Support(**about, state="validated", reason=record["with"], on=record["on"])


@cache
def _records() -> dict[str, dict[str, str]]:
    records: dict[str, dict[str, str]] = json.loads(RECORD.read_text(encoding="utf-8"))
    return records
