"""Which engine runs what: a model file, an exported `.onnx`, or the folder of an export."""

from __future__ import annotations

import importlib

from mobilenetv2.errors import ModelFileError, UserError, did_you_mean
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.runtime.engine import Engine, OnnxRuntimeEngine
from mobilenetv2.runtime.exported import Export

DEFAULT_ENGINE = "onnxruntime"
# Engines that run an export's folder: module and class, as their libraries are in extras.
FROM_EXPORTS = {
    "executorch": ("engine_executorch", "ExecuTorchEngine"),
    "litert": ("engine_litert", "LiteRtEngine"),
    "ncnn": ("engine_ncnn", "NcnnEngine"),
    "openvino": ("engine_openvino", "OpenVinoEngine"),
}
ENGINES = ("onnxruntime", "native", *FROM_EXPORTS)


def check_engine(name: str) -> None:
    """Raises UserError if there is no such engine."""
    if name not in ENGINES:
        raise UserError(f"engine {name!r} is not known{did_you_mean(name, ENGINES)}; it can be {', '.join(ENGINES)}")


def engine_of_model(name: str, model: ModelFile, *, threads: int | None) -> Engine:
    """A model file on an engine. Raises UserError if the engine needs an export, is not here, or lacks a part of it."""
    if name == "native":
        try:
            from mobilenetv2.runtime.engine_native import NativeEngine
        except ImportError as error:
            raise UserError(
                "engine 'native' is not part of this installation, which was made without a C++ compiler; "
                f"use {DEFAULT_ENGINE!r}, or install again where there is one"
            ) from error
        return NativeEngine(model, threads=threads)
    if name == "openvino":
        from mobilenetv2.runtime.engine_openvino import OpenVinoEngine

        return OpenVinoEngine(model, threads=threads)
    if name != DEFAULT_ENGINE:
        raise UserError(
            f"engine {name!r} runs exports; make one by 'mobilenetv2 export {model.card.name} --to {name}', "
            "and give its folder as the model"
        )
    return OnnxRuntimeEngine(model, threads=threads)


def engine_of_export(export: Export, *, threads: int | None) -> Engine:
    """The engine of an export's folder. Raises ModelFileError if no engine runs it here."""
    if export.target not in FROM_EXPORTS:
        raise ModelFileError(f"{export.folder}: is for {export.target!r}, which does not run here")
    module, kind = FROM_EXPORTS[export.target]
    engine = getattr(importlib.import_module(f"mobilenetv2.runtime.{module}"), kind)
    opened: Engine = engine(export.folder, threads=threads)
    return opened
