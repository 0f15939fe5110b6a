"""From pictures to answers, by whichever engine: prepared one by one, answered together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise, product
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.errors import ImageError
from mobilenetv2.modelfile import Card
from mobilenetv2.preprocessing import Preprocessing, normalize, preprocess, resize
from mobilenetv2.runtime.answers import Answer, reader_for
from mobilenetv2.runtime.engine import Engine, PictureEngine, PixelEngine

MAX_BATCH = 16
MAX_BATCH_PIXELS = MAX_BATCH * 224 * 224
TILE_OVERLAP = 0.25  # of a tile's side


class Scores(NamedTuple):
    """An answer for each picture, and what they took together."""

    answers: Iterable[Answer]
    network_ms: float
    postprocess_ms: float


class Scorer(Protocol):
    """From pictures to answers in two steps, of which the second takes up to `batch` pictures at once."""

    batch: int

    def prepare(self, picture: Image.Image) -> Any:
        """An RGB picture of any size -> what `score` takes of it."""

    def score(self, prepared: Sequence[Any]) -> Scores:
        """Answers for what was prepared."""

    def with_card(self, card: Card) -> Scorer:
        """The same on the same engine, with the thresholds of another card."""


class PillowScorer:
    """Preprocesses with Pillow, then runs the bare network on the batch. Where the engine can, it normalises."""

    def __init__(self, engine: Engine, card: Card) -> None:
        self._engine = engine
        self._run: Callable[[NDArray[Any]], tuple[NDArray[Any], ...]] = engine.run
        self._prepare: Callable[[Image.Image, Preprocessing], NDArray[Any]] = preprocess
        if isinstance(engine, PixelEngine):
            levels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)
            self._run = partial(engine.run_pixels, table=normalize(levels, card.preprocessing).reshape(3, 256))
            self._prepare = _resized
        self._preprocessing = card.preprocessing
        self._reader = reader_for(card)
        height, width = card.preprocessing.size_hw
        # Large inputs would need much memory between the layers, and gain nothing by company.
        self.batch = max(1, min(MAX_BATCH, MAX_BATCH_PIXELS // (height * width)))

    def with_card(self, card: Card) -> PillowScorer:
        return PillowScorer(self._engine, card)

    def prepare(self, picture: Image.Image) -> tuple[NDArray[Any], tuple[int, int]]:
        return self._prepare(picture, self._preprocessing), (picture.height, picture.width)

    def score(self, prepared: Sequence[tuple[NDArray[Any], tuple[int, int]]]) -> Scores:
        start = time.perf_counter()
        outputs = self._run(np.stack([pixels for pixels, _ in prepared]))
        network_ms, start = ms_since(start), time.perf_counter()
        answers = self._reader.of_network(outputs, [size_hw for _, size_hw in prepared])
        return Scores(answers, network_ms, ms_since(start))


def _resized(picture: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return np.asarray(resize(picture, preprocessing))


class GraphScorer:
    """Hands pictures to an exported graph, which does all or, if it is raw, all but the last step."""

    # Pictures of one run are of one size.
    batch = 1

    def __init__(self, engine: PictureEngine, card: Card) -> None:
        self._engine = engine
        self._reader = reader_for(card)
        # A raw graph has no thresholds; the reader has the card's.
        thresholds = None if engine.form.raw else card.postprocessing
        self._score_threshold = thresholds.score_threshold if thresholds else None

    def with_card(self, card: Card) -> GraphScorer:
        return GraphScorer(self._engine, card)

    def prepare(self, picture: Image.Image) -> NDArray[np.uint8]:
        fixed, given = self._engine.form.size_hw, (picture.height, picture.width)
        if fixed not in (None, given):
            raise ImageError(
                f"is {given[1]}x{given[0]} pixels, and this export takes {fixed[1]}x{fixed[0]} alone; resize it, or "
                "export the model without --size"
            )
        return np.asarray(picture)

    def score(self, prepared: Sequence[NDArray[np.uint8]]) -> Scores:
        pictures = np.stack(prepared)
        count, sizes_hw = len(pictures), [pictures.shape[1:3]] * len(pictures)
        if self._engine.form.batch is not None:
            # Black pictures fill it up.
            pictures = np.pad(pictures, ((0, self._engine.form.batch - count), (0, 0), (0, 0), (0, 0)))
        start = time.perf_counter()
        outputs = self._engine.run(pictures, score_threshold=self._score_threshold)
        network_ms, start = ms_since(start), time.perf_counter()
        if self._engine.form.raw:
            answers = self._reader.of_network(tuple(output[:count] for output in outputs), sizes_hw)
        else:
            answers = self._reader.of_graph(outputs, count)[:count]
        return Scores(answers, network_ms, ms_since(start))


class TiledScorer:
    """A segmenter on large pictures: tile by tile at their own resolution, each tile of the size of the input.

    Tiles overlap by a quarter of their side, and each answers for its middle, as what stands at its edge is seen by
    half. A side that is shorter than a tile is stretched to it. Beside the picture (3 bytes a pixel) and the mask
    (1 byte a pixel) it needs what one run of the network needs, however large the picture is.
    """

    # Tiles, not pictures, share a run.
    batch = 1

    def __init__(self, scorer: Scorer, card: Card) -> None:
        self._scorer = scorer
        self._size_hw = card.preprocessing.size_hw

    def with_card(self, card: Card) -> TiledScorer:
        return TiledScorer(self._scorer.with_card(card), card)

    def prepare(self, picture: Image.Image) -> Image.Image:
        return picture

    def score(self, prepared: Sequence[Image.Image]) -> Scores:
        (picture,) = prepared
        mask = np.empty((picture.height, picture.width), np.uint8)
        rows, columns = (_spans(side, tile) for side, tile in zip(mask.shape, self._size_hw, strict=True))
        tiles = list(product(rows, columns))
        network_ms = postprocess_ms = 0.0
        for start in range(0, len(tiles), self._scorer.batch):
            some = tiles[start : start + self._scorer.batch]
            pieces = [picture.crop((across.begin, down.begin, across.end, down.end)) for down, across in some]
            scores = self._scorer.score([self._scorer.prepare(piece) for piece in pieces])
            for (down, across), answer in zip(some, scores.answers, strict=True):
                piece_mask: NDArray[np.uint8] = np.asarray(answer)
                mask[down.first : down.last, across.first : across.last] = piece_mask[down.own, across.own]
            network_ms += scores.network_ms
            postprocess_ms += scores.postprocess_ms
        return Scores([mask], network_ms, postprocess_ms)


class _Span(NamedTuple):
    """A tile along one axis: from `begin` to `end`, answering from `first` to `last`."""

    begin: int
    end: int
    first: int
    last: int

    @property
    def own(self) -> slice:
        """What it answers for, within the tile."""
        return slice(self.first - self.begin, self.last - self.begin)


def _spans(side: int, tile: int) -> list[_Span]:
    """Tiles that cover a side evenly, and meet in the middle of their overlaps."""
    if side <= tile:
        return [_Span(0, side, 0, side)]
    count = -(-(side - tile) // max(tile - int(tile * TILE_OVERLAP), 1)) + 1
    begins = [round(place * (side - tile) / (count - 1)) for place in range(count)]
    seams = [0, *((left + tile + right) // 2 for left, right in pairwise(begins)), side]
    return [_Span(begin, begin + tile, *seam) for begin, seam in zip(begins, pairwise(seams), strict=True)]


def ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
