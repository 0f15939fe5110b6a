"""What each step of the preparation for 8 bits is worth: a model measured through ONNX Runtime's 8-bit graph.

python benchmarks/quantization_steps.py cifar10 cifar10-train.zip
"""

from __future__ import annotations

import sys
from pathlib import Path

from mobilenetv2 import api
from mobilenetv2.benchmarking.worker import MEASURES
from mobilenetv2.evaluation import evaluate
from mobilenetv2.exports.calibration import calibration_images, calibration_pictures
from mobilenetv2.modelfile import load_model_file
from mobilenetv2.quantization.prepare import Preparation, prepare
from mobilenetv2.runtime.graph import picture_graph
from mobilenetv2.runtime.predictor import find_model, predictor_of_graph

STEPS = {
    "ranges alone": Preparation(equalise=False, correct=False),
    "biases corrected": Preparation(equalise=False),
    "channels equalised too": Preparation(),
}


def main() -> None:
    name, data = sys.argv[1], Path(sys.argv[2])
    model = load_model_file(find_model(name))
    images = calibration_images(*calibration_pictures(data, model.card), model.card)
    metric = MEASURES[model.card.task]
    print(f"{name} float32: {metric} {api.evaluate(name, data).card_metrics()[metric]:.4f}")
    for step, preparation in STEPS.items():
        graph = picture_graph(prepare(model, images, preparation), int8=True)
        found = evaluate(predictor_of_graph(graph, source=name), data)
        print(f"{name} int8, {step}: {metric} {found.card_metrics()[metric]:.4f}", flush=True)


if __name__ == "__main__":
    main()
