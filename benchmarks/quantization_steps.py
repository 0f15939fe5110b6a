"""What each step of the preparation for 8 bits is worth: a model measured through ONNX Runtime's 8-bit graph.

python benchmarks/quantization_steps.py cifar10 cifar10-train.zip
"""

from __future__ import annotations

import sys
from pathlib import Path

from calibrated import subject

from mobilenetv2.evaluation import evaluate
from mobilenetv2.quantization.prepare import Preparation, prepare
from mobilenetv2.runtime.graph import picture_graph
from mobilenetv2.runtime.predictor import predictor_of_graph

STEPS = {
    "ranges alone": Preparation(equalise=False, correct=False),
    "biases corrected": Preparation(equalise=False),
    "channels equalised too": Preparation(),
}


def main() -> None:
    name, data = sys.argv[1], Path(sys.argv[2])
    model, images, metric, exact = subject(name, data)
    print(f"{name} float32: {metric} {exact:.4f}")
    for step, preparation in STEPS.items():
        graph = picture_graph(prepare(model, images, preparation), int8=True)
        found = evaluate(predictor_of_graph(graph, source=name), data)
        print(f"{name} int8, {step}: {metric} {found.card_metrics()[metric]:.4f}", flush=True)


if __name__ == "__main__":
    main()
