"""Core ML, which is not run here: the package has the model's weights, names and shapes, or the check says so."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import make_random_detector, make_random_model, make_random_segmenter
from mobilenetv2.errors import ExportError
from mobilenetv2.modelfile import CARD_KEY, Card, ModelFile
from mobilenetv2.preprocessing import Preprocessing

pytest.importorskip("coremltools")

from mobilenetv2.exports.coreml import PACKAGE, check_coreml, write_coreml
from mobilenetv2.runtime.quiet import quiet

pytestmark = pytest.mark.slow
SIZE = Preprocessing(size_hw=(64, 48))
MODELS: dict[str, Callable[[], ModelFile]] = {
    "classify": lambda: make_random_model(preprocessing=SIZE, numerics="tf"),
    "detect": lambda: make_random_detector(preprocessing=SIZE),
    "segment": lambda: make_random_segmenter(preprocessing=SIZE, decoder="light"),
}
OUTPUTS = {"classify": ["logits"], "detect": ["class_logits", "box_codes"], "segment": ["logits"]}
# One of each kind: with batch norm, depthwise, and without.
LAYERS = {
    "classify": ("stem", "stages.1.blocks.0.filter", "classifier"),
    "detect": ("backbone.stem", "extras.1.filter", "class_heads.2.predict"),
    "segment": ("backbone.stem", "backbone.stages.1.blocks.0.filter", "classifier"),
}
PICTURES = np.zeros((1, 3, *SIZE.size_hw), np.float32)


def opened(folder: Path) -> Any:
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        import coremltools

        return coremltools.models.MLModel(str(folder / PACKAGE), skip_model_load=True)


def sum_of_files(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def without_part_of(model: ModelFile, name: str, part: float) -> ModelFile:
    """One weight of a layer is smaller by `part` of the layer's largest."""
    changed = model.tensors[name].copy()
    changed.flat[np.argmax(np.abs(changed))] *= 1 - part
    return replace(model, tensors={**model.tensors, name: changed})


def kernel_name(model: ModelFile, layer: str) -> str:
    return next(name for name in (f"{layer}.conv.weight", f"{layer}.weight") if name in model.tensors)


@pytest.mark.parametrize("task", MODELS)
def test_it_holds_the_model(task: str, tmp_path: Path) -> None:
    model = MODELS[task]()
    write_coreml(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PACKAGE]
    package = opened(tmp_path)
    description = package.get_spec().description
    assert [port.name for port in description.input] == ["images"]
    assert [port.name for port in description.output] == OUTPUTS[task]
    assert Card.from_json(package.user_defined_metadata[CARD_KEY], source="package") == model.card
    for layer in LAYERS[task]:
        with pytest.raises(ExportError, match=f"does not hold the weights of the model's layer '{layer}'"):
            check_coreml(tmp_path, without_part_of(model, kernel_name(model, layer), 1e-4))


@pytest.mark.parametrize("task", MODELS)
def test_eight_bits_are_those_of_the_weights(task: str, tmp_path: Path) -> None:
    model = MODELS[task]()
    write_coreml(model, tmp_path, calibration=PICTURES)
    weights = sum(tensor.size for tensor in model.tensors.values() if tensor.ndim > 1)
    # The program and the biases come on top, which the tiny networks have many of.
    assert sum_of_files(tmp_path) < 2 * weights + 150_000
    check_coreml(tmp_path, model)
    for layer in LAYERS[task]:
        with pytest.raises(ExportError, match=f"layer '{layer}'"):
            check_coreml(tmp_path, without_part_of(model, kernel_name(model, layer), 0.02))


def test_another_bias_shape_or_layer_is_seen(tmp_path: Path) -> None:
    model = MODELS["detect"]()
    write_coreml(model, tmp_path)
    with pytest.raises(ExportError, match=r"layer 'box_heads\.0\.predict'"):
        check_coreml(tmp_path, without_part_of(model, "box_heads.0.predict.bias", 1e-4))
    with pytest.raises(ExportError, match=r"layer 'backbone\.stem'"):
        check_coreml(tmp_path, without_part_of(model, "backbone.stem.norm.running_mean", 1e-4))
    with pytest.raises(ExportError, match="has the inputs and outputs"):
        check_coreml(tmp_path, make_random_detector(preprocessing=Preprocessing(size_hw=(48, 64))))
    with pytest.raises(ExportError, match="has the inputs and outputs"):
        check_coreml(tmp_path, MODELS["segment"]())


def test_nothing_is_said_and_nothing_is_left(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.level, root.handlers[:], root.manager.disable
    write_coreml(MODELS["classify"](), tmp_path, calibration=PICTURES)
    assert capfd.readouterr() == ("", "")
    assert (root.level, root.handlers, root.manager.disable) == before
