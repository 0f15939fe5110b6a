"""The command line: what it prints, and where, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import QUICK, RandomDetector, RandomModel, RandomSegmenter, paint
from mobilenetv2 import cli
from mobilenetv2.data.shapes import CLASSES, write_shapes
from mobilenetv2.masks import rle_decode
from mobilenetv2.postprocessing import Postprocessing
from mobilenetv2.preprocessing import Preprocessing


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, in this process."""
    monkeypatch.setattr(sys, "argv", ["mobilenetv2", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return code, shown.out, shown.err


@pytest.fixture
def model(tmp_path: Path, random_model: RandomModel) -> Path:
    path = tmp_path / "model.safetensors"
    random_model(preprocessing=Preprocessing(size_hw=(32, 32)), num_classes=3).save(path)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    paint(path, (200, 40, 40), seed=1)
    return path


def test_predict_prints_one_json_object_a_picture(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path, picture: Path, tmp_path: Path
) -> None:
    other = tmp_path / "blue.png"
    paint(other, (40, 40, 200), seed=2, size=31)
    words = ["predict", picture, other, "--model", model, "--json", "--save", tmp_path / "answers", "--top", 2]
    code, out, err = run(capsys, monkeypatch, *words)
    assert (code, err) == (0, "")
    first, second = (json.loads(line) for line in out.splitlines())
    assert first["source"] == str(picture)
    assert set(first) == {"source", "task", "model", "size_hw", "ms", "labels"}
    assert set(first["ms"]) == {"decode", "preprocess", "network", "postprocess"}
    assert second["size_hw"] == [31, 31]
    assert len(second["labels"]) == 2
    assert set(second["labels"][0]) == {"name", "index", "score"}
    assert sorted(file.name for file in (tmp_path / "answers").iterdir()) == ["blue.jpg", "red.jpg"]


def test_a_bad_picture_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path, picture: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    code, out, err = run(capsys, monkeypatch, "predict", bad, picture, "--model", model)
    assert code == 2
    assert out.startswith(f"{picture}: ")
    assert err.startswith(f"mobilenetv2: {bad}: ")
    assert err.count("\n") == 1


def test_standard_input_is_read_and_drawn(model: Path, picture: Path, tmp_path: Path) -> None:
    words = ["predict", "-", "--model", model, "--json", "--save", tmp_path / "answers"]
    done = subprocess.run(
        [sys.executable, "-m", "mobilenetv2", *map(str, words)],
        input=picture.read_bytes(),
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["source"] == "-"
    assert (tmp_path / "answers/picture.jpg").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "nothing.jpg", "--model", "MODEL"], "nothing.jpg"),
        (["predict", "x.jpg", "--model", "cifar11"], "model 'cifar11' is not known"),
        (["predict", "x.jpg", "--model", "no.safetensors"], "no such model file"),
        (["train", "classify"], "--data DIR"),
        (["train", "classify", "--data", "nowhere"], "no such folder"),
        (["train", "clasify", "--data", "x"], "did you mean 'classify'"),
        (["train", "classify", "--data", ".", "--width", "0"], "width 0"),
        (["train", "classify", "--data", ".", "--set", "epoch=2"], "did you mean 'epochs'"),
        (["train", "classify", "--resume", "."], "holds no run"),
        (["evaluate", "MODEL", "--data", "nowhere"], "no such folder"),
        (["export", "MODEL", "--to", "onx"], "did you mean 'onnx'"),
        (["check", "nowhere"], "no such folder"),
        (["describe", "mobilnet_v2"], "did you mean 'mobilenet_v2'"),
        (["describe", "resnet_101", "--width", "2"], "has no width to choose"),
        (["describe", "cifar10", "--output-stride", "8"], "a model's own"),
        (["paper", "tabel1"], "did you mean 'table1'"),
    ],
)
def test_errors_of_the_user_are_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: Path,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, monkeypatch, *(str(model) if word == "MODEL" else word for word in words))
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("mobilenetv2: ")
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(model: Path) -> None:
    words = ["--debug", "predict", "nothing.jpg", "--model", "no.onnx"]
    done = subprocess.run([sys.executable, "-m", "mobilenetv2", *words], capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr


def test_the_whole_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, colours: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, monkeypatch, "check", colours, "--json")
    assert code == 0
    assert json.loads(out)["images"] == 48
    settings = [word for setting in (*QUICK, "epochs=1") for word in ("--set", setting)]
    code, out, err = run(capsys, monkeypatch, "train", "classify", "--data", colours, "--recipe", "small", *settings)
    assert code == 0, err
    trained = Path(out.strip())
    assert trained == Path("runs/classify-1/model.safetensors")
    code, out, _ = run(capsys, monkeypatch, "evaluate", trained, "--data", colours, "--json", "--save", "measured")
    assert code == 0
    values = json.loads(out)
    assert {"task", "model", "data", "images", "top1", "top5", "per_class"} <= set(values)
    assert Path("measured/confusion.png").read_bytes().startswith(b"\x89PNG")
    assert values["top1"] == json.loads(Path("runs/classify-1/evaluation.json").read_text())["top1"]
    code, out, err = run(capsys, monkeypatch, "export", trained, "--to", "onnx", "--pictures", colours / "val")
    assert code == 0, err
    assert Path(out.strip()) == Path("model.onnx")
    picture = next((colours / "val/red").iterdir())
    code, out, _ = run(capsys, monkeypatch, "predict", picture, "--model", "model.onnx", "--json")
    assert code == 0
    assert json.loads(out)["labels"][0]["name"] in ("blue", "green", "red")
    code, out, _ = run(capsys, monkeypatch, "models", "--json")
    assert code == 0
    assert all(json.loads(line)["name"] for line in out.splitlines())


def test_importing_is_quick_and_brings_no_torch() -> None:
    heavy = ("torch", "numpy", "onnxruntime", "PIL")
    code = f"import sys, mobilenetv2; print(sorted(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_predicting_brings_no_torch(model: Path, picture: Path) -> None:
    code = (
        "import sys, mobilenetv2\n"
        f"mobilenetv2.load({str(model)!r}).predict({str(picture)!r})\n"
        "print(sorted(m for m in ('torch', 'onnx', 'rich', 'typer', 'h5py', 'matplotlib') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def imported(*words: object) -> set[str]:
    """The modules that a Python process loads."""
    command = [sys.executable, "-X", "importtime", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_predicting_a_photograph_loads_what_it_needs_alone(model: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (40, 30), (200, 40, 40)).save(photo)
    loaded = imported("-m", "mobilenetv2", "predict", photo, "--model", model, "--engine", "native")
    assert {"mobilenetv2._native", "numpy", "PIL.JpegImagePlugin"} <= loaded
    # Each would cost milliseconds or megabytes: other engines, other verbs, OpenSSL, parts of NumPy, other formats.
    # Some versions of NumPy or Pillow load a few by themselves.
    spared = {"onnxruntime", "torch", "rich", "mobilenetv2.api", "yaml", "_hashlib", "tempfile", "urllib.request"}
    spared |= {f"numpy.{part}" for part in ("random", "fft", "ma", "polynomial", "testing")}
    spared |= {f"PIL.{kind}ImagePlugin" for kind in ("Bmp", "Gif", "Png", "Ppm", "Tiff")}
    assert sorted(loaded & spared - imported("-c", "import numpy, PIL.JpegImagePlugin")) == []


def test_training_without_torch_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    done = subprocess.run(
        [sys.executable, "-m", "mobilenetv2", "train", "classify", "--data", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'mobilenetv2[train]'" in done.stderr


def test_a_figure_is_printed_and_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, out, err = run(capsys, monkeypatch, "paper", "figure5", "--out", tmp_path / "figures", "--json")
    assert code == 0
    rows = json.loads(out)["rows"]
    assert len(rows) == 22
    assert err == f"picture: {tmp_path / 'figures/figure5.png'}\n"
    assert (tmp_path / "figures/figure5.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def detector(tmp_path: Path, random_detector: RandomDetector) -> Path:
    path = tmp_path / "detector.safetensors"
    random_detector(
        preprocessing=Preprocessing(size_hw=(64, 64)), postprocessing=Postprocessing(score_threshold=0.6), num_classes=3
    ).save(path)
    return path


def test_boxes_are_printed_drawn_and_written_as_coco(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, detector: Path, picture: Path, tmp_path: Path
) -> None:
    words = ["predict", picture, "--model", detector, "--json", "--save", tmp_path / "found"]
    coco = tmp_path / "found.json"
    code, out, err = run(capsys, monkeypatch, *words, "--threshold", 0.2, "--coco", coco)
    assert (code, err) == (0, "")
    (values,) = (json.loads(line) for line in out.splitlines())
    assert set(values) == {"source", "task", "model", "size_hw", "ms", "detections"}
    assert set(values["detections"][0]) == {"name", "index", "score", "box_xyxy"}
    assert (tmp_path / "found/red.jpg").stat().st_size > 1000
    results = json.loads(coco.read_text())
    assert len(results) == len(values["detections"])
    assert results[0]["file_name"] == str(picture)
    assert results[0]["image_id"] == 1
    # The model's own threshold shows fewer.
    code, out, _ = run(capsys, monkeypatch, *words)
    assert len(json.loads(out)["detections"]) < len(values["detections"])
    code, out, _ = run(capsys, monkeypatch, "predict", picture, "--model", detector, "--threshold", 1)
    assert out == f"{picture}: nothing\n"
    code, out, _ = run(capsys, monkeypatch, "predict", picture, "--model", detector)
    assert " at " in out


def test_what_is_for_detectors_alone_is_refused_for_classifiers(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    detector: Path,
    picture: Path,
    tmp_path: Path,
) -> None:
    for words, message in (
        (["--model", model, "--threshold", 0.5], "a score threshold is for detectors"),
        (["--model", model, "--coco", tmp_path / "x.json"], "finds no boxes"),
        (["--model", detector, "--threshold", 2], "score threshold 2.0 is out of range; give 0 to 1"),
    ):
        code, out, err = run(capsys, monkeypatch, "predict", picture, *words)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1


def test_a_detector_is_checked_measured_and_exported(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    random_detector: RandomDetector,
    tmp_path: Path,
) -> None:
    shapes, path = tmp_path / "shapes", tmp_path / "m.safetensors"
    write_shapes(shapes, train=2, val=3)
    made = random_detector(preprocessing=Preprocessing(size_hw=(64, 64)), num_classes=len(CLASSES))
    replace(made, card=replace(made.card, labels=CLASSES)).save(path)
    code, out, _ = run(capsys, monkeypatch, "check", shapes, "--json")
    assert code == 0
    assert json.loads(out)["task"] == "detect"
    code, out, _ = run(capsys, monkeypatch, "evaluate", path, "--data", shapes, "--json", "--save", tmp_path / "e")
    assert code == 0
    assert {"AP", "AP50", "AP75", "per_class"} <= set(json.loads(out))
    assert sorted(file.name for file in (tmp_path / "e").iterdir()) == [
        "curves.png",
        "detections.json",
        "evaluation.json",
    ]
    exported = tmp_path / "m.onnx"
    code, out, _ = run(capsys, monkeypatch, "export", path, "--out", exported, "--pictures", shapes / "images/val")
    assert (code, out) == (0, f"{exported}\n")
    code, out, _ = run(capsys, monkeypatch, "evaluate", exported, "--data", shapes, "--json")
    assert code == 0


@pytest.fixture
def segmenter(tmp_path: Path, random_segmenter: RandomSegmenter) -> Path:
    path = tmp_path / "segmenter.safetensors"
    made = random_segmenter(
        preprocessing=Preprocessing(size_hw=(33, 49)), num_classes=len(CLASSES) + 1, decoder="light"
    )
    replace(made, card=replace(made.card, labels=("ground", *CLASSES))).save(path)
    return path


def test_masks_are_printed_drawn_and_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, segmenter: Path, picture: Path, tmp_path: Path
) -> None:
    words = ["predict", picture, "--model", segmenter]
    code, out, err = run(capsys, monkeypatch, *words, "--json", "--polygons", "--tiles", "--save", tmp_path / "found")
    assert (code, err) == (0, "")
    (values,) = (json.loads(line) for line in out.splitlines())
    assert set(values) == {"source", "task", "model", "size_hw", "ms", "segments"}
    assert set(values["segments"][0]) == {"name", "index", "pixels", "rle", "polygons"}
    assert sum(one["pixels"] for one in values["segments"]) == 24 * 24
    with Image.open(tmp_path / "found/red.png") as image:
        mask = np.asarray(image)
    for one in values["segments"]:
        np.testing.assert_array_equal(rle_decode(one["rle"]), mask == one["index"])
    assert (tmp_path / "found/red.jpg").stat().st_size > 1000
    code, out, _ = run(capsys, monkeypatch, *words, "--json")
    assert set(json.loads(out)["segments"][0]) == {"name", "index", "pixels", "rle"}
    code, out, _ = run(capsys, monkeypatch, *words)
    assert out.startswith(f"{picture}: ")
    assert "%" in out


def test_a_segmenter_is_checked_measured_and_exported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, segmenter: Path, tmp_path: Path
) -> None:
    shapes = tmp_path / "shapes"
    write_shapes(shapes, train=6, val=3)
    code, out, _ = run(capsys, monkeypatch, "check", shapes, "--task", "segment", "--json")
    assert code == 0
    assert (json.loads(out)["task"], json.loads(out)["format"]) == ("segment", "index")
    code, out, _ = run(capsys, monkeypatch, "evaluate", segmenter, "--data", shapes, "--json", "--save", tmp_path / "e")
    assert code == 0
    values = json.loads(out)
    assert {"miou", "pixel_accuracy", "boundary_f", "per_class"} <= set(values)
    assert sorted(file.name for file in (tmp_path / "e").iterdir()) == ["confusion.png", "evaluation.json"]
    exported = tmp_path / "m.onnx"
    code, out, err = run(
        capsys, monkeypatch, "export", segmenter, "--out", exported, "--pictures", shapes / "images/val"
    )
    assert (code, out) == (0, f"{exported}\n")
    assert "pixels of another class" in err
    code, out, _ = run(capsys, monkeypatch, "evaluate", exported, "--data", shapes, "--json")
    assert code == 0
    assert json.loads(out)["miou"] == pytest.approx(values["miou"], abs=1e-4)
    code, out, _ = run(capsys, monkeypatch, "describe", segmenter)
    assert "segmenter.safetensors at 33 x 49" in out.replace(str(tmp_path) + "/", "")


def test_what_is_for_segmenters_alone_is_refused_for_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path, picture: Path, tmp_path: Path
) -> None:
    for words, message in (
        (["predict", picture, "--model", model, "--tiles"], "is for task 'classify', not 'segment'"),
        (["train", "segment", "--data", tmp_path, "--resolution", "33*49"], "--resolution 33*49: give pixels"),
        (["train", "segment", "--data", tmp_path, "--resolution", "1x2x3"], "--resolution 1x2x3: give pixels"),
        (["train", "detect", "--data", tmp_path, "--resolution", "33x49"], "as the input is square"),
        (["train", "segment", "--data", tmp_path, "--set", "dise=1"], "there is no option 'dise' (did you mean 'dice'"),
        (["train", "segment", "--data", tmp_path, "--set", "crop=0"], "crop 0.0 is out of range"),
        (["check", tmp_path, "--task", "mask"], "task 'mask' is not known"),
    ):
        code, out, err = run(capsys, monkeypatch, *words)
        assert (code, out) == (2, ""), words
        assert message in err
        assert err.count("\n") == 1


def test_verbs_stay_functions_whatever_is_imported() -> None:
    """A package of the same name as a function would take its place once it is imported."""
    code = (
        "import importlib, pkgutil, mobilenetv2\n"
        "for module in pkgutil.walk_packages(mobilenetv2.__path__, 'mobilenetv2.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "assert all(callable(getattr(mobilenetv2, name)) for name in mobilenetv2.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
