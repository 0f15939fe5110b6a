"""What LiteRT answers with a TFLite file, the model file made of it answers too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import RandomModel
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.weights.conversion import convert
from tflite_files import tflite_file

pytest.importorskip("ai_edge_litert")


@pytest.mark.parametrize(
    "options",
    [
        {"name": "mobilenet_v2", "numerics": "tf"},
        {"name": "mobilenet_v2", "numerics": "torch", "width": 0.5},
        {"name": "mobilenet_v1", "numerics": "keras", "width": 0.25},
        {"name": "mobilenet_v2", "numerics": "tf", "output_stride": 16, "rounding": "int"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_floating_point_files_are_proved(
    random_model: RandomModel, tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    model = random_model(preprocessing=Preprocessing(size_hw=(97, 96)), **options)
    (tmp_path / "m.tflite").write_bytes(tflite_file(model, kind))
    conversion = convert(tmp_path / "m.tflite", tmp_path / "m.safetensors")
    assert conversion.proof is not None
    assert conversion.proof.reference == "LiteRT"
    assert conversion.proof.agreement == 1
    assert conversion.proof.largest_difference is not None
    # Random networks enlarge rounding.
    assert conversion.proof.largest_difference < 1e-4
