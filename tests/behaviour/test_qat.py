"""Training for 8 bits as a user meets it: an ordinary model comes out that knows its ranges; stopping does no harm."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import mobilenetv2
from conftest import QUICK
from mobilenetv2.data.shapes import write_shapes
from mobilenetv2.errors import UserError
from mobilenetv2.modelfile import ModelFile, load_model_file
from mobilenetv2.runtime.predictor import find_model
from mobilenetv2.training import run as runs
from mobilenetv2.training.progress import PlainListener
from mobilenetv2.training.recipes import resolve, resolve_qat

BEGINNING = ("width=0.1", "epochs=1", "warmup_epochs=0", "measure_every=1", "batch_size=4", "workers=0")
SIZES = {"classify": "resolution=32", "detect": "resolution=64", "segment": "resolution=49"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes and masks of coloured shapes."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, train=8, val=4, size_hw=(96, 96))
    return folder


def trained(task: str, data: Path, out: Path, *settings: str, pretrained: Path | None = None) -> ModelFile:
    beginning = "none" if pretrained is None else str(pretrained)
    given = [*BEGINNING, SIZES[task], f"pretrained={beginning}", *settings]
    return load_model_file(mobilenetv2.train(task, data=data, out=out, settings=given) / "model.safetensors")


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_an_ordinary_model_comes_out_that_knows_its_ranges(
    task: str, data: Path, colours: Path, tmp_path: Path
) -> None:
    pictures = colours if task == "classify" else data
    before = trained(task, pictures, tmp_path / "before")
    start = tmp_path / "before/model.safetensors"
    still = ("qat=true", "learning_rate=0", "head_learning_rate=0")
    after = trained(task, pictures, tmp_path / "still", *still, pretrained=start)
    # Everything is taken over, the head too, and batch norm keeps its statistics.
    assert list(after.tensors) == list(before.tensors)
    for name, tensor in after.tensors.items():
        np.testing.assert_array_equal(tensor, before.tensors[name], err_msg=name)
    assert after.card.training["recipe"]["qat"] is True
    assert before.card.activation_ranges == {}
    ranges, stem = after.card.activation_ranges, "stem" if task == "classify" else "backbone.stem"
    assert {"images", stem} <= set(ranges)
    assert ranges["images"][0] < -0.5
    assert 0 == ranges[stem][0] < ranges[stem][1] <= 6
    assert after.card.activation_levels == 0

    learnt = trained(task, pictures, tmp_path / "learnt", "qat=true", "freeze_stages=1", pretrained=start)
    for name, tensor in learnt.tensors.items():
        same = np.array_equal(tensor, before.tensors[name])
        if "running" in name or "stem." in name:
            assert same, name
        elif name.endswith(".weight") and tensor.ndim > 1:
            assert not same, name


def test_a_stopped_run_ends_as_if_it_had_not_been(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = mobilenetv2.train(data=colours, out=tmp_path / "start", recipe="small", settings=[*QUICK, "epochs=1"])
    settings = [*QUICK, f"pretrained={start / 'model.safetensors'}", "qat=true", "learning_rate=0.0005"]
    whole = mobilenetv2.train(data=colours, out=tmp_path / "whole", recipe="small", settings=settings)

    class StopsAtSixthStep(PlainListener):
        steps = 0

        def step(self, loss: float, images_per_s: float) -> None:
            StopsAtSixthStep.steps += 1
            if StopsAtSixthStep.steps == 6:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runs, "PlainListener", StopsAtSixthStep)
    stopped = tmp_path / "stopped"
    with pytest.raises(UserError, match=f"--resume {stopped}"):
        mobilenetv2.train(data=colours, out=stopped, recipe="small", settings=settings)
    mobilenetv2.train(resume=stopped)
    assert StopsAtSixthStep.steps == 8
    expected, got = (state_of(folder) for folder in (whole, stopped))
    assert set(got) == set(expected)
    assert {"network/ranges", "network/batches"} <= set(got)
    for name, tensor in got.items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)
    model, other = (load_model_file(folder / "model.safetensors") for folder in (whole, stopped))
    assert model.card.activation_ranges == other.card.activation_ranges
    for name, array in other.tensors.items():
        np.testing.assert_array_equal(array, model.tensors[name], err_msg=name)


def state_of(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    return load_file(folder / "state.safetensors")


def test_a_network_that_knows_nothing_cannot_begin() -> None:
    with pytest.raises(UserError, match="qat needs a trained model"):
        resolve("classify", "transfer", ["qat=true", "pretrained=none"])


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_a_model_goes_on_by_its_own_recipe(task: str, data: Path, colours: Path, tmp_path: Path) -> None:
    pictures = colours if task == "classify" else data
    own = {"classify": ["augmentation=none"], "detect": ["anchors=fit", "zoom_out=0.1"], "segment": ["decoder=none"]}
    before = trained(task, pictures, tmp_path / "before", "batch_size=3", "optimizer=sgd", *own[task])
    start = tmp_path / "before/model.safetensors"
    run = mobilenetv2.train(data=pictures, out=tmp_path / "qat", qat=start, settings=["epochs=1"])
    after = load_model_file(run / "model.safetensors")
    assert after.card.architecture == before.card.architecture
    assert after.card.preprocessing == before.card.preprocessing
    assert after.card.activation_ranges
    was, recipe = before.card.training["recipe"], after.card.training["recipe"]
    # The input's width is written out, where 0 stands for that of a square.
    changed = {"qat", "pretrained", "optimizer", "learning_rate", "head_learning_rate", "measure_every", "input_width"}
    assert {name for name in was if was[name] != recipe[name]} <= changed
    assert (recipe["qat"], recipe["optimizer"], recipe["learning_rate"], recipe["batch_size"]) == (
        True,
        "adamw",
        1e-5,
        3,
    )


def test_models_in_the_box_and_of_another_task(data: Path) -> None:
    for name, width in (("cifar10", 1.0), ("bccd", 1.0), ("camvid", 1.0)):
        card = load_model_file(find_model(name)).card
        recipe = resolve_qat(card, name)
        assert (recipe.qat, recipe.width, recipe.pretrained) == (True, width, name)
        assert recipe.resolution == card.preprocessing.size_hw[0]
        assert recipe.ema_decay == card.training["stages"][-1]["ema_decay"]
    with pytest.raises(UserError, match="qat bccd: is for task 'detect', not 'segment'"):
        mobilenetv2.train("segment", data=data, qat="bccd")
    with pytest.raises(UserError, match="recipe paper: a model given as qat goes on by its own"):
        mobilenetv2.train(data=data, qat="bccd", recipe="paper")
