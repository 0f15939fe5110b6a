"""ncnn: the same answers as onnxruntime's, and nothing but a clear error where there can be none."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("ncnn")
pnnx = pytest.importorskip("pnnx")

from conftest import RandomDetector, RandomModel, RandomSegmenter  # noqa: E402
from mobilenetv2.errors import ExportError, ModelFileError, UserError  # noqa: E402
from mobilenetv2.exports.ncnn import write_ncnn  # noqa: E402
from mobilenetv2.modelfile import ModelFile, load_model_file  # noqa: E402
from mobilenetv2.preprocessing import Preprocessing  # noqa: E402
from mobilenetv2.runtime.engine import OnnxRuntimeEngine  # noqa: E402
from mobilenetv2.runtime.engine_ncnn import NcnnEngine  # noqa: E402
from mobilenetv2.runtime.predictor import find_model  # noqa: E402

# Of the largest output. The random networks enlarge rounding, 2.3e-5 at most where this was measured.
ROUNDING = 5e-5
# At stride 2 SAME padding is uneven on even sides, and even on odd ones.
SIZES_HW = ((32, 32), (33, 65))


def pictures(model: ModelFile, count: int = 2) -> NDArray[np.float32]:
    shape = (count, 3, *model.card.preprocessing.size_hw)
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


def assert_same(model: ModelFile, folder: Path) -> None:
    write_ncnn(model, folder)
    images = pictures(model)
    answers = NcnnEngine(folder, threads=1).run(images)
    expected = OnnxRuntimeEngine(model, threads=1).run(images)
    assert len(answers) == len(expected)
    for found, right in zip(answers, expected, strict=True):
        assert found.shape == right.shape
        assert found.dtype == np.float32
        largest = np.abs(right).max()
        # Answers that did not depend on the picture would prove nothing.
        assert np.abs(right[0] - right[1]).max() > 1e-2 * largest
        assert np.abs(found - right).max() <= ROUNDING * largest


@pytest.mark.parametrize("size_hw", SIZES_HW)
@pytest.mark.parametrize("numerics", ["torch", "tf", "keras"])
def test_a_classifier_answers_the_same(
    random_model: RandomModel, tmp_path: Path, numerics: str, size_hw: tuple[int, int]
) -> None:
    assert_same(random_model(preprocessing=Preprocessing(size_hw=size_hw), numerics=numerics), tmp_path)


@pytest.mark.parametrize("size_hw", SIZES_HW)
@pytest.mark.parametrize("name", ["ssdlite", "ssd"])
def test_a_detector_answers_the_same(
    random_detector: RandomDetector, tmp_path: Path, name: str, size_hw: tuple[int, int]
) -> None:
    # As many values for a class as for a box: only the order tells them apart.
    model = random_detector(preprocessing=Preprocessing(size_hw=size_hw), name=name, numerics="tf", num_classes=3)
    assert_same(model, tmp_path)


@pytest.mark.parametrize("size_hw", SIZES_HW)
@pytest.mark.parametrize("head", [{}, {"aspp": True, "output_stride": 8}, {"decoder": "light"}], ids=str)
def test_a_segmenter_answers_the_same(
    random_segmenter: RandomSegmenter, tmp_path: Path, head: dict[str, Any], size_hw: tuple[int, int]
) -> None:
    assert_same(random_segmenter(preprocessing=Preprocessing(size_hw=size_hw), numerics="tf", **head), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "bccd", "camvid"])
def test_a_shipped_model_answers_the_same(tmp_path: Path, name: str) -> None:
    assert_same(load_model_file(find_model(name)), tmp_path)


@pytest.fixture(scope="module")
def model(random_segmenter: RandomSegmenter) -> ModelFile:
    return random_segmenter(preprocessing=Preprocessing(size_hw=(33, 65)), decoder="light")


@pytest.fixture(scope="module")
def exported(model: ModelFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    write_ncnn(model, folder)
    return folder


def test_two_files_are_written_and_nothing_is_said(
    model: ModelFile,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, here = tmp_path / "export", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", str(here))
    write_ncnn(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["model.bin", "model.param"]
    assert not list(here.iterdir())
    NcnnEngine(folder, threads=1).run(pictures(model))
    assert capfd.readouterr() == ("", "")


def test_many_threads_get_the_answers_of_one(model: ModelFile, exported: Path) -> None:
    engine = NcnnEngine(exported, threads=1)
    images = pictures(model, count=24)
    (expected,) = engine.run(images)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(engine.run, np.split(images, 24)))
    np.testing.assert_array_equal(np.concatenate([answer for (answer,) in answers]), expected)


def test_int8_is_refused(model: ModelFile, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"with ncnn2table and ncnn2int8, .*; export to ncnn without int8$"):
        write_ncnn(model, tmp_path, calibration=pictures(model))
    assert not list(tmp_path.iterdir())


FAILURES = (
    ("print('first'); print('second'); print(); raise SystemExit(3)", "pnnx failed with code 3: second$"),
    ("print('what it cannot do')", "pnnx cannot convert 'random': what it cannot do$"),
    (
        "open('model.ncnn.param', 'w').write('7767517\\n1 1\\nNoise x 0 1 in0\\n'); open('model.ncnn.bin', 'w')",
        "pnnx converts 'random' to what our engine does not take: a layer 'Noise'$",
    ),
)


@pytest.mark.parametrize(("program", "message"), FAILURES)
def test_a_failure_of_pnnx_is_named(
    model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    script, folder = tmp_path / "pnnx", tmp_path / "export"
    script.write_text(f"#!{sys.executable}\n{program}\n")
    script.chmod(0o755)
    folder.mkdir()
    monkeypatch.setattr(pnnx, "EXEC_PATH", str(script))
    with pytest.raises(ExportError, match=message):
        write_ncnn(model, folder)
    assert not list(folder.iterdir())


def test_a_pnnx_that_is_not_there_is_named(model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pnnx, "EXEC_PATH", str(tmp_path / "none"))
    with pytest.raises(ExportError, match=r"pnnx cannot be run on this machine: No such file or directory$"):
        write_ncnn(model, tmp_path)


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return change


DAMAGE: tuple[tuple[str, Callable[[bytes], bytes], str], ...] = (
    ("model.param", lambda content: b"", "model.param begins with ''"),
    ("model.param", lambda content: b"\xff" + content, "can't decode byte 0xff"),
    ("model.param", replaced("7767517", "7767518"), "model.param begins with '7767518"),
    ("model.param", lambda content: content[: content.rindex(b"Convolution")], "layers and blobs instead of"),
    ("model.param", replaced("Interp ", "Interq "), "a layer 'Interq'"),
    ("model.param", replaced(" 1=3 ", " 1=Z "), "model.param has an option '1=Z'"),
    ("model.param", replaced("\nSplit ", "\nSplit\n"), "model.param has a line 'Split'"),
    ("model.param", replaced(" 1 1 in0 ", " 1 1 in1 "), "a layer Convolution reads 'in1', which is not there"),
    ("model.param", replaced(" out0 ", " in0 "), "two layers make 'in0'"),
    ("model.param", replaced("\nInput ", "\nReLU "), "it takes 0 inputs"),
    ("model.param", replaced("0=5 ", "0=6 "), "bytes instead of"),
    ("model.bin", lambda content: content[:-4], "bytes instead of"),
    ("model.bin", lambda content: content + bytes(4), "bytes instead of"),
    ("model.bin", lambda content: b"\x47\x6b\x30\x01" + content[4:], "has other numbers than float32 at byte 0"),
)


@pytest.mark.parametrize(("name", "change", "message"), DAMAGE, ids=[message for _, _, message in DAMAGE])
def test_damage_is_refused_before_ncnn_sees_it(
    exported: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    change: Callable[[bytes], bytes],
    message: str,
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(exported, folder)
    (folder / name).write_bytes(change((exported / name).read_bytes()))
    with pytest.raises(ModelFileError) as caught:
        NcnnEngine(folder, threads=1)
    text = str(caught.value)
    assert text.startswith(f"{folder}: is damaged, or no ncnn network of ours: ")
    assert message in text
    assert "\n" not in text
    assert capfd.readouterr() == ("", "")


def test_damage_that_only_ncnn_finds(model: ModelFile, exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(exported, folder)
    param = folder / "model.param"
    param.write_bytes(replaced(" 7=", " 7=1")(param.read_bytes()))
    with pytest.raises(ModelFileError, match=r"is damaged; ncnn cannot load it; export the model again$"):
        NcnnEngine(folder, threads=1)


@pytest.mark.parametrize("name", ["model.param", "model.bin"])
def test_a_missing_file_is_named(exported: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "half"
    shutil.copytree(exported, folder)
    (folder / name).unlink()
    with pytest.raises(ModelFileError, match=r"model.param and model.bin cannot be read: No such file or directory"):
        NcnnEngine(folder)


def test_no_threads_are_refused(exported: Path) -> None:
    with pytest.raises(UserError, match="threads 0 is out of range; give 1 or more"):
        NcnnEngine(exported, threads=0)
