"""A model's answers to the pictures of a split, as every task measures them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mobilenetv2.data.folder import Named
from mobilenetv2.data.tree import Tree, decode
from mobilenetv2.errors import DataError, ImageError
from mobilenetv2.predictions import Prediction
from mobilenetv2.runtime.predictor import Predictor

Picture = TypeVar("Picture", bound=Named)


def answered(
    predictor: Predictor,
    tree: Tree,
    split: str,
    pictures: Sequence[Picture],
    *,
    skip_bad: bool,
    tick: Callable[[int], None],
) -> Iterator[tuple[Picture, Prediction]]:
    """Every picture that can be decoded with its answer, in order, as soon as it is there: few wait in memory.

    tick: called with the number of pictures just done.
    Raises DataError, after the last one, for pictures that cannot be decoded, unless `skip_bad`, and where none can.
    """
    bad: list[ImageError] = []
    for picture, answer in _answers(predictor, tree, pictures):
        tick(1)
        if isinstance(answer, ImageError):
            bad.append(answer)
        else:
            yield picture, answer
    if bad and not skip_bad:
        raise DataError(
            f"{tree.path}: {len(bad)} of {len(pictures)} images cannot be decoded (first: {bad[0]}). "
            f"Run 'mobilenetv2 check {tree.path}' for all, or go on without them by --skip-bad"
        )
    if len(bad) == len(pictures):
        raise DataError(f"{tree.path}: no picture of {split!r} can be decoded")


def _answers(
    predictor: Predictor, tree: Tree, pictures: Sequence[Picture]
) -> Iterator[tuple[Picture, Prediction | ImageError]]:
    """In order. A few pictures are worked on at once, and no more wait in memory."""

    def answer(picture: Picture) -> Prediction | ImageError:
        try:
            image = decode(tree, picture.name)
        except ImageError as error:
            return error
        try:
            return predictor.predict(image)
        except ImageError as error:
            return ImageError(f"{tree.path}/{picture.name}: {error}")

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[Picture, Future[Prediction | ImageError]]] = deque()
        for picture in pictures:
            waiting.append((picture, pool.submit(answer, picture)))
            if len(waiting) > 4 * workers:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()
