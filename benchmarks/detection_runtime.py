"""What decoding costs a detector: the network alone, and the network with everything up to the boxes in pixels.

    python benchmarks/detection_runtime.py [MODEL.safetensors [PICTURE]]

Without a model, random SSDLites at 320 pixels with 3 and 80 classes, whose scores lie about .01: half of all of them
are candidates at evaluation's threshold, which is far more than a trained network gives. The same engine does both, by
turns; medians, since machines are noisy.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mobilenetv2.detector import Detector, detector_shapes
from mobilenetv2.modelfile import Card, ModelFile, load_model_file
from mobilenetv2.postprocessing import Postprocessing
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.detect import Found
from mobilenetv2.runtime.drawn import draw_pictures
from mobilenetv2.runtime.engine import OnnxRuntimeEngine
from mobilenetv2.runtime.images import open_image
from mobilenetv2.runtime.scorers import PillowScorer

ROUNDS = 31
THRESHOLDS = (0.3, 0.01)
LOGIT_OF_ONE_PERCENT = -4.6


def random_detector(num_classes: int) -> ModelFile:
    """SSDLite at width 1 with weights that keep the variance, and scores about .01."""
    detector, random = Detector(num_classes=num_classes), np.random.default_rng(0)
    tensors = {}
    for name, shape in detector_shapes(detector):
        if len(shape) > 1:
            values = random.normal(0, 1.4 / np.sqrt(np.prod(shape[1:])), shape)
        elif name.endswith(("norm.weight", "running_var")):
            values = np.ones(shape)
        else:
            prior = name.startswith("class_heads") and name.endswith("predict.bias")
            values = np.full(shape, LOGIT_OF_ONE_PERCENT if prior else 0.0)
        tensors[name] = values.astype(np.float32)
    card = Card(
        name=f"random SSDLite, {num_classes} classes",
        task="detect",
        architecture=detector,
        labels=tuple(f"class {index}" for index in range(num_classes)),
        preprocessing=Preprocessing(size_hw=(320, 320)),
        postprocessing=Postprocessing(),
    )
    return ModelFile(card=card, tensors=tensors)


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def measure(model: ModelFile, picture: Image.Image, threshold: float) -> str:
    _, postprocessing = model.card.detection
    card = replace(model.card, postprocessing=replace(postprocessing, score_threshold=threshold))
    engine = OnnxRuntimeEngine(model)
    scorer = PillowScorer(engine, card)
    prepared = scorer.prepare(picture)
    (found,) = scorer.score([prepared]).answers
    assert isinstance(found, Found)
    alone, whole = [], []
    for _ in range(ROUNDS):
        alone.append(milliseconds(lambda: engine.run(prepared[0][None])))
        whole.append(milliseconds(lambda: scorer.score([prepared])))
    network, both = statistics.median(alone), statistics.median(whole)
    boxes = len(found.labels)
    return f"{threshold:9} {boxes:6} {network:12.1f} {both:18.1f} {both / network:6.2f}"


def main() -> None:
    models = [load_model_file(Path(sys.argv[1]))] if len(sys.argv) > 1 else [random_detector(n) for n in (3, 80)]
    picture = open_image(sys.argv[2]) if len(sys.argv) > 2 else Image.fromarray(draw_pictures()[6])
    for model in models:
        print(model.card.name)
        print("threshold  boxes  network, ms  with decoding, ms  ratio")
        for threshold in THRESHOLDS:
            print(measure(model, picture, threshold))


if __name__ == "__main__":
    main()
