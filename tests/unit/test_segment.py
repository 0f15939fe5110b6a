"""From logits to masks, whole and by tiles."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import RandomModel, RandomSegmenter
from mobilenetv2.errors import UserError
from mobilenetv2.modelfile import Card
from mobilenetv2.predictions import Segmentation
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.graph import picture_graph
from mobilenetv2.runtime.predictor import Predictor, predictor_of, predictor_of_graph
from mobilenetv2.runtime.scorers import Scores, TiledScorer, _spans
from mobilenetv2.runtime.segment import decode
from mobilenetv2.segmenter import Segmenter

sides = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), sides, sides, sides, sides, st.integers(0, 2**32 - 1))
def test_decoding_enlarges_as_torch_does(classes: int, h: int, w: int, height: int, width: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(classes, h, w)).astype(np.float32)
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None], size=(height, width), mode="bilinear", align_corners=True
    )[0].numpy()
    found = decode(logits, (height, width))
    assert found.dtype == np.uint8
    chosen = np.take_along_axis(enlarged, found[None].astype(np.int64), axis=0)[0]
    # Where two logits are as near as rounding, either may win.
    np.testing.assert_allclose(chosen, enlarged.max(axis=0), atol=1e-5)


@pytest.mark.parametrize("size_hw", [(7, 300), (300, 7), (1, 1000), (513, 700)])
def test_pieces_fit_together(size_hw: tuple[int, int]) -> None:
    """Pictures of many pieces, the last one narrower than the others."""
    logits = np.random.default_rng(0).normal(size=(3, 9, 33)).astype(np.float32)
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None], size=size_hw, mode="bilinear", align_corners=True
    )[0].numpy()
    best = enlarged.max(axis=0)
    clear = best - np.sort(enlarged, axis=0)[-2] > 1e-4
    np.testing.assert_array_equal(decode(logits, size_hw)[clear], enlarged.argmax(axis=0)[clear])
    assert clear.mean() > 0.99


def test_of_equal_logits_the_earlier_class_wins() -> None:
    assert (decode(np.zeros((3, 2, 2), np.float32), (7, 5)) == 0).all()


@pytest.mark.parametrize("size_hw", [(3000, 4000), (1_000_000, 1), (1, 1_000_000)])
def test_decoding_holds_little_beside_the_mask(size_hw: tuple[int, int]) -> None:
    logits = np.random.default_rng(0).normal(size=(11, 93, 121)).astype(np.float32)
    tracemalloc.start()
    mask = decode(logits, size_hw)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - mask.nbytes < 8e6


@given(st.integers(1, 400), st.integers(1, 60))
def test_tiles_cover_a_side_once_and_see_beyond_their_seams(side: int, tile: int) -> None:
    spans = _spans(side, tile)
    assert [place for span in spans for place in range(span.first, span.last)] == list(range(side))
    for place, span in enumerate(spans):
        assert 0 <= span.begin < span.end <= side
        assert span.end - span.begin == min(side, tile)
        # Half of an overlap of a quarter, but for rounding, lies beyond each inner seam.
        if place:
            assert span.first - span.begin >= int(tile * 0.25) // 2 - 1
        if place < len(spans) - 1:
            assert span.end - span.last >= int(tile * 0.25) // 2 - 1


class ByPosition:
    """Answers each pixel by its own red level, so that a tile out of place would show."""

    batch = 3

    def with_card(self, card: Card) -> ByPosition:
        return self

    def prepare(self, picture: Image.Image) -> Any:
        return np.asarray(picture)[..., 0]

    def score(self, prepared: Any) -> Scores:
        assert 1 <= len(prepared) <= self.batch
        return Scores(list(prepared), 1.0, 1.0)


@pytest.mark.parametrize("size_hw", [(1, 1), (20, 200), (33, 49), (100, 130), (64, 48)])
def test_every_tile_answers_for_its_own_place(size_hw: tuple[int, int]) -> None:
    card = Card(
        name="t",
        task="segment",
        architecture=Segmenter(num_classes=255),
        labels=tuple(map(str, range(255))),
        preprocessing=Preprocessing(size_hw=(33, 49)),
    )
    levels = np.random.default_rng(0).integers(0, 255, (*size_hw, 3)).astype(np.uint8)
    answer = Predictor(card, TiledScorer(ByPosition(), card)).predict(levels)
    assert isinstance(answer, Segmentation)
    np.testing.assert_array_equal(answer.mask, levels[..., 0])


def test_a_picture_of_one_tile_is_answered_as_without_tiles(random_segmenter: RandomSegmenter) -> None:
    model = random_segmenter(preprocessing=Preprocessing(size_hw=(33, 49)))
    picture = np.random.default_rng(0).integers(0, 256, (33, 49, 3)).astype(np.uint8)
    whole, tiled = (predictor_of(model, threads=1, tiles=tiles).predict(picture) for tiles in (False, True))
    assert isinstance(whole, Segmentation)
    assert isinstance(tiled, Segmentation)
    np.testing.assert_array_equal(whole.mask, tiled.mask)
    assert [one.pixels for one in whole.segments] == sorted((one.pixels for one in whole.segments), reverse=True)
    assert sum(one.pixels for one in whole.segments) == 33 * 49


def test_tiles_are_sampled_where_they_are_enlarged(random_segmenter: RandomSegmenter) -> None:
    preprocessing = Preprocessing(size_hw=(33, 49))
    bilinear, sampled = (
        random_segmenter(preprocessing=replace(preprocessing, interpolation=how)) for how in ("bilinear", "sampled")
    )
    # Tiles have the size of the input already, but for a side that is shorter.
    for size_hw, alike in (((70, 100), True), ((20, 100), False)):
        picture = np.random.default_rng(0).integers(0, 256, (*size_hw, 3)).astype(np.uint8)
        one, other, exported = (
            predictor.predict(picture)
            for predictor in (
                predictor_of(bilinear, threads=1, tiles=True),
                predictor_of(sampled, threads=1, tiles=True),
                predictor_of_graph(picture_graph(sampled), source="m", threads=1, tiles=True),
            )
        )
        assert isinstance(one, Segmentation)
        assert isinstance(other, Segmentation)
        assert isinstance(exported, Segmentation)
        assert np.array_equal(one.mask, other.mask) is alike
        assert (exported.mask == other.mask).mean() > 0.999


def test_tiles_are_for_segmenters(random_model: RandomModel) -> None:
    with pytest.raises(UserError, match="model 'random' is for task 'classify', not 'segment'"):
        predictor_of(random_model(preprocessing=Preprocessing(size_hw=(32, 32))), tiles=True)
