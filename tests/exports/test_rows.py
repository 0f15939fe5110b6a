"""Every row of the support table that says `validated`: exported, run in its runtime, held against the model file.

Each takes the model in the box of its task. With MOBILENETV2_RECORD set (`make test-export`) what passes is written
down there, with the day and the runtime's version.
"""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenetv2.data.tree import decode
from mobilenetv2.exports.calibration import calibration_pictures
from mobilenetv2.exports.export import export_model
from mobilenetv2.exports.support import BLOCKED
from mobilenetv2.exports.target import TARGETS
from mobilenetv2.modelfile import load_model_file
from mobilenetv2.preprocessing import preprocess
from mobilenetv2.runtime.predictor import find_model

MODELS = {"classify": "cifar10", "detect": "bccd", "segment": "camvid"}
# Its package, whose version is written down.
PACKAGES = {
    "onnx": "onnxruntime",
    "native": "mobilenetv2",
    "openvino": "openvino",
    "litert": "ai-edge-litert",
    "executorch": "executorch",
    "ncnn": "ncnn",
}
# What the writer needs beside it.
CONVERTERS = {"ncnn": "pnnx", "litert": "litert-torch"}
ROWS = [
    (target, task, precision)
    for target in PACKAGES
    for precision in ("float32", "int8")
    for task in MODELS
    if (target, precision) not in BLOCKED
]
PICTURES = {"classify": ("imagenet-sample-200.zip", 200), "detect": ("bccd.zip", 12), "segment": ("camvid.zip", 8)}
DATA = {"classify": "cifar10-train.zip", "detect": "bccd.zip", "segment": "camvid.zip"}


def needs(target: str) -> str:
    """The version of the runtime. Skips the test where it, or what writes for it, is not installed."""
    try:
        found = [version(package) for package in (PACKAGES[target], CONVERTERS.get(target)) if package]
    except PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    return f"{PACKAGES[target]} {found[0]}"


def pictures_of(task: str, count: int, archive: Path) -> list[Image.Image]:
    card = load_model_file(find_model(MODELS[task])).card
    tree, names = calibration_pictures(archive, card, count=count)
    return [decode(tree, name) for name in names]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what ExecuTorch and LiteRT's converter call
@pytest.mark.parametrize(("target", "task", "precision"), ROWS)
def test_a_row_of_the_support_table(target: str, task: str, precision: str, shared_data: Path, tmp_path: Path) -> None:
    tool = needs(target)
    model = load_model_file(find_model(MODELS[task]))
    archive, count = PICTURES[task]
    int8 = precision == "int8"
    calibration = None
    if int8:
        shown = pictures_of(task, 64 if task == "classify" else 24, shared_data / DATA[task])
        calibration = np.stack([preprocess(picture, model.card.preprocessing) for picture in shown])
        archive, count = DATA[task], 48 if task == "classify" else 12
    report = export_model(
        model,
        TARGETS[target],
        tmp_path / "exported",
        int8=int8,
        calibration=calibration,
        pictures=pictures_of(task, count, shared_data / archive),
    )
    assert report.pictures == count
    if record := os.environ.get("MOBILENETV2_RECORD"):
        path = Path(record)
        records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        records[f"{task} {target} {precision}"] = {
            "with": tool,
            "on": datetime.datetime.now(datetime.UTC).date().isoformat(),
            # Not how fast: whatever else ran at the time would be in it.
            "proof": replace(report, speed=None).to_text(),
        }
        path.write_text(json.dumps(dict(sorted(records.items())), indent=1) + "\n", encoding="utf-8")
