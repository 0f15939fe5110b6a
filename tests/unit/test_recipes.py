"""Recipes: names, settings, ranges."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobilenetv2.errors import UserError
from mobilenetv2.training.recipes import RECIPES, Recipe, resolve


def test_every_recipe_resolves_and_knows_its_name() -> None:
    for name in RECIPES:
        assert resolve(name).recipe == name


def test_the_paper_recipe_is_section_6_1() -> None:
    recipe = resolve("paper")
    assert (recipe.optimizer, recipe.rms_decay, recipe.momentum) == ("rmsprop_tf", 0.9, 0.9)
    assert (recipe.learning_rate, recipe.schedule, recipe.decay_rate) == (0.045, "exponential", 0.98)
    assert (recipe.weight_decay, recipe.decay_depthwise, recipe.batch_size) == (4e-5, False, 96)
    assert (recipe.numerics, recipe.pretrained, recipe.ema_decay) == ("tf", "none", 0.9999)


def test_settings_change_a_recipe_and_keep_their_kind() -> None:
    recipe = resolve("transfer", ["epochs=3", "learning_rate=1e-2", "decay_depthwise=false", "crop=pad"], width=0.5)
    assert (recipe.epochs, recipe.learning_rate, recipe.decay_depthwise, recipe.crop) == (3, 0.01, False, "pad")
    assert recipe.width == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["learning_rat=1"], "did you mean 'learning_rate'"),
        (["epochs"], "name=value"),
        (["epochs=1.5"], "'1.5' is not a whole number"),
        (["epochs=0"], "epochs 0 is out of range"),
        (["learning_rate=nan"], "learning_rate nan is out of range"),
        (["crop=pda"], "did you mean 'pad'"),
        (["decay_depthwise=yes"], "true or false"),
        (["recipe=paper"], "there is no option 'recipe'"),
    ],
)
def test_a_wrong_setting_is_named(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve("transfer", settings)
    assert "\n" not in str(caught.value)


def test_wrong_values_of_options_are_named() -> None:
    with pytest.raises(UserError, match="width 0 is out of range"):
        resolve("transfer", width=0)
    with pytest.raises(UserError, match="did you mean 'transfer'"):
        resolve("transfr")


def test_every_number_has_a_range() -> None:
    from typing import get_type_hints

    from mobilenetv2.training.recipes import _RANGES

    numbers = {name for name, kind in get_type_hints(Recipe).items() if kind in (int, float)}
    assert numbers == set(_RANGES)


def test_every_option_is_described() -> None:
    text = Recipe.__doc__ or ""
    missing = [name for name in Recipe.__dataclass_fields__ if name not in text]
    assert not missing


def test_a_recipe_is_read_back(tmp_path: Path) -> None:
    from mobilenetv2.training.run import Run, load_run, start_run

    run = Run(task="classify", data="x", name="n", skip_bad=False, weights=None, recipe=resolve("small", ["seed=7"]))
    assert load_run(start_run(run, tmp_path / "run")) == run
    with pytest.raises(UserError, match="holds a run already"):
        start_run(run, tmp_path / "run")
