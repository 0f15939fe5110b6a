"""What a training takes over from the weights that it starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import RandomModel, RandomSegmenter
from mobilenetv2.preprocessing import Interpolation, Preprocessing
from mobilenetv2.tasks.task import levels_of, start_from
from mobilenetv2.training.recipes import SegmentRecipe

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("bilinear", "bilinear"), ("bicubic", "bicubic"), ("sampled", "bilinear")]
)
def test_levels_follow_the_weights_with_every_pixel_looked_at(theirs: Interpolation, ours: Interpolation) -> None:
    preprocessing = Preprocessing(size_hw=(9, 5), resize="central", interpolation=theirs, mean_rgb=MEAN, std_rgb=STD)
    assert levels_of(preprocessing) == {"interpolation": ours, "mean_rgb": MEAN, "std_rgb": STD}


def test_a_segmenter_can_start_from_sampled_weights(
    random_model: RandomModel, random_segmenter: RandomSegmenter, tmp_path: Path
) -> None:
    classifier = Preprocessing(size_hw=(32, 32), resize="central", crop_fraction=0.875, interpolation="sampled")
    whole = Preprocessing(size_hw=(33, 33), interpolation="sampled", mean_rgb=MEAN, std_rgb=STD)
    random_model(preprocessing=classifier, numerics="tf").save(tmp_path / "c.safetensors")
    random_segmenter(preprocessing=whole, width=0.35).save(tmp_path / "s.safetensors")
    for name, mean in (("c.safetensors", classifier.mean_rgb), ("s.safetensors", MEAN)):
        recipe = SegmentRecipe(width=0.35, pretrained=str(tmp_path / name))
        start = start_from(recipe, None, task="segment", needs_last=False)
        assert (start.levels["interpolation"], start.levels["mean_rgb"]) == ("bilinear", mean)
