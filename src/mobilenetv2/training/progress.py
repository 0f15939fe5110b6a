"""What a training shows: a bar on a terminal, plain lines in a log. All of it on stderr."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from mobilenetv2.data.boxed import BoxData
from mobilenetv2.data.folder import ImageFolder
from mobilenetv2.data.masked import MaskData


class TrainingListener(ABC):
    """Shows what happens; `say` is for lines that stay."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left on the screen but what was said."""

    @abstractmethod
    def say(self, line: str) -> None: ...

    @contextmanager
    def checking(self, pictures: int) -> Iterator[Callable[[], None]]:
        self.say(f"decoding all {pictures:,} pictures once, to find bad ones before training")
        yield lambda: None

    def begins(self, data: ImageFolder | BoxData | MaskData, *, resuming: bool) -> None:
        train, val = len(data.splits["train"]), len(data.splits["val"])
        origin = " (split off, as there is no val folder)" if data.derived else ""
        self.say(f"{len(data.classes)} classes, {train:,} pictures to train on, {val:,} to validate on{origin}")
        if resuming:
            self.say("resuming")

    def epoch_begins(self, epoch: int, epochs: int, done: int, steps: int) -> None:
        """`done` of `steps` steps of this epoch (counted from 0) are behind us."""

    def step(self, loss: float, images_per_s: float) -> None: ...

    def measuring(self) -> None: ...

    def epoch_ends(self, record: dict[str, Any], is_best: bool) -> None:
        measured = "  ".join(
            f"{name.removeprefix('val_')} {value:.4f}" for name, value in record.items() if name.startswith("val_")
        )
        best = "  best so far" if is_best else ""
        self.say(f"epoch {record['epoch']}: loss {record['loss']:.4f}  {measured}  ({record['seconds']:.0f} s){best}")


class PlainListener(TrainingListener):
    """A line now and then, for logs and pipes."""

    every_s = 30.0

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def epoch_begins(self, epoch: int, epochs: int, done: int, steps: int) -> None:
        self._place, self._done, self._steps = f"epoch {epoch + 1}/{epochs}", done, steps
        self._said = time.monotonic()

    def step(self, loss: float, images_per_s: float) -> None:
        self._done += 1
        if time.monotonic() - self._said > self.every_s:
            self._said = time.monotonic()
            self.say(f"{self._place}  step {self._done}/{self._steps}  loss {loss:.4f}  {images_per_s:.1f} images/s")


class RichListener(TrainingListener):
    """A progress bar with loss, speed and time left."""

    def __init__(self) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._epoch = self._bar.add_task("", total=None, visible=False, note="")
        self._all = self._bar.add_task("all epochs", total=None, visible=False, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        self._bar.console.print(line, highlight=False, markup=False)

    @contextmanager
    def checking(self, pictures: int) -> Iterator[Callable[[], None]]:
        check = self._bar.add_task("decoding all pictures once", total=pictures, note="")
        yield lambda: self._bar.advance(check)
        self._bar.remove_task(check)

    def epoch_begins(self, epoch: int, epochs: int, done: int, steps: int) -> None:
        self._bar.reset(
            self._epoch, description=f"epoch {epoch + 1}/{epochs}", total=steps, completed=done, visible=True, note=""
        )
        self._bar.update(self._all, total=epochs * steps, completed=epoch * steps + done, visible=epochs > 1)

    def step(self, loss: float, images_per_s: float) -> None:
        self._bar.update(self._epoch, advance=1, note=f"loss {loss:.4f}  {images_per_s:.1f} images/s")
        self._bar.advance(self._all)

    def measuring(self) -> None:
        self._bar.update(self._epoch, note="measuring")
