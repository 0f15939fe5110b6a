"""LiteRT: what is written answers as the model file, in float32 and in 8 bits, and damage is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import make_random_detector, make_random_model, make_random_segmenter
from mobilenetv2.errors import ModelFileError, UserError
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.engine import OnnxRuntimeEngine

pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_quantizer")

from mobilenetv2.exports.litert import write_litert
from mobilenetv2.runtime.engine_litert import FILE, LiteRtEngine

# Converting a network takes half a minute. The warnings are of what it calls for that.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SIZE = Preprocessing(size_hw=(64, 48))
MODELS: list[Callable[[], ModelFile]] = [
    lambda: make_random_model(preprocessing=SIZE, numerics="tf"),
    lambda: make_random_detector(preprocessing=SIZE),
    lambda: make_random_segmenter(preprocessing=SIZE, decoder="light"),
    lambda: make_random_segmenter(preprocessing=SIZE, aspp=True),
]
each_model = pytest.mark.parametrize("model", MODELS, ids=["classify", "detect", "segment", "pyramid"])


def pictures(count: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(0, 1, (count, 3, *SIZE.size_hw)).astype(np.float32)


@each_model
def test_it_answers_as_the_model_file(
    model: Callable[[], ModelFile], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_litert(model(), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    found = LiteRtEngine(tmp_path).run(pictures())
    for theirs, ours in zip(found, OnnxRuntimeEngine(model()).run(pictures()), strict=True):
        assert theirs.shape == ours.shape
        assert np.abs(theirs - ours).max() < 1e-4 * np.abs(ours).max()


@each_model
def test_eight_bits_stay_near(model: Callable[[], ModelFile], tmp_path: Path) -> None:
    whole = model()
    write_litert(whole, tmp_path, calibration=pictures(8))
    weights = sum(tensor.size for tensor in whole.tensors.values() if tensor.ndim > 1)
    assert (tmp_path / FILE).stat().st_size < 2.5 * weights
    found = LiteRtEngine(tmp_path).run(pictures())
    for theirs, ours in zip(found, OnnxRuntimeEngine(whole).run(pictures()), strict=True):
        assert 0 < np.sqrt(np.mean((theirs - ours) ** 2)) < 0.3 * np.sqrt(np.mean(ours**2))


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        LiteRtEngine(tmp_path)
    (tmp_path / FILE).write_bytes(b"no program" * 100)
    with pytest.raises(ModelFileError, match="is damaged, or not a network") as caught:
        LiteRtEngine(tmp_path)
    assert "\n" not in str(caught.value)


def test_pictures_of_another_size_and_no_threads_are_refused(tmp_path: Path) -> None:
    write_litert(MODELS[0](), tmp_path)
    with pytest.raises(UserError, match="threads 0 is out of range"):
        LiteRtEngine(tmp_path, threads=0)
    with pytest.raises(ModelFileError, match=r"it takes \(1, 64, 48, 3\)"):
        LiteRtEngine(tmp_path, threads=1).run(np.zeros((1, 3, 48, 64), np.float32))
