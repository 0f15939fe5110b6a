"""Loading a model and asking it: from every place, in every form, from many threads, the same answer."""

from __future__ import annotations

import io
import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from safetensors.numpy import save_file

from conftest import RandomDetector, RandomModel, make_random_model
from mobilenetv2.anchors import anchor_grid, tf_anchor_sizes
from mobilenetv2.errors import ImageError, ModelFileError, UserError
from mobilenetv2.modelfile import CARD_KEY, FORMAT, ModelFile
from mobilenetv2.postprocessing import Postprocessing
from mobilenetv2.predictions import Classification, Detections, Prediction
from mobilenetv2.preprocessing import Preprocessing, preprocess
from mobilenetv2.runtime import predictor as predictors
from mobilenetv2.runtime.answers import softmax
from mobilenetv2.runtime.detect import decode
from mobilenetv2.runtime.drawn import draw_pictures
from mobilenetv2.runtime.engine import OnnxRuntimeEngine, PictureEngine
from mobilenetv2.runtime.graph import picture_graph
from mobilenetv2.runtime.images import Source
from mobilenetv2.runtime.predictor import Predictor, find_model, load, predictor_of, predictor_of_graph
from mobilenetv2.runtime.scorers import PillowScorer


@pytest.fixture(scope="module")
def model(random_model: RandomModel) -> ModelFile:
    return random_model(preprocessing=Preprocessing(size_hw=(48, 48)), num_classes=5)


@pytest.fixture(scope="module")
def box(model: ModelFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("box")
    for name in ("cifar10", "digits"):
        model.save(folder / f"{name}.safetensors")
    (folder / "net.onnx").write_bytes(picture_graph(model))
    return folder


@pytest.fixture(scope="module")
def predictor(box: Path) -> Predictor:
    return load(box / "digits.safetensors", threads=1)


DRAWN = draw_pictures()
PICTURE = DRAWN[4]


def classify(predictor: Predictor, source: Source) -> Classification:
    answer = predictor.predict(source)
    assert isinstance(answer, Classification)
    return answer


def assert_same(found: Prediction, expected: Prediction, atol: float = 1e-6) -> None:
    assert isinstance(found, Classification)
    assert isinstance(expected, Classification)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=atol)
    assert found.best.index == expected.best.index


# ---- Loading


def test_by_path_as_onnx_and_by_name(box: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = predictor.predict(PICTURE)
    assert expected.model == "random"
    assert expected.names == tuple(f"class {index}" for index in range(5))
    assert_same(load(str(box / "digits.safetensors")).predict(PICTURE), expected)
    assert_same(load(box / "net.onnx").predict(PICTURE), expected, atol=1e-5)
    assert find_model("digits", folder=box) == box / "digits.safetensors"
    monkeypatch.setattr(predictors, "find_model", lambda name: find_model(name, folder=box))
    assert_same(load("digits").predict(PICTURE), expected)
    assert_same(load().predict(PICTURE), expected)


def test_loading_takes_little_more_memory_than_the_file_twice() -> None:
    # Its content and the tensors in it. All of them as float32 would not fit, nor a large kernel as float64.
    load("cifar10", engine="native")  # which imports what it needs
    tracemalloc.start()
    try:
        load("cifar10", engine="native")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2.5 * find_model("cifar10").stat().st_size


def test_a_name_that_is_not_in_the_box(box: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"'cifar' is not known \(did you mean 'cifar10'\?\)") as caught:
        find_model("cifar", folder=box)
    assert "cifar10, digits" in str(caught.value)
    with pytest.raises(ModelFileError, match="the box is empty"):
        find_model("cifar10", folder=tmp_path)
    with pytest.raises(ModelFileError, match="no such model file"):
        find_model("none.safetensors", folder=box)


def test_a_folder_in_the_way_does_not_hide_a_model(box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert find_model("digits", folder=box) == box / "digits.safetensors"
    with pytest.raises(ModelFileError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(ModelFileError, match="cannot be read"):
        load(tmp_path / "a.onnx")


def changed_onnx(box: Path, change: dict[str, Any] | None) -> bytes:
    """The exported file with another card, or none."""
    proto = onnx.load(box / "net.onnx")
    entry = next(entry for entry in proto.metadata_props if entry.key == CARD_KEY)
    if change is None:
        del proto.metadata_props[:]
    else:
        entry.value = json.dumps({**json.loads(entry.value), **change})
    return bytes(proto.SerializeToString())


def test_foreign_and_newer_onnx_files(box: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    for content, words in (
        (changed_onnx(box, None), "no model card"),
        (changed_onnx(box, {"format": FORMAT + 1}), f"format {FORMAT + 1}, .* pip install --upgrade"),
        (changed_onnx(box, {"labels": ["a"]}), "1 labels"),
        ((box / "net.onnx").read_bytes().replace(b"probabilities", b"probabilitoes"), "inputs and outputs"),
        (b"", "is damaged"),
        (b"these are words", "is damaged"),
        ((box / "net.onnx").read_bytes()[:-1000], "is damaged"),
        ((box / "digits.safetensors").read_bytes(), "is damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=words) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_damaged_onnx_file_is_refused_or_loads(data: st.DataObject) -> None:
    model = make_random_model(preprocessing=Preprocessing(size_hw=(32, 32)), num_classes=2, width=0.05)
    content = bytearray(picture_graph(model))
    if data.draw(st.booleans()):
        # The first bytes are the card and the preprocessing; most others are weights.
        end = 3000 if data.draw(st.booleans()) else len(content)
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    # It is not run: with another size in a constant it may well take hours.
    try:
        engine = PictureEngine(bytes(content), source="m", threads=1)
    except ModelFileError as error:
        assert str(error).startswith("m: ")
        assert "\n" not in str(error)
    else:
        assert len(engine.card.labels) == 2


def test_damage_that_shows_only_when_it_runs(box: Path) -> None:
    proto = onnx.load(box / "net.onnx")
    # The axis whose size is looked up, 0 or 1, becomes one that a picture has not.
    scalars = [t for t in proto.graph.initializer if not t.dims and t.data_type == onnx.TensorProto.INT64]
    for tensor in scalars:
        tensor.raw_data = (9).to_bytes(8, "little")
    engine = PictureEngine(proto.SerializeToString(), source="m", threads=1)
    with pytest.raises(ModelFileError, match="m: is damaged"):
        engine.run(PICTURE[None])


def test_refusing_is_quiet(box: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # onnxruntime quotes the damaged name in its message, which is not UTF-8 then.
    content = (box / "net.onnx").read_bytes().replace(b"stem.relu6", b"stem.rel\xff6", 1)
    with pytest.raises(ModelFileError, match="is damaged"):
        PictureEngine(content, source="m")
    assert capfd.readouterr() == ("", "")


# ---- Answering


def test_every_form_of_a_picture_gives_the_same_answer(box: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(path)
    for name in ("digits.safetensors", "net.onnx"):
        answering = load(box / name, threads=1)
        expected = classify(answering, PICTURE)
        for source in (path, str(path), path.read_bytes(), Image.open(path), Image.fromarray(PICTURE)):
            np.testing.assert_array_equal(classify(answering, source).scores, expected.scores)
        assert answering.predict(path).source == str(path)
        assert expected.source == ""


def test_a_batch_is_its_pictures_one_by_one(box: Path) -> None:
    pictures = DRAWN[:6] * 6  # two full runs and a part
    for name in ("digits.safetensors", "net.onnx"):
        answering = load(box / name, threads=1)
        together = answering.predict_batch(iter(pictures))
        assert len(together) == len(pictures)
        for found, picture in zip(together, pictures, strict=True):
            assert found.size_hw == picture.shape[:2]
            assert_same(found, answering.predict(picture), atol=1e-5)
    assert answering.predict_batch([]) == []


def test_the_first_unreadable_picture_stops_a_batch(predictor: Predictor) -> None:
    with pytest.raises(ImageError, match=r"none\.png: "):
        predictor.predict_batch([PICTURE, "none.png", PICTURE])


def test_a_picture_too_long_to_resize_is_named(random_model: RandomModel, tmp_path: Path) -> None:
    cropping = random_model(preprocessing=Preprocessing(size_hw=(96, 96), resize="crop"), num_classes=2, width=0.05)
    cropping.save(tmp_path / "m.safetensors")
    path = tmp_path / "long.png"
    Image.new("RGB", (20_000, 1)).save(path)
    with pytest.raises(ImageError, match="20000x1 pixels are too long") as caught:
        load(tmp_path / "m.safetensors").predict(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_many_threads_may_ask_one_predictor(box: Path) -> None:
    pictures = DRAWN[:5] * 8
    for name in ("digits.safetensors", "net.onnx"):
        answering = load(box / name, threads=1)
        expected = [answering.predict(picture) for picture in pictures]
        with ThreadPoolExecutor(8) as pool:
            for found, one in zip(pool.map(answering.predict, pictures), expected, strict=True):
                assert_same(found, one)


def test_the_threads_of_a_run(box: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = onnxruntime.InferenceSession

    def spy(graph: bytes, options: Any, **more: Any) -> Any:
        asked.append(options.intra_op_num_threads)
        return real(graph, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    for name in ("digits.safetensors", "net.onnx"):
        found = load(box / name, engine="onnxruntime", threads=2).predict(PICTURE)
        assert_same(found, predictor.predict(PICTURE), atol=1e-5)
        load(box / name, engine="onnxruntime")
        for engine in (None, "onnxruntime"):
            with pytest.raises(UserError, match="threads 0 is out of range"):
                load(box / name, engine=engine, threads=0)
    assert asked == [2, 0, 2, 0]  # 0 is onnxruntime's word for one a core


def test_a_turned_photograph_has_its_upright_size(predictor: Predictor) -> None:
    picture, stream = Image.fromarray(PICTURE).resize((60, 40)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(stream, "png", exif=exif)
    found = classify(predictor, stream.getvalue())
    assert found.size_hw == (60, 40)
    upright = classify(predictor, picture.transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(found.scores, upright.scores)


def test_times(box: Path) -> None:
    for name in ("digits.safetensors", "net.onnx"):
        for found in load(box / name).predict_batch([PICTURE] * 3):
            assert all(ms >= 0 for ms in asdict(found.ms).values())
            assert found.ms.network > 0


@settings(max_examples=200, deadline=None)
@given(
    logits=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 40)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_softmax(logits: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    found = softmax(logits)
    assert found.dtype == np.float32
    assert found.shape == logits.shape
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
    # The order stays, and so does the answer where all logits are raised alike.
    assert (found[np.arange(len(logits)), logits.argmax(axis=-1)] == found.max(axis=-1)).all()
    near = np.clip(logits, -20, 20)
    np.testing.assert_allclose(softmax(near + np.float32(8)), softmax(near), rtol=0, atol=1e-5)
    np.testing.assert_allclose(softmax(near), np.exp(near) / np.exp(near).sum(axis=-1, keepdims=True), atol=1e-5)


def test_the_engine_takes_any_batch(model: ModelFile) -> None:
    engine = OnnxRuntimeEngine(model, threads=1)
    for count in (1, 5):
        (logits,) = engine.run(np.zeros((count, 3, 48, 48), np.float32))
        assert logits.shape == (count, 5)


# ---- Detecting


@pytest.fixture(scope="module")
def detector(random_detector: RandomDetector) -> ModelFile:
    rule = Postprocessing(score_threshold=0.9, max_detections=300)
    return random_detector(preprocessing=Preprocessing(size_hw=(64, 96)), postprocessing=rule)


def detect(predictor: Predictor, source: Source) -> Detections:
    answer = predictor.predict(source)
    assert isinstance(answer, Detections)
    return answer


def assert_same_boxes(found: Prediction, expected: Prediction) -> None:
    assert isinstance(found, Detections)
    assert isinstance(expected, Detections)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, rtol=0, atol=0.05)
    assert (found.names, found.model, found.size_hw) == (expected.names, expected.model, expected.size_hw)


def test_a_detector_answers_as_its_outputs_say(detector: ModelFile) -> None:
    predictor, picture = predictor_of(detector, engine="onnxruntime", threads=1), DRAWN[5]
    found = detect(predictor, picture)
    pixels = preprocess(Image.fromarray(picture), detector.card.preprocessing)
    logits, codes = OnnxRuntimeEngine(detector, threads=1).run(pixels[None])
    anchors = anchor_grid((64, 96), tf_anchor_sizes())
    assert logits.shape == (1, len(anchors), 4)
    (expected,) = decode(logits, codes, anchors, Postprocessing(score_threshold=0.9, max_detections=300))
    assert 0 < len(found) < 300
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.labels, expected.labels)
    height, width = picture.shape[:2]
    clipped = expected.boxes_xyxy.clip(0, 1) * np.array([width, height, width, height])
    np.testing.assert_allclose(found.boxes_xyxy, clipped, rtol=1e-6)
    assert found.size_hw == (height, width)
    assert (found.model, found.names, found.source) == ("random", ("class 0", "class 1", "class 2"), "")
    assert found.ms.network > 0
    assert found.ms.postprocess > 0


def test_a_detector_from_every_place(detector: ModelFile, tmp_path: Path) -> None:
    detector.save(tmp_path / "m.safetensors")
    (tmp_path / "m.onnx").write_bytes(picture_graph(detector))
    pictures = DRAWN[:6] * 3
    one_by_one = [predictor_of(detector, threads=1).predict(picture) for picture in pictures]
    assert sum(len(detect_answer) for detect_answer in one_by_one if isinstance(detect_answer, Detections)) > 0
    for name in ("m.safetensors", "m.onnx"):
        together = load(tmp_path / name, threads=1).predict_batch(pictures)
        for found, expected in zip(together, one_by_one, strict=True):
            assert_same_boxes(found, expected)


def test_another_score_threshold(detector: ModelFile, tmp_path: Path) -> None:
    detector.save(tmp_path / "m.safetensors")
    (tmp_path / "m.onnx").write_bytes(picture_graph(detector))
    for name in ("m.safetensors", "m.onnx"):
        assert load(tmp_path / name).card.postprocessing == detector.card.postprocessing
        usual, low = load(tmp_path / name), load(tmp_path / name, score_threshold=0.8)
        strict = load(tmp_path / name, score_threshold=0.95)
        assert low.card.postprocessing is not None
        assert low.card.postprocessing.score_threshold == 0.8
        found = detect(usual, PICTURE)
        assert (found.scores > 0.9).all()
        assert detect(low, PICTURE).scores.min() < 0.9
        # Only better boxes cover a box.
        assert_same_boxes(detect(strict, PICTURE), found.above(0.95))
        assert len(found.above(0.95)) > 0
        for wrong in (1.5, -0.1, float("nan")):
            with pytest.raises(UserError, match=r"score threshold .* is out of range; give 0 to 1"):
                load(tmp_path / name, score_threshold=wrong)


def test_a_classifier_has_no_score_threshold(box: Path) -> None:
    for name in ("digits.safetensors", "net.onnx"):
        with pytest.raises(UserError, match="'random' is for task 'classify'; a score threshold is for detectors"):
            load(box / name, score_threshold=0.5)


def test_a_graph_that_finds_unknown_classes(detector: ModelFile) -> None:
    proto = onnx.load_from_string(picture_graph(detector))
    (last,) = (node for node in proto.graph.node if "labels" in node.output)
    # Labels, but counted from 1000.
    name = last.output[0]
    last.output[0] = "own"
    more = onnx.helper.make_tensor("more", onnx.TensorProto.INT64, [], [1000])
    proto.graph.initializer.append(more)
    proto.graph.node.append(onnx.helper.make_node("Add", ["own", "more"], [name]))
    predictor = predictor_of_graph(proto.SerializeToString(), source="m")
    with pytest.raises(ModelFileError, match="m: is damaged"):
        predictor.predict(PICTURE)


def test_a_detectors_card_that_cannot_be(detector: ModelFile, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    detector.save(path)
    for change, words in (
        ({"postprocessing": None}, "needs postprocessing"),
        ({"postprocessing": {"scores": "tanh"}}, "'tanh' are not known"),
        ({"postprocessing": {"iou_threshold": 2}}, "iou threshold 2 is out of range"),
        ({"task": "classify"}, "not valid"),
        ({"labels": ["class 0"]}, "1 labels"),
    ):
        values = {**json.loads(detector.card.to_json()), **change}
        save_file(detector.tensors, path, metadata={CARD_KEY: json.dumps(values)})
        with pytest.raises(ModelFileError, match=words) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_large_inputs_go_in_small_batches(detector: ModelFile) -> None:
    engine = OnnxRuntimeEngine(detector, threads=1)
    sizes = {(64, 64): 16, (224, 224): 16, (320, 320): 7, (640, 640): 1, (2048, 2048): 1}
    for size_hw, batch in sizes.items():
        card = replace(detector.card, preprocessing=Preprocessing(size_hw=size_hw))
        assert PillowScorer(engine, card).batch == batch
