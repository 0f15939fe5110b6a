"""Which engine runs what: a model file, an exported `.onnx`, or the folder of an export."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from typing import NamedTuple

from mobilenetv2.errors import ModelFileError, UserError, did_you_mean
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.runtime.engine import Engine, OnnxRuntimeEngine, check_threads
from mobilenetv2.runtime.exported import Export

# What knows most of our networks, and is fastest; and what runs all of them.
FUSED_ENGINE, GENERAL_ENGINE = "native", "onnxruntime"
# What the fused one calls its loops without a processor's special instructions.
PORTABLE_KERNELS = "portable"
# Engines that run an export's folder: module and class, as their libraries are in extras.
FROM_EXPORTS = {
    "executorch": ("engine_executorch", "ExecuTorchEngine"),
    "litert": ("engine_litert", "LiteRtEngine"),
    "native": ("engine_native", "NativeEngine"),
    "ncnn": ("engine_ncnn", "NcnnEngine"),
    "openvino": ("engine_openvino", "OpenVinoEngine"),
}
ENGINES = tuple(dict.fromkeys((FUSED_ENGINE, GENERAL_ENGINE, *FROM_EXPORTS)))


def check_engine(name: str) -> None:
    """Raises UserError if there is no such engine."""
    if name not in ENGINES:
        raise UserError(f"engine {name!r} is not known{did_you_mean(name, ENGINES)}; it can be {', '.join(ENGINES)}")


class Chosen(NamedTuple):
    """An engine with a model on it. note: why it is not the fused one, where that was wanted; else nothing."""

    name: str
    engine: Engine
    note: str = ""


def choose_engine(name: str | None, model: ModelFile, *, threads: int | None) -> Chosen:
    """A model file on an engine; None for the fused one where it is here, fast and knows it all, else onnxruntime."""
    if name is not None:
        return Chosen(name, engine_of_model(name, model, threads=threads))
    check_threads(threads)
    try:
        _check_fast()
        return Chosen(FUSED_ENGINE, engine_of_model(FUSED_ENGINE, model, threads=threads))
    except UserError as error:
        return Chosen(GENERAL_ENGINE, engine_of_model(GENERAL_ENGINE, model, threads=threads), _note(error))


def _check_fast() -> None:
    """Raises UserError where onnxruntime is faster than the fused engine: on x86 without AVX2, about three times."""
    _fused_engine()
    from mobilenetv2 import _native

    if _native.Network.kernels()[0] == PORTABLE_KERNELS and platform.machine() in ("x86_64", "AMD64"):
        raise UserError(f"engine {FUSED_ENGINE!r} is slow on an x86 processor without AVX2")


def _fused_engine() -> Callable[..., Engine]:
    """Raises UserError if this installation has none."""
    try:
        from mobilenetv2.runtime.engine_native import NativeEngine
    except ImportError as error:
        raise UserError(
            f"engine {FUSED_ENGINE!r} is not part of this installation, which was made without a C++ compiler; "
            f"use {GENERAL_ENGINE!r}, or install again where there is one"
        ) from error
    return NativeEngine


def _note(error: UserError) -> str:
    return f"{GENERAL_ENGINE} is used: {str(error).partition(';')[0]}"


def engine_of_model(name: str, model: ModelFile, *, threads: int | None) -> Engine:
    """A model file on that engine. Raises UserError if it needs an export, is not here, or does not know all parts."""
    if name == FUSED_ENGINE:
        return _fused_engine()(model, threads=threads)
    if name == "openvino":
        from mobilenetv2.runtime.engine_openvino import OpenVinoEngine

        return OpenVinoEngine(model, threads=threads)
    if name != GENERAL_ENGINE:
        raise UserError(
            f"engine {name!r} runs exports; make one by 'mobilenetv2 export {model.card.name} --to {name}', "
            "and give its folder as the model"
        )
    return OnnxRuntimeEngine(model, threads=threads)


def engine_of_export(export: Export, *, threads: int | None) -> Engine:
    """The engine of an export's folder. Raises ModelFileError if no engine runs it here."""
    if export.target not in FROM_EXPORTS:
        raise ModelFileError(f"{export.folder}: is for {export.target!r}, which does not run here")
    make = _fused_engine() if export.target == FUSED_ENGINE else engine_class(export.target)
    return make(export.folder, threads=threads)


def engine_class(target: str) -> Callable[..., Engine]:
    """What runs the folders of a target of `FROM_EXPORTS`."""
    module, name = FROM_EXPORTS[target]
    found: Callable[..., Engine] = getattr(importlib.import_module(f"mobilenetv2.runtime.{module}"), name)
    return found
