"""Metrics against scikit-learn and torchmetrics, and the way from files to numbers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_recall

from conftest import RandomModel, make_random_model, paint
from mobilenetv2.data.folder import read_image_folder
from mobilenetv2.data.tree import Tree, decode, fingerprint
from mobilenetv2.errors import DataError
from mobilenetv2.evaluation import Evaluation
from mobilenetv2.evaluation import evaluate as evaluate_any
from mobilenetv2.modelfile import Card
from mobilenetv2.predictions import Classification
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.predictor import Predictor, load
from mobilenetv2.runtime.scorers import Scores


def evaluate(predictor: Predictor, path: Path, **options: Any) -> Evaluation:
    evaluation = evaluate_any(predictor, path, **options)
    assert isinstance(evaluation, Evaluation)
    return evaluation


def classified(predictor: Predictor, path: Path) -> Classification:
    answer = predictor.predict(path)
    assert isinstance(answer, Classification)
    return answer


def evaluation_of(confusion: NDArray[np.int64], **changes: Any) -> Evaluation:
    images = int(confusion.sum())
    values: dict[str, Any] = {
        "model": "model",
        "data": "data",
        "split": "val",
        "images": images,
        "skipped": 0,
        "top1": int(confusion.trace()) / max(images, 1),
        "top5": 1.0,
        "classes": tuple(f"class {index}" for index in range(len(confusion))),
        "confusion": confusion,
        "mistakes": (),
        "examples": (),
    }
    return Evaluation(**{**values, **changes})


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    """Number of classes, truth, predictions; often with classes that never occur."""
    classes = draw(st.integers(2, 8))
    labels = st.integers(0, classes - 1)
    pairs = draw(st.lists(st.tuples(labels, labels), min_size=1, max_size=40))
    return classes, [true for true, _ in pairs], [said for _, said in pairs]


@given(answers())
@settings(deadline=None, max_examples=60)
def test_shares_of_each_class_are_those_of_scikit_learn_and_torchmetrics(
    case: tuple[int, list[int], list[int]],
) -> None:
    classes, true, said = case
    labels = list(range(classes))
    confusion = confusion_matrix(true, said, labels=labels)
    found = evaluation_of(confusion).per_class
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, images = precision_recall_fscore_support(true, said, labels=labels, zero_division=np.nan)
        given_: dict[str, Any] = {
            "preds": torch.tensor(said),
            "target": torch.tensor(true),
            "num_classes": classes,
            "average": "none",
        }
        torch_recall, torch_f1 = multiclass_recall(**given_), multiclass_f1_score(**given_)
    for index, metrics in enumerate(found):
        assert metrics.images == images[index]
        for value, expected in ((metrics.precision, precision[index]), (metrics.recall, recall[index])):
            assert (value is None) == bool(np.isnan(expected))
            assert value is None or value == pytest.approx(expected, abs=1e-6)
        if images[index]:
            assert metrics.f1 == pytest.approx(f1[index], abs=1e-6)
            assert metrics.f1 == pytest.approx(float(torch_f1[index]), abs=1e-6)
            assert metrics.recall == pytest.approx(float(torch_recall[index]), abs=1e-6)
        else:
            assert metrics.recall is None
            assert metrics.f1 is None


def test_a_class_without_pictures_is_null_in_json_and_a_dash_in_text() -> None:
    evaluation = evaluation_of(np.array([[3, 1, 0], [0, 0, 0], [1, 0, 5]], np.int64))
    values = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert [metrics["recall"] for metrics in values["per_class"]] == [0.75, None, 0.833333]
    assert values["per_class"][1] == {"name": "class 1", "images": 0, "precision": 0.0, "recall": None, "f1": None}
    assert {"task", "model", "data", "split", "images", "top1", "top5", "per_class", "confusion"} <= set(values)
    assert values["confusion"] == [[3, 1, 0], [0, 0, 0], [1, 0, 5]]
    (line,) = (line for line in evaluation.to_text().splitlines() if line.startswith("class 1 "))
    assert line.split() == ["class", "1", "0", "0.0%", "-", "-"]


def test_text_is_aligned_whatever_the_names() -> None:
    evaluation = evaluation_of(np.array([[4000, 2], [1, 5]], np.int64), classes=("猫", "a dog of some breed"))
    lines = evaluation.to_text().splitlines()
    assert lines[0] == "model on data, val: 4,008 pictures"
    table = lines[3:6]
    # A letter of two cells is one letter: the line is shorter by one.
    assert [len(line) for line in table] == [len(table[0]), len(table[0]) - 1, len(table[0])]
    assert lines[-2:] == ["  猫 as a dog of some breed: 2", "  a dog of some breed as 猫: 1"]


def test_confusions_are_the_most_frequent_ones() -> None:
    confusion = np.diag([50] * 6).astype(np.int64)
    confusion[1, 4], confusion[4, 1], confusion[0, 5] = 7, 3, 9
    evaluation = evaluation_of(confusion)
    assert evaluation.confusions() == [
        ("class 0", "class 5", 9),
        ("class 1", "class 4", 7),
        ("class 4", "class 1", 3),
    ]
    assert len(evaluation.confusions(2)) == 2
    assert evaluation_of(np.diag([5, 5])).confusions() == []
    assert "taken for" not in evaluation_of(np.diag([5, 5])).to_text()


# ---- From files to numbers

CLASSES = 12


class TableScorer:
    """Answers from a table; a picture's red level says which row."""

    batch = 4

    def __init__(self, table: NDArray[np.float32]) -> None:
        self.table = table

    def prepare(self, picture: Image.Image) -> NDArray[Any]:
        return np.array(np.asarray(picture)[0, 0, 0])

    def score(self, prepared: Sequence[NDArray[Any]]) -> Scores:
        return Scores(self.table[np.array(prepared)], 0.0, 0.0)

    def with_card(self, card: Card) -> TableScorer:
        return self


def table_predictor(table: NDArray[np.float32]) -> Predictor:
    card = make_random_model(preprocessing=Preprocessing(size_hw=(32, 32)), num_classes=table.shape[1]).card
    return Predictor(card, TableScorer(table))


def labelled(root: Path, labels: Sequence[int]) -> Path:
    """Picture i of red level i, in the folder of its class."""
    for index, label in enumerate(labels):
        folder = root / "val" / f"class {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (index, 0, 0)).save(folder / f"{index:03d}.png")
    return root


@pytest.fixture
def case(tmp_path: Path) -> tuple[Predictor, Path, NDArray[np.int64], NDArray[np.float32]]:
    """A predictor, a folder of 90 pictures, what they show and what it answers."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, 90)
    table = random.uniform(0, 1, (90, CLASSES)).astype(np.float32)
    table[np.arange(90), labels] += 0.4
    table /= table.sum(1, keepdims=True)
    return table_predictor(table), labelled(tmp_path / "data", [int(label) for label in labels]), labels, table


def test_numbers_are_those_of_scikit_learn(
    case: tuple[Predictor, Path, NDArray[np.int64], NDArray[np.float32]],
) -> None:
    predictor, path, labels, table = case
    seen: list[int] = []
    evaluation = evaluate(predictor, path, tick=seen.append)
    said = table.argmax(1)
    assert (evaluation.images, evaluation.skipped, evaluation.split, sum(seen)) == (90, 0, "val", 90)
    np.testing.assert_array_equal(evaluation.confusion, confusion_matrix(labels, said, labels=range(CLASSES)))
    assert evaluation.confusion.dtype == np.int64
    assert evaluation.top1 == pytest.approx(float((said == labels).mean()))
    assert evaluation.top5 == pytest.approx(top_k_accuracy_score(labels, table, k=5, labels=range(CLASSES)))
    assert 0.1 < evaluation.top1 < evaluation.top5 < 1


def test_mistakes_are_the_surest_and_examples_the_first(
    case: tuple[Predictor, Path, NDArray[np.int64], NDArray[np.float32]],
) -> None:
    predictor, path, labels, table = case
    evaluation = evaluate(predictor, path)
    wrong = np.flatnonzero(table.argmax(1) != labels)
    surest = wrong[np.argsort(-table[wrong].max(1))][:24]
    assert [int(Path(mistake.image).stem) for mistake in evaluation.mistakes] == surest.tolist()
    first = evaluation.mistakes[0]
    assert first.true == f"class {labels[surest[0]]}"
    assert first.predicted == f"class {table[surest[0]].argmax()}"
    assert first.score == pytest.approx(float(table[surest[0]].max()), abs=1e-6)
    right = np.flatnonzero(table.argmax(1) == labels)
    expected = [min(right[labels[right] == label]) for label in range(CLASSES) if (labels[right] == label).any()]
    assert [int(Path(example.image).stem) for example in evaluation.examples] == expected
    assert all((path / answer.image).exists() for answer in (*evaluation.mistakes, *evaluation.examples))


def test_with_few_classes_top5_counts_all_of_them(tmp_path: Path) -> None:
    table = np.array([[0.1, 0.2, 0.7], [0.1, 0.2, 0.7]], np.float32)
    evaluation = evaluate(table_predictor(table), labelled(tmp_path, [0, 1]))
    assert (evaluation.top1, evaluation.top5) == (0, 1)


def test_equal_scores_count_in_the_order_of_the_classes(tmp_path: Path) -> None:
    even = np.full((2, 12), 1 / 12, np.float32)
    evaluation = evaluate(table_predictor(even), labelled(tmp_path, [0, 5]))
    assert (evaluation.top1, evaluation.top5) == (0.5, 0.5)


def test_bad_pictures_stop_it_or_are_left_out(
    case: tuple[Predictor, Path, NDArray[np.int64], NDArray[np.float32]],
) -> None:
    predictor, path, labels, table = case
    (path / "val/class 3/bad.jpg").write_bytes(b"no picture")
    (path / "val/class 7/empty.png").write_bytes(b"")
    with pytest.raises(DataError) as raised:
        evaluate(predictor, path)
    message = str(raised.value)
    assert message.startswith(f"{path}: 2 of 92 images cannot be decoded (first: {path}/val/class 3/bad.jpg: is not")
    assert f"mobilenetv2 check {path}" in message
    assert "\n" not in message
    evaluation = evaluate(predictor, path, skip_bad=True)
    assert (evaluation.images, evaluation.skipped) == (90, 2)
    assert evaluation.top1 == pytest.approx(float((table.argmax(1) == labels).mean()))
    assert "2 unreadable ones left out" in evaluation.to_text()
    assert evaluation.to_dict()["skipped"] == 2


def test_nothing_but_bad_pictures(tmp_path: Path) -> None:
    labelled(tmp_path, [0])
    (tmp_path / "val/class 0/000.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="no picture of 'val' can be decoded"):
        evaluate(table_predictor(np.ones((1, 12), np.float32)), tmp_path, skip_bad=True)


def test_unknown_classes_are_named(tmp_path: Path) -> None:
    labelled(tmp_path, [0, 14])
    with pytest.raises(DataError, match="first: 'class 14'"):
        evaluate(table_predictor(np.ones((2, 12), np.float32)), tmp_path)


def test_pictures_do_not_pile_up(
    case: tuple[Predictor, Path, NDArray[np.int64], NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, path, _, _ = case
    lock, waiting, most = threading.Lock(), 0, 0

    def count(change: int) -> None:
        nonlocal waiting, most
        with lock:
            waiting += change
            most = max(most, waiting)

    def counted(tree: Tree, name: str) -> Image.Image:
        count(1)
        return decode(tree, name)

    monkeypatch.setattr("mobilenetv2.evaluation.answers.decode", counted)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    evaluate(predictor, path, tick=lambda done: count(-done))
    assert 0 < most <= 10


def test_it_measures_what_predict_answers(tmp_path: Path, random_model: RandomModel, colours: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = random_model(preprocessing=Preprocessing(size_hw=(32, 32)), num_classes=3)
    replace(model, card=replace(model.card, labels=("blue", "green", "red"))).save(path)
    predictor = load(path)
    evaluation = evaluate(predictor, colours, split="train")
    assert evaluation.images == 36
    for answer in (*evaluation.mistakes, *evaluation.examples):
        best = classified(predictor, colours / answer.image).best
        assert best.name == answer.predicted
        assert best.score == pytest.approx(answer.score, abs=1e-5)
    said = [classified(predictor, file).best.name for file in sorted((colours / "train").rglob("*.png"))]
    assert evaluation.confusion.sum(0).tolist() == [said.count(name) for name in predictor.card.labels]


def test_training_pictures_are_never_counted(tmp_path: Path, random_model: RandomModel) -> None:
    root = tmp_path / "data"
    for index in range(40):
        paint(root / f"class {index % 2}" / f"{index}.png", (index, 0, 0), seed=index, size=8)
    data = read_image_folder(root, val_fraction=0.25, seed=7)
    record = {"fingerprint": fingerprint(data.tree), "derived_val": True, "val_fraction": 0.25, "seed": 7}
    model = random_model(preprocessing=Preprocessing(size_hw=(32, 32)), num_classes=2)
    replace(model, card=replace(model.card, training={"data": record})).save(tmp_path / "model.safetensors")
    evaluation = evaluate(load(tmp_path / "model.safetensors"), root)
    assert (evaluation.split, evaluation.images) == ("val", 10)
    shown = {answer.image for answer in (*evaluation.mistakes, *evaluation.examples)}
    assert shown <= {item.name for item in data.splits["val"]}


def test_evaluating_needs_no_torch(tmp_path: Path, random_model: RandomModel) -> None:
    path = tmp_path / "model.safetensors"
    random_model(preprocessing=Preprocessing(size_hw=(32, 32)), num_classes=12).save(path)
    data = labelled(tmp_path / "data", [0, 1])
    code = (
        "import sys, mobilenetv2;"
        f"mobilenetv2.evaluate({str(path)!r}, {str(data)!r}).to_text();"
        "print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
