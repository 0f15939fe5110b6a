"""How good a classifier is on labelled pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.data.folder import read_labelled
from mobilenetv2.evaluation.answers import answered
from mobilenetv2.modelfile import Card
from mobilenetv2.predictions import Classification
from mobilenetv2.runtime.predictor import Predictor

ANSWERS_KEPT = 24
CONFUSIONS_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """One class. Shares 0..1; None where there is nothing to divide by: no picture of it, or no answer naming it."""

    name: str
    images: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said to one picture, and how sure it was, 0..1."""

    image: str
    true: str
    predicted: str
    score: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What a model reaches on one split of a data set.

    top1, top5: shares 0..1; with fewer than five classes, top5 counts all of them.
    confusion: (classes, classes) int64 counts; rows are what pictures are, columns what the model says.
    mistakes: the wrong answers it was surest of, surest first. examples: the first right answer of each class.
    skipped: pictures that could not be decoded, and count nowhere else.
    """

    model: str
    data: str
    split: str
    images: int
    skipped: int
    top1: float
    top5: float
    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    mistakes: tuple[Answer, ...]
    examples: tuple[Answer, ...]

    task = "classify"

    @property
    def per_class(self) -> tuple[ClassMetrics, ...]:
        hits, images, answers = np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0)
        return tuple(
            ClassMetrics(
                name=name,
                images=int(images[i]),
                precision=_share(hits[i], answers[i]),
                recall=_share(hits[i], images[i]),
                # The harmonic mean of the two: 2 hits / (images + answers).
                f1=_share(2 * hits[i], images[i] + answers[i]) if images[i] else None,
            )
            for i, name in enumerate(self.classes)
        )

    def confusions(self, count: int = CONFUSIONS_SHOWN) -> list[tuple[str, str, int]]:
        """(what it is, what the model says, how often), most frequent first."""
        return most_confused(self.confusion, self.classes, count)

    def card_metrics(self) -> dict[str, Any]:
        """What a model card says of it."""
        return {
            "top1": round(self.top1, 6),
            "top5": round(self.top5, 6),
            "images": self.images,
            "data": f"{Path(self.data).name}, {self.split}",
        }

    def completed(self, card: Card) -> Card:
        """The card with what was measured."""
        return replace(card, metrics=self.card_metrics())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `evaluate --json` prints them."""
        return {
            "task": self.task,
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "images": self.images,
            "skipped": self.skipped,
            "top1": round(self.top1, 6),
            "top5": round(self.top5, 6),
            "per_class": [asdict(metrics) for metrics in self.per_class],
            "confusion": self.confusion.tolist(),
            "mistakes": [asdict(mistake) for mistake in self.mistakes],
        }

    def to_text(self) -> str:
        """A summary, a line for each class, and what is most often taken for what."""
        # Letters of some scripts are two cells wide.
        from rich.cells import cell_len, set_cell_size

        skipped = f", {self.skipped} unreadable ones left out" if self.skipped else ""
        lines = [
            f"{self.model} on {self.data}, {self.split}: {self.images:,} pictures{skipped}",
            f"top-1 {self.top1:.2%}   top-5 {self.top5:.2%}",
            "",
        ]
        width = max(cell_len(name) for name in ("class", *self.classes))
        lines.append(f"{'class':{width}}  {'images':>7}  {'precision':>9}  {'recall':>7}  {'f1':>7}")
        for m in self.per_class:
            shares = f"{percent(m.precision):>9}  {percent(m.recall):>7}  {percent(m.f1):>7}"
            lines.append(f"{set_cell_size(m.name, width)}  {m.images:>7,}  {shares}")
        if confusions := self.confusions():
            lines += ["", "most often taken for another:"]
            lines += [f"  {true} as {predicted}: {count}" for true, predicted, count in confusions]
        return "\n".join(lines)


def evaluate_classifier(
    predictor: Predictor, path: Path, *, split: str | None, skip_bad: bool, tick: Callable[[int], None]
) -> Evaluation:
    """Answer every picture of a split and count; see `evaluation.evaluate`."""
    classes = predictor.card.labels
    tree, split, items = read_labelled(path, classes, split, trained_on=predictor.card.training.get("data"))
    answers = list(answered(predictor, tree, split, items, skip_bad=skip_bad, tick=tick))
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    mistakes: list[Answer] = []
    examples: dict[int, Answer] = {}
    within5 = 0
    for item, answer in answers:
        assert isinstance(answer, Classification)
        best = answer.top(5)
        predicted = best[0].index
        confusion[item.label, predicted] += 1
        within5 += item.label in {label.index for label in best}
        said = Answer(image=item.name, true=classes[item.label], predicted=best[0].name, score=round(best[0].score, 6))
        if predicted == item.label:
            examples.setdefault(item.label, said)
        else:
            mistakes.append(said)
    mistakes.sort(key=lambda mistake: (-mistake.score, mistake.image))
    return Evaluation(
        model=predictor.card.name,
        data=str(path),
        split=split,
        images=len(answers),
        skipped=len(items) - len(answers),
        top1=int(np.trace(confusion)) / len(answers),
        top5=within5 / len(answers),
        classes=classes,
        confusion=confusion,
        mistakes=tuple(mistakes[:ANSWERS_KEPT]),
        examples=tuple(examples[label] for label in sorted(examples)[:ANSWERS_KEPT]),
    )


def most_confused(confusion: NDArray[np.int64], classes: Sequence[str], count: int) -> list[tuple[str, str, int]]:
    """(what it is, what the model says, how often) off the diagonal, most frequent first."""
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), len(classes)) for place in order]
    return [(classes[i], classes[j], int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


def _share(part: int, whole: int) -> float | None:
    return round(int(part) / int(whole), 6) if whole else None


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
