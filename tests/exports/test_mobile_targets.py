"""LiteRT and ExecuTorch: what is written answers as the model file, in float32 and in 8 bits; damage is one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import make_random_detector, make_random_model, make_random_segmenter
from mobilenetv2.errors import ModelFileError, UserError
from mobilenetv2.exports.target import TARGETS
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.engine import OnnxRuntimeEngine
from mobilenetv2.runtime.engines import engine_class

# Converting a network takes half a minute. The warnings are of what is called for that.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SIZE = Preprocessing(size_hw=(64, 48))
# What writes for each.
NEEDED = {"litert": ("litert_torch", "ai_edge_quantizer"), "executorch": ("executorch",)}
MODELS: dict[str, Callable[[], ModelFile]] = {
    "classify": lambda: make_random_model(preprocessing=SIZE, numerics="tf"),
    "detect": lambda: make_random_detector(preprocessing=SIZE),
    "segment": lambda: make_random_segmenter(preprocessing=SIZE, decoder="light"),
    "pyramid": lambda: make_random_segmenter(preprocessing=SIZE, aspp=True),
}
each_target = pytest.mark.parametrize("target", NEEDED)
each_model = pytest.mark.parametrize("model", MODELS)


def skip_without(target: str) -> None:
    """Without importing it: what it says then must not be heard either."""
    for module in NEEDED[target]:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def write(target: str, model: ModelFile, folder: Path, **how: Any) -> None:
    skip_without(target)
    TARGETS[target].write(model, folder, **how)


def engine_of(target: str) -> tuple[Any, str]:
    """Its engine, and the name of its file."""
    skip_without(target)
    engine = engine_class(target)
    return engine, sys.modules[engine.__module__].FILE


def pictures(count: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(0, 1, (count, 3, *SIZE.size_hw)).astype(np.float32)


@each_target
@each_model
def test_it_answers_as_the_model_file(
    target: str, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = MODELS[model]()
    write(target, whole, tmp_path)
    assert capfd.readouterr() == ("", "")
    engine, file = engine_of(target)
    assert [path.name for path in tmp_path.iterdir()] == [file]
    found = engine(tmp_path).run(pictures())
    for theirs, ours in zip(found, OnnxRuntimeEngine(whole).run(pictures()), strict=True):
        assert theirs.shape == ours.shape
        assert np.abs(theirs - ours).max() < 1e-4 * np.abs(ours).max()


@each_target
@each_model
def test_eight_bits_stay_near(target: str, model: str, tmp_path: Path) -> None:
    whole = MODELS[model]()
    write(target, whole, tmp_path, calibration=pictures(8))
    engine, file = engine_of(target)
    weights = sum(tensor.size for tensor in whole.tensors.values() if tensor.ndim > 1)
    assert (tmp_path / file).stat().st_size < 2.5 * weights
    found = engine(tmp_path).run(pictures())
    for theirs, ours in zip(found, OnnxRuntimeEngine(whole).run(pictures()), strict=True):
        assert 0 < np.sqrt(np.mean((theirs - ours) ** 2)) < 0.3 * np.sqrt(np.mean(ours**2))


@each_target
def test_a_damaged_file_is_one_line(target: str, tmp_path: Path) -> None:
    engine, file = engine_of(target)
    with pytest.raises(ModelFileError, match="cannot be read"):
        engine(tmp_path)
    (tmp_path / file).write_bytes(b"no program" * 100)
    with pytest.raises(ModelFileError, match="is damaged, or not a network") as caught:
        engine(tmp_path)
    assert "\n" not in str(caught.value)


def test_pictures_of_another_size_and_no_threads_are_refused(tmp_path: Path) -> None:
    write("litert", MODELS["classify"](), tmp_path)
    engine, _ = engine_of("litert")
    with pytest.raises(UserError, match="threads 0 is out of range"):
        engine(tmp_path, threads=0)
    with pytest.raises(ModelFileError, match=r"it takes \(1, 64, 48, 3\)"):
        engine(tmp_path, threads=1).run(np.zeros((1, 3, 48, 64), np.float32))


def test_threads_are_those_of_the_process(tmp_path: Path) -> None:
    write("executorch", MODELS["classify"](), tmp_path)
    engine, _ = engine_of("executorch")
    with pytest.raises(UserError, match="threads 0 is out of range"):
        engine(tmp_path, threads=0)
    made = engine(tmp_path, threads=1)
    with pytest.raises(UserError, match="threads 2 is not possible beside"):
        engine(tmp_path, threads=2)
    assert made.run(pictures())[0].shape == (3, 10)
