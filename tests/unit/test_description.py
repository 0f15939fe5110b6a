"""`describe`: Table 2 as it reads, and what cannot be described."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mobilenetv2
from conftest import RandomDetector, RandomModel
from mobilenetv2.detector import detector_multiply_adds
from mobilenetv2.errors import UserError
from mobilenetv2.preprocessing import Preprocessing


def test_mobilenet_v2_reads_like_table_2() -> None:
    found = mobilenetv2.describe("mobilenet_v2")
    assert (found.parameters, found.parameters_without_batch_norm) == (3_504_872, 3_470_760)
    assert found.madds == 300_774_272
    shapes = [layer.input_shape for layer in found.blocks]
    assert shapes[:3] == [(3, 224, 224), (32, 112, 112), (16, 112, 112)]
    assert [layer.operator for layer in found.blocks].count("bottleneck t6 s1 + shortcut") == 10
    assert [layer.name for layer in found.blocks][-3:] == ["last", "", "classifier"]
    assert sum(layer.share for layer in found.blocks) == pytest.approx(1)
    assert sum(layer.parameters for layer in found.layers) == found.parameters
    # 96 channels at 112 x 112 in, at 56 x 56 out, 32 bits.
    assert found.peak_activation_bytes == 4 * 96 * (112**2 + 56**2)


def test_the_json_has_what_was_promised() -> None:
    values = json.loads(mobilenetv2.describe("mobilenet_v2", width=0.35, resolution=96, output_stride=16).to_json())
    promised = {"name", "width", "resolution", "parameters", "parameters_without_batch_norm", "madds"}
    assert promised | {"peak_activation_bytes", "layers"} <= set(values)
    assert (values["width"], values["resolution"], values["output_stride"]) == (0.35, 96, 16)


def test_text_and_markdown_have_the_same_rows() -> None:
    found = mobilenetv2.describe("shufflenet_v1", resolution=64)
    text, markdown = found.to_text(), found.to_markdown()
    assert "shuffle unit" in text
    assert text.count("shuffle unit") == markdown.count("shuffle unit") == 16
    assert found.to_text(every_layer=True).count("\n") > text.count("\n")
    assert len({line.count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1


def test_a_model_file_is_described_as_it_is(tmp_path: Path, random_model: RandomModel) -> None:
    path = tmp_path / "m.safetensors"
    random_model(preprocessing=Preprocessing(size_hw=(32, 32)), num_classes=3).save(path)
    found = mobilenetv2.describe(str(path))
    assert found.blocks[-1].output_shape == (3,)
    # SAME padding is no part of the input.
    assert found.blocks[0].input_shape == (3, found.resolution, found.resolution)
    with pytest.raises(UserError, match="a model's own"):
        mobilenetv2.describe(str(path), width=0.5)


def test_a_detector_is_described_as_it_is(tmp_path: Path, random_detector: RandomDetector) -> None:
    path = tmp_path / "m.safetensors"
    model = random_detector(preprocessing=Preprocessing(size_hw=(64, 64)), backbone="mobilenet_v1")
    model.save(path)
    found = mobilenetv2.describe(str(path))
    assert (found.source, found.width, found.output_stride) == ("ssdlite on mobilenet_v1, 3 classes", 0.1, None)
    assert found.parameters == model.card.parameters
    assert found.madds == detector_multiply_adds(model.card.detection[0], (64, 64))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mobilenet_v3", {}, "did you mean 'mobilenet_v"),
        ("ssd300", {"resolution": 64}, "cannot take 64 x 64"),
        ("yolo_v2", {"resolution": 100}, "cannot take 100 x 100"),
        ("mobilenet_v2", {"resolution": 0}, "resolution 0"),
        ("nowhere.safetensors", {}, "no such model file"),
    ],
)
def test_what_cannot_be_described_is_one_line(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        mobilenetv2.describe(name, **options)
    assert "\n" not in str(raised.value)
