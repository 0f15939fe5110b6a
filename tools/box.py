"""Put a trained model into the box: measured through the runtime, with its card completed, in half precision.

python tools/box.py RUN/model.safetensors --name cifar10 --data DATA --licence ... --description ...
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from mobilenetv2.evaluation import evaluate
from mobilenetv2.modelfile import load_model_file
from mobilenetv2.runtime.predictor import MODELS_IN_THE_BOX, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument(
        "--data", type=Path, required=True, help="the data it was trained on; its val pictures are measured"
    )
    parser.add_argument("--licence", required=True)
    parser.add_argument("--description", required=True)
    options = parser.parse_args()

    model = load_model_file(options.model)
    card = replace(model.card, name=options.name, licence=options.licence, description=options.description, metrics={})
    path = MODELS_IN_THE_BOX / f"{options.name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    # Half precision first: what is measured is what is shipped.
    replace(model, card=card).save(path, half=True)
    evaluation = evaluate(load(path), options.data)
    card = evaluation.completed(card)
    replace(model, card=card).save(path, half=True)
    print(f"{path}: {card.metrics}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
