"""Training a detector as a user meets it: it learns, it resumes exactly, it refuses what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mobilenetv2
from mobilenetv2.data.shapes import write_shapes
from mobilenetv2.detector import Detector
from mobilenetv2.errors import DataError, UserError
from mobilenetv2.evaluation.detect import DetectionEvaluation
from mobilenetv2.modelfile import load_model_file
from mobilenetv2.predictions import Detections
from mobilenetv2.training import run as runs
from mobilenetv2.training.progress import PlainListener

# The smallest training that goes through every part of the loop.
QUICK = (
    "pretrained=none",
    "width=0.1",
    "resolution=64",
    "epochs=2",
    "warmup_epochs=0",
    "measure_every=1",
    "batch_size=4",
    "workers=0",
    "ema_decay=0.9",
)
PLAIN = ("flip=0", "crop=0", "zoom_out=0", "photometric=0")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, train=12, val=4)
    return folder


def test_a_run_is_whole_and_its_model_works(shapes: Path, tmp_path: Path) -> None:
    run = mobilenetv2.train("detect", data=shapes, out=tmp_path / "run", settings=[*QUICK, "anchors=fit", "mosaic=0.3"])
    model = load_model_file(run / "model.safetensors")
    assert model.card.task == "detect"
    assert isinstance(model.card.architecture, Detector)
    assert model.card.postprocessing is not None
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [set(line) & {"val_AP", "val_AP50"} for line in lines] == [{"val_AP", "val_AP50"}] * 2
    evaluation = mobilenetv2.evaluate(run / "model.safetensors", shapes)
    assert isinstance(evaluation, DetectionEvaluation)
    assert evaluation.card_metrics() == model.card.metrics
    assert (run / "report.html").stat().st_size > 1000
    picture = next((shapes).rglob("val/*.*"))
    (answer,) = mobilenetv2.predict(picture, model=run / "model.safetensors")
    assert isinstance(answer, Detections)
    report = mobilenetv2.export(run / "model.safetensors", out=tmp_path / "shapes.onnx", pictures=[picture])
    assert report.path.is_file()
    # Its backbone can begin another training, and so can all of it.
    again = [*QUICK, f"pretrained={run / 'model.safetensors'}", "epochs=1", "learning_rate=0", "head_learning_rate=0"]
    follower = mobilenetv2.train("detect", data=shapes, out=tmp_path / "again", settings=again)
    card = load_model_file(follower / "model.safetensors").card
    assert card.architecture == model.card.architecture
    assert card.training["pretrained"] == "model.safetensors"


def test_a_stopped_run_ends_as_if_it_had_not_been(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*QUICK, "mosaic=0.5", "class_loss=quality", "measure_every=2"]
    whole = mobilenetv2.train("detect", data=shapes, out=tmp_path / "whole", settings=settings)

    class StopsAtFourthStep(PlainListener):
        steps = 0

        def step(self, loss: float, images_per_s: float) -> None:
            StopsAtFourthStep.steps += 1
            if StopsAtFourthStep.steps == 4:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runs, "PlainListener", StopsAtFourthStep)
    stopped = tmp_path / "stopped"
    with pytest.raises(UserError, match=f"train detect --resume {stopped}"):
        mobilenetv2.train("detect", data=shapes, out=stopped, settings=settings)
    mobilenetv2.train(resume=stopped)
    assert StopsAtFourthStep.steps == 6

    def tensors(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
        return load_model_file(folder / "model.safetensors").tensors

    expected = tensors(whole)
    for name, tensor in tensors(stopped).items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)
    # Only the last epoch was measured.
    lines = [json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert ["val_AP" in line for line in lines] == [False, True]


def test_bad_annotations_stop_it_and_can_be_skipped(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    annotations = next(folder.rglob("*train*.json"))
    values = json.loads(annotations.read_text())
    values["annotations"][0]["bbox"] = [5, 5, -3, 4]
    values["annotations"][1]["bbox"] = [500, 5, 10, 10]
    annotations.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"2 annotations are wrong \(first: .*train.*json.*--skip-bad"):
        mobilenetv2.train("detect", data=folder, out=tmp_path / "run", settings=QUICK)
    settings = [*QUICK, "epochs=1"]
    mobilenetv2.train("detect", data=folder, out=tmp_path / "skips", settings=settings, skip_bad=True)
    assert "left out 2 bad annotations" in capsys.readouterr().err


def test_wrong_beginnings_are_named(shapes: Path, tmp_path: Path, colours: Path) -> None:
    with pytest.raises(UserError, match=r"width 1, not of mobilenet_v2 with width 0.5"):
        mobilenetv2.train("detect", data=shapes, out=tmp_path / "a", settings=["pretrained=cifar10", "width=0.5"])
    with pytest.raises(UserError, match="not what the pretrained weights 'cifar10' were made with"):
        mobilenetv2.train("detect", data=shapes, out=tmp_path / "b", settings=["pretrained=cifar10", "numerics=torch"])
    with pytest.raises(DataError, match="holds no boxes"):
        mobilenetv2.train("detect", data=colours, out=tmp_path / "c", settings=QUICK)
    with pytest.raises(UserError, match=r"task 'detekt' is not known.*did you mean 'detect'"):
        mobilenetv2.train("detekt", data=shapes, out=tmp_path / "d")


@pytest.mark.slow
def test_four_pictures_are_learnt_by_heart(tmp_path: Path) -> None:
    """The whole chain, from annotations to average precision, has no leak: AP 1.0 on what was trained on."""
    folder = tmp_path / "four"
    write_shapes(folder, train=4, val=1)
    values = json.loads(next(folder.rglob("*train*.json")).read_text())
    # val is train: what is asked is whether it can be learnt at all.
    pictures = {image["file_name"]: path for image in values["images"] for path in folder.rglob(image["file_name"])}
    same = tmp_path / "same"
    for split in ("train", "val"):
        (same / split).mkdir(parents=True)
        for name, path in pictures.items():
            with Image.open(path) as image:
                image.save(same / split / Path(name).name)
        renamed = [{**image, "file_name": Path(image["file_name"]).name} for image in values["images"]]
        (same / split / "annotations.json").write_text(json.dumps({**values, "images": renamed}))
    settings = [
        *("pretrained=cifar10", "resolution=128", "epochs=120", "measure_every=20", "batch_size=4", "workers=0"),
        *("anchors=fit", "ema_decay=0.9", "learning_rate=0.002", "head_learning_rate=0.004", "warmup_epochs=3"),
        *("weight_decay=0", *PLAIN),
    ]
    run = mobilenetv2.train("detect", data=same, out=tmp_path / "run", settings=settings)
    evaluation = mobilenetv2.evaluate(run / "model.safetensors", same)
    assert isinstance(evaluation, DetectionEvaluation)
    assert evaluation.metrics.AP == pytest.approx(1.0, abs=1e-6)
