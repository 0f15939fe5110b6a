"""`mobilenetv2 convert`: other libraries' files on the disk become model files, proved, or a line says why not."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.numpy import save_file
from torch import nn
from torchvision.models import mobilenet_v2

import mobilenetv2
from conftest import RandomModel
from mobilenetv2 import cli, load_model_file
from mobilenetv2.architecture import Architecture
from mobilenetv2.errors import ExportError, ModelFileError, UserError
from mobilenetv2.preprocessing import HALF, Preprocessing
from mobilenetv2.runtime.drawn import draw_pictures
from mobilenetv2.weights.checkpoint import as_array
from mobilenetv2.weights.conversion import Conversion
from tflite_files import tflite_file


def lively(network: nn.Module) -> nn.Module:
    """With statistics that fit its weights, so that answers depend on the picture."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 64, 64))
    return network.eval()


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: as_array(tensor) for name, tensor in network.state_dict().items()}


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    """torchvision's, width .35, three classes."""
    path = tmp_path / "net.pth"
    torch.save(lively(mobilenet_v2(width_mult=0.35, num_classes=3)).state_dict(), path)
    return path


def convert(checkpoint: Path, *settings: str, **options: Any) -> Conversion:
    options = {"resolution": 64, "out": checkpoint.parent / "made.safetensors", **options}
    return mobilenetv2.convert(checkpoint, settings=settings, **options)


def test_a_pth_of_torchvision_is_recognised_and_proved(pth: Path) -> None:
    conversion = convert(pth, name="flowers", licence="MIT")
    assert conversion.proof is not None
    assert conversion.proof.reference.startswith("torchvision ")
    assert conversion.proof.agreement == 1
    assert conversion.proof.largest_difference is not None
    assert conversion.proof.largest_difference < 1e-4
    card = load_model_file(conversion.path).card
    assert card.architecture == Architecture(width=0.35, num_classes=3)
    assert card.preprocessing.resize == "crop"
    assert (card.name, card.licence, card.labels) == ("flowers", "MIT", ("class 0", "class 1", "class 2"))
    record = card.training["converted"]
    assert (record["library"], record["padding"], record["batch_norm_eps"]) == ("torchvision", "symmetric", 1e-5)
    assert record["sha256"] == hashlib.sha256(pth.read_bytes()).hexdigest()


def test_the_command_says_what_it_found(
    pth: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    monkeypatch.setattr(sys, "argv", ["mobilenetv2", "convert", str(pth), "-o", str(out), "--resolution", "64"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out}\n"
    assert "library           torchvision" in shown.err
    assert "9 pictures answered by torchvision" in shown.err
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--json", "--no-proof"])
    with pytest.raises(SystemExit):
        cli.main()
    answer = json.loads(capsys.readouterr().out)
    assert (answer["library"], answer["width"], answer["proof"]) == ("torchvision", 0.35, None)
    assert "--no-proof" in answer["unproved"]


def test_converting_then_exporting_keeps_the_answers(pth: Path, tmp_path: Path) -> None:
    theirs = mobilenet_v2(width_mult=0.35, num_classes=3)
    theirs.load_state_dict(torch.load(pth))
    model = convert(pth, "resize=stretch").path
    report = mobilenetv2.export(model, out=tmp_path / "m.onnx")
    assert report.largest_difference is not None
    assert report.largest_difference < 1e-4
    picture = draw_pictures()[7][:64, :64]
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        pixels = (torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255 - mean) / std
        expected = theirs.eval()(pixels[None]).softmax(1)[0].numpy()
    found = mobilenetv2.load(tmp_path / "m.onnx").predict(picture)
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)  # type: ignore[union-attr]


def test_what_a_training_wraps_around_is_taken_off(tmp_path: Path) -> None:
    network = lively(mobilenet_v2(width_mult=0.35, num_classes=3))
    wrapped = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "optimizer": {}}, tmp_path / "net.pth")
    conversion = convert(tmp_path / "net.pth")
    assert conversion.proof is not None
    assert conversion.proof.agreement == 1


def test_a_folder_of_timm_brings_its_conventions(tmp_path: Path) -> None:
    folder = tmp_path / "mobilenetv2_035"
    folder.mkdir()
    save_file(arrays(lively(timm.create_model("mobilenetv2_035", num_classes=4))), folder / "model.safetensors")
    cfg = {
        "mean": list(HALF),
        "std": list(HALF),
        "crop_pct": 0.9,
        "interpolation": "bilinear",
        "input_size": [3, 96, 96],
    }
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": cfg}))
    conversion = convert(folder, resolution=None, out=tmp_path / "made.safetensors")
    assert conversion.proof is not None
    assert conversion.proof.reference.startswith("timm ")
    card = load_model_file(conversion.path).card
    assert card.name == "mobilenetv2_035"
    assert card.preprocessing == Preprocessing(
        size_hw=(96, 96), resize="crop", crop_fraction=0.9, mean_rgb=HALF, std_rgb=HALF
    )


def test_another_epsilon_is_worked_into_the_weights(pth: Path) -> None:
    theirs = mobilenet_v2(width_mult=0.35, num_classes=3, norm_layer=lambda size: nn.BatchNorm2d(size, eps=0.01))
    theirs.load_state_dict(torch.load(pth))
    model = load_model_file(convert(pth, "eps=0.01", "resize=stretch", "scaling=unit", proof=False).path)
    picture = draw_pictures()[7][:64, :64]
    with torch.inference_mode():
        expected = theirs.eval()(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255).softmax(1)[0].numpy()
    found = mobilenetv2.load(pth.parent / "made.safetensors").predict(picture)
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)  # type: ignore[union-attr]
    assert model.card.training["converted"]["batch_norm_eps"] == 0.01


def test_a_wrong_convention_does_not_pass_the_proof(pth: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not answer as the original"):
        convert(pth, "padding=same")
    assert not (tmp_path / "made.safetensors").exists()


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("padding=same", "numerics", "tf"),
        ("padding=trailing", "numerics", "keras"),
        ("dilation=smp", "dilation", "smp"),
        ("output_stride=8", "output_stride", 8),
    ],
)
def test_conventions_are_in_the_card(pth: Path, setting: str, field: str, value: object) -> None:
    card = load_model_file(convert(pth, setting, proof=False).path).card
    assert getattr(card.architecture, field) == value


def test_a_background_is_an_offset_of_the_labels(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(lively(mobilenet_v2(width_mult=0.35, num_classes=1001)).state_dict(), path)
    (tmp_path / "names.txt").write_text("".join(f"{at} thing {at}\n" for at in range(1000)))
    card = load_model_file(convert(path, proof=False, labels=tmp_path / "names.txt").path).card
    assert card.labels[:2] == ("background", "thing 0")
    card = load_model_file(convert(path, proof=False).path).card
    assert card.labels[:2] == ("background", "tench")
    with pytest.raises(UserError, match=r"has 1001 outputs, but there are 1000 labels given; give 1001$"):
        convert(path, "label_offset=0", proof=False, labels=tmp_path / "names.txt")


def test_a_quantised_file_keeps_its_ranges(random_model: RandomModel, tmp_path: Path) -> None:
    model = random_model(preprocessing=Preprocessing(size_hw=(64, 64)), numerics="tf")
    (tmp_path / "m.tflite").write_bytes(tflite_file(model, "uint8"))
    card = load_model_file(convert(tmp_path / "m.tflite", proof=False, resolution=None).path).card
    assert card.activation_ranges["stem"] == pytest.approx((0, 6), abs=0.03)
    assert (card.activation_levels, card.preprocessing.interpolation) == (256, "sampled")
    plain = load_model_file(convert(tmp_path / "m.tflite", "activations=float", proof=False, resolution=None).path).card
    assert (plain.activation_levels, plain.activation_ranges) == (0, card.activation_ranges)


def harm(path: Path) -> bytes:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return (Path.touch, (path.with_name("harm"),))

    return pickle.dumps({"features.0.0.weight": Harm()}, protocol=2)


def nan(path: Path) -> bytes:
    network = mobilenet_v2(width_mult=0.35, num_classes=3)
    nn.init.constant_(network.features[18][0].weight, float("nan"))
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.getvalue()


def bomb(path: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(200 << 20))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda path: b"", "is empty"),
        (lambda path: b"no checkpoint at all", "no checkpoint that is known"),
        (lambda path: (path.parent / "net.pth").read_bytes()[:5000], "nothing in it was run"),
        (harm, "nothing in it was run"),
        (nan, "finite"),
        (bomb, "model.weights.h5"),
        (lambda path: b"\x1c\0\0\0TFL3" + bytes(200), "damaged|depthwise|graphs"),
        (lambda path: b"\x89HDF\r\n\x1a\n" + bytes(600), "damaged"),
        (lambda path: b"\x1f\x8b" + bytes(100), "checkpoint|archive|damaged"),
    ],
    ids=["empty", "text", "cut", "pickle", "nan", "bomb", "tflite", "hdf5", "gzip"],
)
def test_bad_files_end_in_one_line(
    pth: Path,
    content: Callable[[Path], bytes],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = pth.with_name("bad.bin")
    path.write_bytes(content(path))
    out = pth.with_name("made.safetensors")
    monkeypatch.setattr(sys, "argv", ["mobilenetv2", "convert", str(path), "-o", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert shown.err.startswith(f"mobilenetv2: {path}: ")
    assert shown.err.count("\n") == 1
    assert re.search(words, shown.err)
    assert sorted(each.name for each in pth.parent.iterdir()) == ["bad.bin", "net.pth"]


def test_a_model_file_is_not_converted_again(random_model: RandomModel, tmp_path: Path) -> None:
    random_model(preprocessing=Preprocessing(size_hw=(32, 32))).save(tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match="model file of ours already"):
        convert(tmp_path / "m.safetensors")


def test_options_that_do_not_fit_are_named(random_model: RandomModel, pth: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'padding'"):
        convert(pth, "pading=same")
    with pytest.raises(UserError, match="did you mean 'same'"):
        convert(pth, "padding=some")
    with pytest.raises(UserError, match="label_offset 5"):
        convert(pth, "label_offset=5")
    with pytest.raises(UserError, match="is the checkpoint itself"):
        convert(pth, out=pth)
    with pytest.raises(ModelFileError, match="cannot be read"):
        convert(tmp_path / "none.pth")
    model = random_model(preprocessing=Preprocessing(size_hw=(64, 64)), numerics="tf")
    (tmp_path / "m.tflite").write_bytes(tflite_file(model))
    with pytest.raises(UserError, match="says its padding itself"):
        convert(tmp_path / "m.tflite", "padding=same")


def test_a_folder_of_transformers_brings_its_labels(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "hub"
    names = {0: "background", 1: "cat", 2: "dog"}
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, id2label=names, label2id={})
    network = transformers.MobileNetV2ForImageClassification(config)
    network.save_pretrained(folder)
    processor: dict[str, Any] = {
        "image_mean": list(HALF),
        "image_std": list(HALF),
        "crop_size": {"height": 64, "width": 64},
    }
    processor |= {"size": {"shortest_edge": 80}, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    conversion = convert(folder, resolution=None, out=tmp_path / "made.safetensors")
    assert conversion.proof is not None
    assert conversion.proof.reference.startswith("transformers ")
    card = load_model_file(conversion.path).card
    assert card.labels == ("background", "cat", "dog")
    assert card.preprocessing == Preprocessing(
        size_hw=(64, 64), resize="crop", crop_fraction=0.8, mean_rgb=HALF, std_rgb=HALF
    )


@pytest.mark.parametrize(
    "config",
    [
        "[1]",
        "{",
        '{"pretrained_cfg": {"mean": "no", "std": [1, 1, 1]}}',
        '{"pretrained_cfg": {"input_size": [3, "a", "b"]}}',
        '{"pretrained_cfg": {"crop_pct": 7}}',
        '{"output_stride": "x"}',
        '{"layer_norm_eps": "x"}',
    ],
)
def test_nonsense_beside_the_weights_is_one_line(tmp_path: Path, config: str) -> None:
    save_file(arrays(mobilenet_v2(width_mult=0.35, num_classes=3)), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError) as caught:
        convert(tmp_path, resolution=None, proof=False)
    assert "\n" not in str(caught.value)
