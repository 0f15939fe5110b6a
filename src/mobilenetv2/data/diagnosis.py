"""What the doctor says about a data set: records, as text and as plain values."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing about a data set. Errors stop a training, warnings spoil it, notes are good to know.

    id: a word for programs, which stays. count: how many pictures, classes or files it is about.
    examples: up to five of them.
    """

    id: str
    severity: Severity
    count: int
    examples: tuple[str, ...]
    text: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All findings about a data set, the gravest first.

    images: pictures, with those that cannot be decoded. splits: pictures of each split; "all" where there are none.
    task, format: what the data is for, and how it is written: "image-folder", "coco", "voc", "yolo" or "index".
    boxes: true boxes of each class, in all splits; None where pictures have no boxes. pixels: the same of masks.
    """

    data: str
    images: int
    classes: tuple[str, ...]
    splits: dict[str, int]
    findings: tuple[Finding, ...]
    task: str = "classify"
    format: str = "image-folder"
    boxes: dict[str, int] | None = None
    pixels: dict[str, int] | None = None

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `check --json` prints them."""
        return {
            "data": _encodable(self.data),
            "task": self.task,
            "format": self.format,
            "images": self.images,
            "classes": [_encodable(name) for name in self.classes],
            "splits": dict(self.splits),
            **{
                kind: {_encodable(name): count for name, count in counts.items()}
                for kind, counts in (("boxes", self.boxes), ("pixels", self.pixels))
                if counts is not None
            },
            "findings": [
                {
                    **asdict(finding),
                    "examples": [_encodable(example) for example in finding.examples],
                    "text": _encodable(finding.text),
                }
                for finding in self.findings
            ],
        }

    def to_text(self) -> str:
        """A summary, then each finding with examples and what to do."""
        splits = ", ".join(f"{split} {count:,}" for split, count in self.splits.items())
        lines = [
            f"{_one_line(self.data)}: {number(len(self.classes), 'class')}, {number(self.images, 'picture')}"
            + (f" ({splits})" if splits else "")
        ]
        if self.boxes is not None:
            counted = ", ".join(f"{_one_line(name)} {count:,}" for name, count in self.boxes.items())
            lines.append(f"{number(sum(self.boxes.values()), 'box')} in {self.format.upper()} form: {counted}")
        if self.pixels is not None:
            total = max(sum(self.pixels.values()), 1)
            shares = ", ".join(f"{_one_line(name)} {count / total:.1%}" for name, count in self.pixels.items())
            lines.append(f"{number(sum(self.pixels.values()), 'pixel')} in {self.format.upper()} form: {shares}")
        for finding in self.findings:
            more = ", ..." if finding.count > len(finding.examples) else ""
            examples = ", ".join(_one_line(example) for example in finding.examples) + more
            lines += ["", f"{finding.severity:9}{_one_line(finding.text)}"]
            # A single example is often the whole text.
            lines += [f"{'':9}{line}" for line in (examples, finding.remedy) if line and line not in finding.text]
        counts = Counter(finding.severity for finding in self.findings)
        summary = ", ".join(number(counts[severity], severity) for severity in SEVERITIES if counts[severity])
        return "\n".join([*lines, "", summary or "nothing wrong"])


def number(count: int, noun: str) -> str:
    """'1 picture', '2,000 pictures', '3 classes'."""
    plural = "es" if noun.endswith(("s", "x")) else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def _one_line(text: str) -> str:
    """File names may hold line ends and other control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _encodable(text: str) -> str:
    """File names of Linux may be no text, which nothing but Python can read."""
    return text.encode("utf-8", "backslashreplace").decode()
