"""What the paper prints beside what the live networks give: a record, and its ways to be shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Value = float | str | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number, or one shape, of one network.

    paper: as printed; None where the paper prints nothing. ours: computed; None where it cannot be.
    decimals: digits after the point to show of `ours`, where it is a number.
    footnote: why the two differ, where they do.
    """

    network: str
    quantity: str
    paper: Value
    ours: Value
    decimals: int = 0
    footnote: str | None = None

    @property
    def difference(self) -> float | None:
        """ours / paper - 1, where both are numbers."""
        if isinstance(self.paper, str) or isinstance(self.ours, str) or not self.paper or self.ours is None:
            return None
        return self.ours / self.paper - 1

    @property
    def verdict(self) -> str:
        """The difference as people read it: per cent of numbers, "same" or "differs" of shapes."""
        if self.paper is None or self.ours is None:
            return ""
        if self.difference is None:
            return "same" if self.paper == self.ours else "differs"
        return f"{self.difference:+.2%}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "quantity": self.quantity,
            "paper": self.paper,
            "ours": self.ours,
            "difference": self.difference,
            "footnote": self.footnote,
        }


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper, row by row; `name` is what `mobilenetv2 paper` calls it."""

    name: str
    title: str
    rows: tuple[Row, ...]
    paper_says: str = "paper"
    notes: tuple[str, ...] = field(default=())  # to the table as a whole

    def to_dict(self) -> dict[str, Any]:
        rows = [row.to_dict() for row in self.rows]
        return {"table": self.name, "title": self.title, "rows": rows, "notes": list(self.notes)}

    def to_text(self) -> str:
        """For a terminal: aligned columns, footnotes below."""
        cells, footnotes = self._cells()
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        numeric = (False, False, True, True, True, False)
        lines = [self.title, ""]
        for line in cells:
            padded = (
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(line, widths, numeric, strict=True)
            )
            lines.append("  ".join(padded).rstrip())
        if footnotes or self.notes:
            lines += ["", *(f"({number}) {text}" for number, text in enumerate(footnotes, 1)), *self.notes]
        return "\n".join(lines)

    def to_markdown(self) -> str:
        cells, footnotes = self._cells()
        lines = [f"## {self.title}", "", "| " + " | ".join(cells[0]) + " |", "|-|-|-:|-:|-:|-|"]
        lines += ["| " + " | ".join(line) + " |" for line in cells[1:]]
        lines += [line for number, text in enumerate(footnotes, 1) for line in ("", f"({number}) {text}")]
        lines += [line for note in self.notes for line in ("", note)]
        return "\n".join(lines) + "\n"

    def _cells(self) -> tuple[list[tuple[str, ...]], list[str]]:
        """Header and rows as text, and the footnotes in the order of their numbers."""
        cells: list[tuple[str, ...]] = [("network", "quantity", self.paper_says, "ours", "difference", "note")]
        footnotes: list[str] = []
        last = ""
        for row in self.rows:
            if row.footnote and row.footnote not in footnotes:
                footnotes.append(row.footnote)
            note = f"({footnotes.index(row.footnote) + 1})" if row.footnote else ""
            shown = "" if row.network == last else row.network
            last = row.network
            cells.append((shown, row.quantity, _show(row.paper), _show(row.ours, row.decimals), row.verdict, note))
        return cells, footnotes


def _show(value: Value, decimals: int | None = None) -> str:
    """`decimals` None shows a number as it was typed in."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,}" if decimals is None else f"{value:,.{decimals}f}"
