"""Training as a user meets it: it learns, it resumes exactly, and it never leaves a broken run."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mobilenetv2
from conftest import QUICK, RandomModel, paint
from mobilenetv2.errors import DataError, UserError
from mobilenetv2.evaluation import Evaluation
from mobilenetv2.modelfile import load_model_file
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.training import run as runs
from mobilenetv2.training.progress import PlainListener


def tensors_of(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    return load_model_file(folder / "model.safetensors").tensors


def test_it_learns_and_leaves_a_whole_run(colours: Path, tmp_path: Path) -> None:
    settings = [*QUICK, "resolution=64", "batch_size=12", "epochs=16", "batch_norm_momentum=0.3"]
    run = mobilenetv2.train(data=colours, out=tmp_path / "run", recipe="small", settings=settings)
    model = load_model_file(run / "model.safetensors")
    assert model.card.labels == ("blue", "green", "red")
    assert model.card.metrics["top1"] >= 0.9
    assert model.card.name == "colours"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 17))
    assert lines[-1]["loss"] < lines[0]["loss"]
    recipe = json.loads((run / "run.json").read_text())["recipe"]
    assert recipe["epochs"] == 16
    assert (run / "report.html").stat().st_size > 1000
    # The card holds what `evaluate` prints.
    evaluation = mobilenetv2.evaluate(run / "model.safetensors", colours)
    assert isinstance(evaluation, Evaluation)
    assert round(evaluation.top1, 6) == model.card.metrics["top1"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_run_ends_as_if_it_had_not_been(
    colours: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*QUICK, f"workers={workers}", "mixup=0.2", "cutmix=0.5", "augmentation=trivial"]
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
    assert StopsAtSixthStep.steps == 6
    mobilenetv2.train(resume=stopped)
    assert StopsAtSixthStep.steps == 8
    expected = tensors_of(whole)
    for name, tensor in tensors_of(stopped).items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)

    def history(folder: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    assert history(stopped) == history(whole)


def test_frozen_stages_stay_as_they_are(colours: Path, tmp_path: Path) -> None:
    settings = [*QUICK, "freeze_stages=2", "epochs=1"]
    before = mobilenetv2.train(data=colours, out=tmp_path / "a", recipe="small", settings=[*settings, "seed=1"])
    after = mobilenetv2.train(
        data=colours, out=tmp_path / "b", recipe="small", settings=[*settings, "seed=1", "learning_rate=0.001"]
    )
    one, other = tensors_of(before), tensors_of(after)
    for name, tensor in one.items():
        same = np.array_equal(tensor, other[name])
        assert same == name.startswith(("stem.", "stages.0.")), name


def test_the_papers_recipe_runs(colours: Path, tmp_path: Path) -> None:
    settings = ["width=0.35", "resolution=32", "epochs=1", "batch_size=8", "workers=0"]
    run = mobilenetv2.train(data=colours, out=tmp_path / "run", recipe="paper", settings=settings)
    assert load_model_file(run / "model.safetensors").card.architecture.numerics == "tf"


def test_a_resolution_that_is_no_multiple_of_32_is_right(colours: Path, tmp_path: Path) -> None:
    run = mobilenetv2.train(data=colours, out=tmp_path / "run", recipe="small", settings=[*QUICK, "resolution=45"])
    assert load_model_file(run / "model.safetensors").card.preprocessing.size_hw == (45, 45)
    assert mobilenetv2.evaluate(run / "model.safetensors", colours).images == 12


def test_what_starts_from_sampled_weights_is_trained_on_every_pixel(
    colours: Path, tmp_path: Path, random_model: RandomModel
) -> None:
    theirs = Preprocessing(size_hw=(32, 32), resize="central", crop_fraction=0.875, interpolation="sampled")
    start = tmp_path / "slim.safetensors"
    random_model(preprocessing=theirs, numerics="tf", num_classes=3).save(start)
    settings = [*QUICK, f"pretrained={start}", "epochs=1", "augmentation=trivial"]
    run = mobilenetv2.train(data=colours, out=tmp_path / "run", settings=settings)
    trained = load_model_file(run / "model.safetensors").card.preprocessing
    assert (trained.resize, trained.interpolation) == ("crop", "bilinear")
    assert mobilenetv2.evaluate(run / "model.safetensors", colours).images == 12


def test_a_loss_that_is_not_finite_stops_with_a_remedy(colours: Path, tmp_path: Path) -> None:
    settings = [*QUICK, "optimizer=sgd", "learning_rate=100", "head_learning_rate=100", "epochs=60"]
    with pytest.raises(UserError, match="smaller --set learning_rate"):
        mobilenetv2.train(data=colours, out=tmp_path / "run", recipe="small", settings=settings)


def test_bad_pictures_are_found_before_training(colours: Path, tmp_path: Path) -> None:
    (colours / "train/red/bad.jpg").write_text("not a picture")
    (colours / "train/red/empty.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"2 of 50 images cannot be decoded \(first: \S+/train/red/bad.jpg: is not"
    ) as caught:
        mobilenetv2.train(data=colours, out=tmp_path / "run", recipe="small", settings=QUICK)
    assert "mobilenetv2 check" in str(caught.value)
    assert "\n" not in str(caught.value)
    run = mobilenetv2.train(
        data=colours, out=tmp_path / "other", recipe="small", settings=[*QUICK, "epochs=1"], skip_bad=True
    )
    assert load_model_file(run / "model.safetensors").card.training["images"] == 36


def test_a_run_is_never_overwritten(colours: Path, tmp_path: Path) -> None:
    settings = [*QUICK, "epochs=1"]
    run = mobilenetv2.train(data=colours, out=tmp_path / "run", recipe="small", settings=settings)
    content = (run / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="holds a run already"):
        mobilenetv2.train(data=colours, out=run, recipe="small", settings=settings)
    assert (run / "model.safetensors").read_bytes() == content


def test_resuming_a_damaged_or_foreign_state_is_refused(colours: Path, tmp_path: Path) -> None:
    run = mobilenetv2.train(data=colours, out=tmp_path / "run", recipe="small", settings=[*QUICK, "epochs=1"])
    state = run / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(UserError, match="is not the state of this run"):
        mobilenetv2.train(resume=run)
    with pytest.raises(UserError, match="holds no run"):
        mobilenetv2.train(resume=tmp_path)


def test_a_disk_that_is_full_is_said_and_the_old_state_stays(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = mobilenetv2.train(data=colours, out=tmp_path / "run", recipe="small", settings=[*QUICK, "epochs=1"])
    before = {file.name: file.read_bytes() for file in run.iterdir()}

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UserError, match="the disk is full"):
        load_model_file(run / "model.safetensors").save(run / "model.safetensors")
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_too_few_pictures_for_a_batch_still_train(tmp_path: Path) -> None:
    for name, colour in (("a", (200, 0, 0)), ("b", (0, 0, 200))):
        for index in range(3):
            paint(tmp_path / "few" / name / f"{index}.png", colour, index)
    run = mobilenetv2.train(
        data=tmp_path / "few", out=tmp_path / "run", recipe="small", settings=[*QUICK, "batch_size=64"]
    )
    assert (run / "model.safetensors").exists()


@pytest.mark.slow
def test_ten_killed_trainings_never_leave_a_broken_run(colours: Path, tmp_path: Path) -> None:
    import random
    import subprocess
    import time

    run = tmp_path / "run"
    settings = [part for setting in (*QUICK, "epochs=400", "save_every_s=0") for part in ("--set", setting)]
    start = [sys.executable, "-m", "mobilenetv2", "train", "classify", "--data", str(colours), "--out", str(run)]
    start += ["--recipe", "small", *settings]
    resume = [sys.executable, "-m", "mobilenetv2", "train", "classify", "--resume", str(run)]
    moments = random.Random(0)
    epochs: list[int] = []
    for kill in range(10):
        log = (tmp_path / f"{kill}.log").open("w")
        process = subprocess.Popen(start if kill == 0 else resume, stderr=log, stdout=log)
        # Until the first epoch of this process is saved, then a random moment later.
        before, patience = epochs[-1] if epochs else 0, time.monotonic() + 120
        while _epochs(run) <= before and time.monotonic() < patience and process.poll() is None:
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 1))
        assert process.poll() is None, (tmp_path / f"{kill}.log").read_text()
        process.kill()
        process.wait()
        log.close()
        epochs.append(_epochs(run))
        model = load_model_file(run / "model.safetensors")
        assert model.card.labels == ("blue", "green", "red")
        assert not torch.tensor([bool(np.isnan(t).any()) for t in model.tensors.values()]).any()
    assert epochs == sorted(epochs)
    assert epochs[0] >= 1
    # It still goes on, and stops cleanly when asked to.
    last = subprocess.Popen(resume, stderr=subprocess.PIPE, text=True)
    patience = time.monotonic() + 120
    while _epochs(run) <= epochs[-1] and time.monotonic() < patience:
        time.sleep(0.05)
    last.send_signal(signal.SIGINT)
    _, errors = last.communicate(timeout=60)
    assert last.returncode == 2, errors
    assert f"--resume {run}" in errors


def _epochs(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0
