"""What benchmarks of 8 bits begin with: a model, its metric in float32, and pictures to calibrate it with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilenetv2 import api
from mobilenetv2.benchmarking.worker import MEASURES
from mobilenetv2.exports.calibration import calibration_images, calibration_pictures
from mobilenetv2.modelfile import ModelFile, load_model_file
from mobilenetv2.runtime.predictor import find_model


class Subject(NamedTuple):
    """images: (N, 3, H, W), preprocessed. exact: `metric` of the data's validation pictures in float32."""

    model: ModelFile
    images: NDArray[np.float32]
    metric: str
    exact: float


def subject(name: str, data: Path) -> Subject:
    """name: of a model, as `predict` takes it. data: a folder or `.zip`, labelled for its task."""
    model = load_model_file(find_model(name))
    metric = MEASURES[model.card.task]
    images = calibration_images(*calibration_pictures(data, model.card), model.card)
    return Subject(model, images, metric, api.evaluate(name, data).card_metrics()[metric])
