"""The model file: it is read back as written, and nothing that could not be run gets through."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as save_safetensors

from conftest import RandomDetector, RandomModel
from mobilenetv2.errors import ModelFileError, UserError
from mobilenetv2.modelfile import CARD_KEY, FORMAT, Card, ModelFile, load_model_file, parse_model_file, tensor_shapes
from mobilenetv2.postprocessing import Postprocessing
from mobilenetv2.preprocessing import Preprocessing


@pytest.fixture
def model(random_model: RandomModel) -> ModelFile:
    return random_model(preprocessing=Preprocessing(size_hw=(64, 96)), num_classes=3)


@pytest.fixture
def detector(random_detector: RandomDetector) -> ModelFile:
    return random_detector(
        preprocessing=Preprocessing(size_hw=(64, 96)),
        postprocessing=Postprocessing(scores="softmax", iou_threshold=0.45),
        backbone="mobilenet_v1",
        anchors=tuple(((0.1, 0.25),) * count for count in (1, 2, 3, 4, 5, 6)),
    )


def with_card(model: ModelFile, change: dict[str, Any], **tensors: Any) -> bytes:
    """The bytes of a model file whose card and tensors were tampered with."""
    card = json.loads(model.card.to_json())
    for key, value in change.items():
        *path, last = key.split(".")
        place = card
        for part in path:
            place = place[int(part) if isinstance(place, list) else part]
        if isinstance(place, list):
            place[int(last)] = value
            continue
        if value is None:
            del place[last]
        else:
            place[last] = value
    return save_safetensors({**model.tensors, **tensors}, metadata={CARD_KEY: json.dumps(card)})


def test_it_is_read_back_as_written(model: ModelFile, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model.save(path)
    loaded = load_model_file(path)
    assert loaded.card == model.card
    assert list(loaded.tensors) == list(model.tensors)
    for name, tensor in model.tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name], tensor)
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


def test_half_precision_halves_the_kernels_only(model: ModelFile, tmp_path: Path) -> None:
    model.save(tmp_path / "whole.safetensors")
    model.save(tmp_path / "half.safetensors", half=True)
    whole, half = (tmp_path / f"{name}.safetensors" for name in ("whole", "half"))
    kernels = sum(tensor.size for tensor in model.tensors.values() if tensor.ndim > 1)
    assert abs(whole.stat().st_size - half.stat().st_size - 2 * kernels) < 512
    loaded = load_model_file(half)
    for name, tensor in model.tensors.items():
        assert loaded.tensors[name].dtype == np.float32
        np.testing.assert_allclose(loaded.tensors[name], tensor, rtol=0 if tensor.ndim == 1 else 1e-3, atol=1e-6)


def test_who_runs_a_model_gets_its_kernels_as_they_are_stored(model: ModelFile, tmp_path: Path) -> None:
    for half, kind in ((True, np.float16), (False, np.float32)):
        path = tmp_path / f"{half}.safetensors"
        model.save(path, half=half)
        to_run, usual = load_model_file(path, to_run=True), load_model_file(path)
        assert list(to_run.tensors) == list(usual.tensors)
        for name, tensor in usual.tensors.items():
            assert to_run.tensors[name].dtype == (kind if name.endswith(".conv.weight") else np.float32)
            np.testing.assert_array_equal(to_run.tensors[name], tensor)


def test_half_precision_refuses_what_does_not_fit(model: ModelFile, tmp_path: Path) -> None:
    tensors = {**model.tensors, "stem.conv.weight": model.tensors["stem.conv.weight"] * 1e7}
    with pytest.raises(UserError, match="does not fit float16"):
        replace(model, tensors=tensors).save(tmp_path / "m.safetensors", half=True)
    assert not list(tmp_path.iterdir())


def test_the_path_is_left_alone_where_it_cannot_be_written(model: ModelFile, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        model.save(tmp_path / "missing" / "m.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": FORMAT + 1}, "pip install --upgrade"),
        ({"format": None}, "no format version"),
        ({"task": "dance"}, "task 'dance'"),
        ({"labels": ["one"]}, "1 labels, but the network has 3 outputs"),
        ({"labels": [1, 2, 3]}, r"Card cannot have \[1, 2, 3\] as its labels"),
        ({"labels": "abc"}, "Card cannot have 'abc' as its labels"),
        ({"labels": {"a": 1, "b": 2, "c": 3}}, "as its labels"),
        ({"name": 3}, "Card cannot have 3 as its name"),
        ({"name": ["m"]}, r"Card cannot have \['m'\] as its name"),
        ({"licence": 3}, "Card cannot have 3 as its licence"),
        ({"metrics": [1]}, r"Card cannot have \[1\] as its metrics"),
        ({"metrics": {"top1": float("nan")}}, r"is not JSON \(NaN is no number in JSON\)"),
        ({"training": "x"}, "Card cannot have 'x' as its training"),
        ({"architecture.output_stride": 16.0}, "Architecture cannot have 16.0 as its output_stride"),
        ({"architecture.numerics": 5}, "Architecture cannot have 5 as its numerics"),
        ({"architecture.scale_ends": 1}, "Architecture cannot have 1 as its scale_ends"),
        ({"preprocessing.size_hw": [32.0, 32]}, r"Preprocessing cannot have \[32.0, 32\] as its size_hw"),
        ({"preprocessing.size_hw": [32]}, r"Preprocessing cannot have \[32\] as its size_hw"),
        ({"preprocessing.size_hw": 32}, "Preprocessing cannot have 32 as its size_hw"),
        ({"preprocessing.mean_rgb": [0, 0, "x"]}, r"cannot have \[0, 0, 'x'\] as its mean_rgb"),
        ({"preprocessing.std_rgb": [1, 1, float("inf")]}, "Infinity is no number in JSON"),
        ({"architecture.width": -1}, "width -1"),
        ({"architecture.widht": 1}, "did you mean 'width'"),
        ({"architecture.name": "resnet"}, "'resnet' is not known"),
        ({"architecture.num_classes": 10**9}, "out of range"),
        ({"architecture.numerics": "torhc"}, "did you mean 'torch'"),
        ({"preprocessing.size_hw": [0, 5]}, "0x5"),
        ({"preprocessing.std_rgb": [0, 1, 1]}, "standard deviation"),
        ({"preprocessing": None}, "lacks 'preprocessing'"),
        ({"architecture": 3}, "not valid"),
        ({"preprocessing": [1]}, "Preprocessing is not a JSON object"),
        ({"task": None}, "lacks 'task'"),
        ({"task": ["classify"]}, "not known"),
        ({"task": "detect"}, "Detector has no 'depth'"),
        ({"architecture.name": "ssdlite"}, "'ssdlite' is not known"),
        ({"postprocessing": {}}, "task 'classify' has no postprocessing"),
    ],
)
def test_a_wrong_card_is_refused(model: ModelFile, change: dict[str, Any], message: str) -> None:
    assert_refused(with_card(model, change), message)


def assert_refused(content: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        parse_model_file(content, source="m")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("m: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "classify"}, "Architecture has no 'backbone'"),
        ({"postprocessing": None}, "task 'detect' needs postprocessing"),
        ({"postprocessing": 3}, "Postprocessing is not a JSON object"),
        ({"postprocessing.score": 3}, "did you mean 'scores'"),
        ({"postprocessing.scores": "tanh"}, "scores 'tanh' are not known"),
        ({"postprocessing.score_threshold": float("nan")}, "NaN is no number in JSON"),
        ({"postprocessing.iou_threshold": "high"}, "iou threshold 'high'"),
        ({"postprocessing.max_detections": 1e9}, "max detections 1000000000.0"),
        ({"preprocessing.resize": "crop", "preprocessing.size_hw": [64, 64]}, "resize 'crop' is not possible"),
        ({"preprocessing.resize": "central"}, "resize 'central' is not possible"),
        ({"labels": ["one"]}, "1 labels, but the network has 3 outputs"),
        ({"architecture.depth": 1.0}, "Detector has no 'depth'"),
        ({"architecture.name": "mobilenet_v2"}, "detector 'mobilenet_v2' is not known"),
        ({"architecture.backbone": ["mobilenet_v2"]}, "not valid"),
        ({"architecture.width": "wide"}, "width 'wide'"),
        ({"architecture.num_classes": 10**6}, "out of range"),
        *(
            ({place: value}, "anchors must be pairs")
            for place, value in (
                ("architecture.anchors", []),
                ("architecture.anchors", "x"),
                ("architecture.anchors", {"0": 1}),
                ("architecture.anchors.5", []),
                ("architecture.anchors.5", None),
                ("architecture.anchors.5.0", "ab"),
                ("architecture.anchors.5.0", [0.1]),
                ("architecture.anchors.5.0.1", None),
                ("architecture.anchors.5.0.1", "0.1"),
                ("architecture.anchors.5.0.1", -0.1),
                ("architecture.anchors.5.0.1", [[[]]]),
            )
        ),
    ],
)
def test_a_wrong_card_of_a_detector_is_refused(detector: ModelFile, change: dict[str, Any], message: str) -> None:
    assert_refused(with_card(detector, change), message)


def test_deeply_nested_anchors_are_refused(detector: ModelFile) -> None:
    text = detector.card.to_json()
    anchors = json.dumps(json.loads(text)["architecture"]["anchors"])
    deep = text.replace(anchors, "[" * 900 + "]" * 900)
    assert deep != text
    assert_refused(save_safetensors(detector.tensors, metadata={CARD_KEY: deep}), "not valid")


def test_a_detector_is_read_back_as_written(detector: ModelFile, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    detector.save(path)
    loaded = load_model_file(path)
    assert loaded.card == detector.card
    assert loaded.card.detection == (detector.card.architecture, detector.card.postprocessing)
    assert list(loaded.tensors) == [name for name, _ in tensor_shapes(detector.card.architecture)]
    for name, tensor in detector.tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name], tensor)
    assert loaded.card.parameters == sum(
        tensor.size for name, tensor in detector.tensors.items() if ".running_" not in name
    )


def test_a_detectors_tensors_are_held_against_its_anchors(detector: ModelFile) -> None:
    card = json.loads(detector.card.to_json())
    card["architecture"]["anchors"][0].append([0.3, 0.3])
    content = save_safetensors(detector.tensors, metadata={CARD_KEY: json.dumps(card)})
    assert_refused(content, r"'class_heads\.0\.predict\.weight' has shape \(4, ")


def test_the_two_kinds_of_models_are_told_apart(model: ModelFile, detector: ModelFile) -> None:
    assert model.card.classifier == model.card.architecture
    with pytest.raises(UserError, match="is for task 'detect', not 'classify'"):
        _ = detector.card.classifier
    with pytest.raises(UserError, match="is for task 'classify', not 'detect'"):
        _ = model.card.detection
    for card, change in (
        (model.card, {"task": "detect"}),
        (model.card, {"architecture": detector.card.architecture}),
        (detector.card, {"task": "classify"}),
    ):
        with pytest.raises(UserError, match="cannot have"):
            replace(card, **change)


def test_a_card_of_a_classifier_is_what_it_was_before_there_were_detectors(model: ModelFile) -> None:
    # Older versions refuse what they do not know.
    assert "postprocessing" not in json.loads(model.card.to_json())


def test_wrong_tensors_are_refused(model: ModelFile) -> None:
    bias = model.tensors["classifier.bias"]
    for tensors, message in [
        ({"classifier.bias": bias[:2]}, r"shape \(2,\)"),
        ({"classifier.bias": np.full_like(bias, np.nan)}, "NaN"),
        ({"classifier.bias": bias.astype(np.int32)}, "not floating point"),
        ({"stem.norm.running_var": -model.tensors["stem.norm.running_var"]}, "negative variances"),
        ({"classifier.extra": bias}, "does not know"),
    ]:
        with pytest.raises(ModelFileError, match=message):
            parse_model_file(with_card(model, {}, **tensors), source="m")
    without = {name: tensor for name, tensor in model.tensors.items() if name != "classifier.bias"}
    with pytest.raises(ModelFileError, match=r"lacks the tensor 'classifier.bias'"):
        ModelFile(card=model.card, tensors=without)


def test_foreign_and_missing_files_are_refused(model: ModelFile, tmp_path: Path) -> None:
    foreign = save_safetensors({"weight": np.zeros(3)})
    with pytest.raises(ModelFileError, match="no model card"):
        parse_model_file(foreign, source="m")
    for content in (b"", b"abc", b"\x00" * 100, b"\xff" * 100, b"PK\x03\x04" * 30):
        with pytest.raises(ModelFileError, match=r"not a \.safetensors file"):
            parse_model_file(content, source="m")
    with pytest.raises(ModelFileError, match="no such file"):
        load_model_file(tmp_path / "none.safetensors")
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_model_file(tmp_path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_still_whole(data: st.DataObject) -> None:
    from conftest import make_random_model

    model = make_random_model(preprocessing=Preprocessing(size_hw=(32, 32)), num_classes=2, width=0.05)
    content = bytearray(save_safetensors(model.tensors, metadata={CARD_KEY: model.card.to_json()}))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            # Most of the file is weights; most damage that matters is in the header.
            end = len(content) if data.draw(st.booleans()) else 4000
            content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = parse_model_file(bytes(content), source="m")
    except ModelFileError as error:
        assert "\n" not in str(error)
    else:
        assert all(np.isfinite(tensor).all() for tensor in parsed.tensors.values())


def test_a_card_is_plain_json(model: ModelFile) -> None:
    card = Card.from_json(model.card.to_json(), source="m")
    assert card == model.card
    assert json.loads(card.to_json())["format"] == FORMAT
