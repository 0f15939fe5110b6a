"""Training a segmenter as a user meets it: it learns, it resumes exactly, it refuses what is wrong."""

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
from mobilenetv2.data.mask_files import MaskFile
from mobilenetv2.data.masked import MaskData, MaskedPicture
from mobilenetv2.data.shapes import write_shapes
from mobilenetv2.data.tree import FolderTree
from mobilenetv2.errors import DataError, UserError
from mobilenetv2.evaluation.segment import SegmentationEvaluation
from mobilenetv2.modelfile import load_model_file
from mobilenetv2.predictions import Segmentation
from mobilenetv2.tasks.segment import input_size
from mobilenetv2.training import run as runs
from mobilenetv2.training.progress import PlainListener
from mobilenetv2.training.recipes import SegmentRecipe, resolve

# The smallest training that goes through every part of the loop.
QUICK = (
    "pretrained=none",
    "width=0.1",
    "resolution=49",
    "input_width=65",
    "epochs=2",
    "warmup_epochs=0",
    "measure_every=1",
    "batch_size=4",
    "workers=0",
    "ema_decay=0.9",
)
PLAIN = ("flip=0", "photometric=0", "scale_min=1", "scale_max=1")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, train=12, val=4, size_hw=(96, 128))
    return folder


def test_a_run_is_whole_and_its_model_works(shapes: Path, tmp_path: Path) -> None:
    run = mobilenetv2.train("segment", data=shapes, out=tmp_path / "run", settings=QUICK)
    model = load_model_file(run / "model.safetensors")
    assert model.card.task == "segment"
    assert model.card.segmenter.decoder == "light"
    assert model.card.labels[0] == "ground"
    assert model.card.preprocessing.size_hw == (49, 65)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all({"val_miou", "val_pixel_accuracy"} <= set(line) for line in lines)
    evaluation = mobilenetv2.evaluate(run / "model.safetensors", shapes)
    assert isinstance(evaluation, SegmentationEvaluation)
    assert evaluation.card_metrics() == model.card.metrics
    # The loop measures with torch what the runtime measures with the file.
    best = max(line["val_miou"] for line in lines)
    assert evaluation.metrics.miou == pytest.approx(best, abs=1e-3)
    assert (run / "report.html").stat().st_size > 1000
    picture = next((shapes / "images").rglob("val/*.jpg"))
    (answer,) = mobilenetv2.predict(picture, model=run / "model.safetensors")
    assert isinstance(answer, Segmentation)
    assert answer.mask.shape == (96, 128)
    report = mobilenetv2.export(run / "model.safetensors", out=tmp_path / "shapes.onnx", pictures=[picture])
    assert report.pixels == 96 * 128
    # Its backbone can begin another training, and so can all of it.
    again = [*QUICK, f"pretrained={run / 'model.safetensors'}", "epochs=1", "learning_rate=0", "head_learning_rate=0"]
    follower = mobilenetv2.train("segment", data=shapes, out=tmp_path / "again", settings=again)
    followed = load_model_file(follower / "model.safetensors")
    assert followed.card.training["pretrained"] == "model.safetensors"
    np.testing.assert_array_equal(followed.tensors["classifier.weight"], model.tensors["classifier.weight"])
    # With another decoder only the backbone fits.
    other = mobilenetv2.train("segment", data=shapes, out=tmp_path / "other", settings=[*again, "decoder=none"])
    tensors = load_model_file(other / "model.safetensors").tensors
    name = "backbone.stem.conv.weight"
    np.testing.assert_array_equal(tensors[name], model.tensors[name])
    # What a segmenter lacks cannot begin a detector.
    with pytest.raises(UserError, match="of a segmenter, which has no last convolution"):
        mobilenetv2.train(
            "detect", data=shapes, out=tmp_path / "d", settings=[f"pretrained={run / 'model.safetensors'}"]
        )


@pytest.mark.parametrize(
    "settings",
    [
        ("backbone=mobilenet_v1", "decoder=none", "aspp=true", "output_stride=8", "class_balance=0", "dice=0"),
        ("hard_examples=0.2", "crop=0.7", "schedule=poly", "optimizer=sgd", "nesterov=false", "ema_decay=0"),
    ],
)
def test_other_ways_to_train(shapes: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    run = mobilenetv2.train("segment", data=shapes, out=tmp_path / "run", settings=[*QUICK, "epochs=1", *settings])
    card = load_model_file(run / "model.safetensors").card
    values = dict(setting.split("=") for setting in settings)
    assert card.segmenter.backbone == values.get("backbone", "mobilenet_v2")
    assert card.segmenter.aspp is ("aspp" in values)
    assert card.segmenter.output_stride == int(values.get("output_stride", 16))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(360, 480)], (369, 481)),
        ([(100, 100), (50, 300), (97, 129)], (97, 129)),
        ([(4000, 6000)], (353, 513)),
        ([(1, 1)], (17, 17)),
    ],
)
def test_the_input_follows_the_pictures(sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    pictures = tuple(
        MaskedPicture(
            name=f"{number}.jpg",
            size_hw=size_hw,
            mask=MaskFile(name=f"{number}.png"),
            places=np.zeros(256, np.int16),
            pixels=np.ones(1, np.int64),
            ignored=0,
        )
        for number, size_hw in enumerate(sizes)
    )
    tree = FolderTree(path=Path(), names=())
    data = MaskData(tree=tree, format="index", classes=("sky",), splits={"train": pictures}, derived=False, problems=())
    assert input_size(data, SegmentRecipe()) == expected
    assert input_size(data, SegmentRecipe(resolution=65)) == (65, 65)
    assert input_size(data, SegmentRecipe(resolution=65, input_width=97)) == (65, 97)
    with pytest.raises(UserError, match="input_width 97 needs the height too"):
        SegmentRecipe(input_width=97)


def test_the_papers_recipe_is_tensorflows() -> None:
    recipe = resolve("segment", "paper")
    assert (recipe.optimizer, recipe.momentum, recipe.nesterov, recipe.schedule) == ("sgd", 0.9, False, "poly")
    assert (recipe.learning_rate, recipe.poly_power, recipe.weight_decay) == (0.007, 0.9, 4e-5)
    # 30,000 steps over PASCAL VOC's augmented training set.
    assert recipe.epochs * 10_582 / recipe.batch_size == pytest.approx(30_000, rel=0.01)


def test_a_stopped_run_ends_as_if_it_had_not_been(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*QUICK, "measure_every=2"]
    whole = mobilenetv2.train("segment", data=shapes, out=tmp_path / "whole", settings=settings)

    class StopsAtFourthStep(PlainListener):
        steps = 0

        def step(self, loss: float, images_per_s: float) -> None:
            StopsAtFourthStep.steps += 1
            if StopsAtFourthStep.steps == 4:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runs, "PlainListener", StopsAtFourthStep)
    stopped = tmp_path / "stopped"
    with pytest.raises(UserError, match=f"train segment --resume {stopped}"):
        mobilenetv2.train("segment", data=shapes, out=stopped, settings=settings)
    mobilenetv2.train(resume=stopped)
    assert StopsAtFourthStep.steps == 6

    def tensors(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
        return load_model_file(folder / "model.safetensors").tensors

    expected = tensors(whole)
    for name, tensor in tensors(stopped).items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)


def test_bad_masks_stop_it_and_can_be_skipped(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    first, second, third = sorted((folder / "masks/train").iterdir())[:3]
    Image.new("L", (5, 5)).save(first)
    Image.new("L", (128, 96), 77).save(second)
    third.unlink()
    with pytest.raises(DataError, match=r"3 masks are wrong \(first: .*--skip-bad"):
        mobilenetv2.train("segment", data=folder, out=tmp_path / "run", settings=QUICK)
    settings = [*QUICK, "epochs=1"]
    run = mobilenetv2.train("segment", data=folder, out=tmp_path / "skips", settings=settings, skip_bad=True)
    assert "left out 3 bad masks" in capsys.readouterr().err
    assert load_model_file(run / "model.safetensors").card.training["images"] == 9


def test_wrong_beginnings_are_named(shapes: Path, tmp_path: Path, colours: Path) -> None:
    with pytest.raises(UserError, match=r"width 1, not of mobilenet_v2 with width 0.5"):
        mobilenetv2.train("segment", data=shapes, out=tmp_path / "a", settings=["pretrained=cifar10", "width=0.5"])
    with pytest.raises(DataError, match="holds no masks"):
        mobilenetv2.train("segment", data=colours, out=tmp_path / "b", settings=QUICK)
    with pytest.raises(UserError, match="scale_min 3 is above scale_max 2; exchange them"):
        mobilenetv2.train("segment", data=shapes, out=tmp_path / "c", settings=["scale_min=3"])
    with pytest.raises(UserError, match="output stride 12 is not possible; it can be 32, 16 or 8"):
        mobilenetv2.train("segment", data=shapes, out=tmp_path / "d", settings=[*QUICK, "output_stride=12"])
    with pytest.raises(UserError, match="for 'classify' it is one number"):
        mobilenetv2.train("classify", data=colours, out=tmp_path / "e", resolution=(32, 48))


@pytest.mark.slow
def test_four_pictures_are_learnt_by_heart(tmp_path: Path) -> None:
    """The whole chain, from masks to mean IoU, has no leak: above .98 on what was trained on."""
    folder = tmp_path / "four"
    # Three pixels of the input for one of the picture, so that edges can be learnt to the pixel.
    write_shapes(folder, train=4, val=1, size_hw=(64, 64))
    # val is train: what is asked is whether it can be learnt at all.
    for kind in ("images", "masks"):
        shutil.rmtree(folder / kind / "val")
        shutil.copytree(folder / kind / "train", folder / kind / "val")
    settings = [
        *("pretrained=camvid", "resolution=193", "epochs=150", "measure_every=50", "batch_size=4", "workers=0"),
        *("ema_decay=0.9", "learning_rate=0.002", "head_learning_rate=0.004", "warmup_epochs=3", "weight_decay=0"),
        *PLAIN,
    ]
    run = mobilenetv2.train("segment", data=folder, out=tmp_path / "run", settings=settings)
    evaluation = mobilenetv2.evaluate(run / "model.safetensors", folder)
    assert isinstance(evaluation, SegmentationEvaluation)
    assert evaluation.metrics.miou is not None
    assert evaluation.metrics.miou > 0.98
