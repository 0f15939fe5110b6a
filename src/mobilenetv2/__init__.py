"""MobileNetV2 as a complete light-weight vision system.

    import mobilenetv2
    model = mobilenetv2.load()              # the model in the box, or a path
    print(model.predict("photo.jpg").best)

Each verb of the command line is a function here: `predict`, `train`, `evaluate`, `export`, `convert`, `check`,
`models`, `describe`. The paper's tables and figures are in `mobilenetv2.paper.page`.
Importing the package imports none of the libraries it stands on; each name is loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilenetv2.api import benchmark, check, convert, describe, evaluate, export, models, predict, train
    from mobilenetv2.errors import UserError
    from mobilenetv2.modelfile import Card, ModelFile, load_model_file
    from mobilenetv2.predictions import Classification, Label
    from mobilenetv2.preprocessing import Preprocessing
    from mobilenetv2.runtime.predictor import Predictor, load

__version__ = "0.1.0"

_HOMES = {
    "benchmark": "api",
    "check": "api",
    "describe": "api",
    "evaluate": "api",
    "convert": "api",
    "export": "api",
    "models": "api",
    "predict": "api",
    "train": "api",
    "UserError": "errors",
    "Card": "modelfile",
    "ModelFile": "modelfile",
    "load_model_file": "modelfile",
    "Classification": "predictions",
    "Label": "predictions",
    "Preprocessing": "preprocessing",
    "Predictor": "runtime.predictor",
    "load": "runtime.predictor",
}

__all__ = [
    "Card",
    "Classification",
    "Label",
    "ModelFile",
    "Predictor",
    "Preprocessing",
    "UserError",
    "benchmark",
    "check",
    "convert",
    "describe",
    "evaluate",
    "export",
    "load",
    "load_model_file",
    "models",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mobilenetv2' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"mobilenetv2.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
