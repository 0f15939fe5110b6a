"""Recipes: names, settings, ranges."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from mobilenetv2.errors import UserError
from mobilenetv2.training.recipe import Recipe
from mobilenetv2.training.recipes import RECIPE_KINDS, RECIPES, ClassifyRecipe, DetectRecipe, resolve


def test_every_recipe_resolves_and_knows_its_name() -> None:
    for task, names in RECIPES.items():
        for name in names:
            recipe = resolve(task, name)
            assert recipe.recipe == name
            assert type(recipe) is RECIPE_KINDS[task]


def test_the_paper_recipe_is_section_6_1() -> None:
    recipe = resolve("classify", "paper")
    assert (recipe.optimizer, recipe.rms_decay, recipe.momentum) == ("rmsprop_tf", 0.9, 0.9)
    assert (recipe.learning_rate, recipe.schedule, recipe.decay_rate) == (0.045, "exponential", 0.98)
    assert (recipe.weight_decay, recipe.decay_depthwise, recipe.batch_size) == (4e-5, False, 96)
    assert (recipe.numerics, recipe.pretrained, recipe.ema_decay) == ("tf", "none", 0.9999)


def test_settings_change_a_recipe_and_keep_their_kind() -> None:
    recipe = resolve(
        "classify", "transfer", ["epochs=3", "learning_rate=1e-2", "decay_depthwise=false", "crop=pad"], width=0.5
    )
    assert isinstance(recipe, ClassifyRecipe)
    assert (recipe.epochs, recipe.learning_rate, recipe.decay_depthwise, recipe.crop) == (3, 0.01, False, "pad")
    assert recipe.width == 0.5


def test_the_options_of_one_task_are_unknown_to_another() -> None:
    assert isinstance(resolve("detect", "transfer", ["class_loss=softmax"]), DetectRecipe)
    with pytest.raises(UserError, match="there is no option 'mixup'"):
        resolve("detect", "transfer", ["mixup=0.2"])
    with pytest.raises(UserError, match="recipe 'small' is not known for 'detect'"):
        resolve("detect", "small")


def test_the_paper_recipe_of_detection_is_the_object_detection_api_s() -> None:
    recipe = resolve("detect", "paper")
    assert isinstance(recipe, DetectRecipe)
    assert (recipe.optimizer, recipe.optimizer_eps, recipe.learning_rate, recipe.batch_size) == (
        "rmsprop_tf",
        1,
        0.004,
        24,
    )
    assert (recipe.class_loss, recipe.box_loss, recipe.negatives_per_positive) == ("sigmoid", "smooth_l1", 3)
    assert (recipe.box_weight, recipe.iou_threshold, recipe.max_detections, recipe.matching_iou) == (1, 0.6, 100, 0.5)


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
        resolve("classify", "transfer", settings)
    assert "\n" not in str(caught.value)


def test_wrong_values_of_options_are_named() -> None:
    with pytest.raises(UserError, match="width 0 is out of range"):
        resolve("classify", "transfer", width=0)
    with pytest.raises(UserError, match="did you mean 'transfer'"):
        resolve("classify", "transfr")


def test_every_number_has_a_range() -> None:
    from typing import get_type_hints

    kinds: list[type[Recipe]] = [Recipe, *RECIPE_KINDS.values()]
    for kind in kinds:
        assert {name for name, of in get_type_hints(kind).items() if of in (int, float)} == set(kind.ranges)


def test_every_option_is_described() -> None:
    for kind in RECIPE_KINDS.values():
        text = f"{Recipe.__doc__}{kind.__doc__}"
        assert not [name for name in (field.name for field in fields(kind)) if name not in text]


def test_a_recipe_is_read_back(tmp_path: Path) -> None:
    from mobilenetv2.training.run import Run, load_run, start_run

    run = Run(
        task="classify",
        data="x",
        name="n",
        skip_bad=False,
        weights=None,
        recipe=resolve("classify", "small", ["seed=7"]),
    )
    assert load_run(start_run(run, tmp_path / "run")) == run
    with pytest.raises(UserError, match="holds a run already"):
        start_run(run, tmp_path / "run")
