"""What a wheel must do on the machine that it is for; pyproject.toml has cibuildwheel run it there.

python tools/try_wheel.py
"""

from __future__ import annotations

import numpy as np

from mobilenetv2.modelfile import load_model_file
from mobilenetv2.runtime.engines import FUSED_ENGINE, GENERAL_ENGINE, engine_of_model
from mobilenetv2.runtime.predictor import find_model


def main() -> None:
    for name in ("cifar10", "bccd", "camvid"):
        model = load_model_file(find_model(name))
        shape = (2, 3, *model.card.preprocessing.size_hw)
        images = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
        found = engine_of_model(FUSED_ENGINE, model, threads=2).run(images)
        right = engine_of_model(GENERAL_ENGINE, model, threads=2).run(images)
        apart = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, right, strict=True))
        assert apart < 1e-5, f"{name}: the fused engine and onnxruntime differ by {apart:.1e} of the largest output"
        print(f"{name}: the fused engine answers as onnxruntime, to {apart:.1e} of the largest output")


if __name__ == "__main__":
    main()
