"""The libraries that checkpoints come from, running them: what a conversion is proved against."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.architecture import Architecture
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.preprocessing import normalize
from mobilenetv2.runtime.answers import softmax
from mobilenetv2.runtime.segment import decode
from mobilenetv2.segmenter import Segmenter
from mobilenetv2.weights.checkpoint import Checkpoint
from mobilenetv2.weights.states import plain

# (H, W, 3) uint8, of the input's size -> probabilities (classes,), or a mask (H, W).
Answer = Callable[[NDArray[np.uint8]], NDArray[Any]]

_TIMM = {
    ("mobilenet_v2", width): name
    for width, name in (
        *((0.35, "mobilenetv2_035"), (0.5, "mobilenetv2_050"), (0.75, "mobilenetv2_075"), (1.0, "mobilenetv2_100")),
        *((1.1, "mobilenetv2_110d"), (1.2, "mobilenetv2_120d"), (1.4, "mobilenetv2_140")),
    )
} | {("mobilenet_v1", width): name for width, name in ((1.0, "mobilenetv1_100"), (1.25, "mobilenetv1_125"))}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """title: the library and its version. answer: the original's. rounds: whether it computes in 8 bits."""

    title: str
    answer: Answer
    rounds: bool = False


@dataclass(frozen=True, kw_only=True)
class NoReference:
    """why: nothing can run the original here."""

    why: str


def find_reference(
    checkpoint: Checkpoint, model: ModelFile, library: str, *, quantized: bool
) -> Reference | NoReference:
    """What can run the original: the library it is of, if it is installed and has this network."""
    builders = {
        "TensorFlow Lite": _litert,
        "torchvision": _torchvision,
        "timm": _timm,
        "transformers": _transformers,
        "keras-applications": _keras,
    }
    if library not in builders:
        return NoReference(why=f"no library that is known here runs checkpoints of {library}")
    answer = builders[library](checkpoint, model)
    if isinstance(answer, str):
        return NoReference(why=answer)
    title, run = answer
    return Reference(title=title, answer=run, rounds=quantized)


_Found = tuple[str, Answer] | str


def _module(*names: str) -> Any:
    """The first of these modules that is installed, or None."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _titled(module: Any, name: str) -> str:
    return f"{name} {getattr(module, '__version__', '')}".strip()


def _litert(checkpoint: Checkpoint, model: ModelFile) -> _Found:
    names = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow.lite.python.interpreter")
    module = _module(*names)
    if module is None:
        return "LiteRT is not installed: pip install ai-edge-litert"
    try:
        interpreter = module.Interpreter(model_path=str(checkpoint.path), num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        return f"LiteRT does not run this file ({str(error).splitlines()[0]})"
    (given,), (wanted, *_) = interpreter.get_input_details(), interpreter.get_output_details()

    def answer(picture: NDArray[np.uint8]) -> NDArray[Any]:
        if given["dtype"] == np.uint8:
            levels: NDArray[Any] = picture
        elif given["dtype"] == np.int8:
            levels = (picture.astype(np.int16) - 128).astype(np.int8)
        else:
            levels = normalize(picture, model.card.preprocessing).transpose(1, 2, 0)
        interpreter.set_tensor(given["index"], levels[None])
        interpreter.invoke()
        found = interpreter.get_tensor(wanted["index"])[0]
        scale, zero = wanted["quantization"]
        if scale:
            found = (found.astype(np.float64) - zero) * scale
        if model.card.task == "segment":
            # Classes, or the logits they are the largest of.
            return _mask(found.argmax(axis=-1) if found.shape[-1:] == (len(model.card.labels),) else found)
        has_softmax = checkpoint.graph is not None and "SOFTMAX" in checkpoint.graph.operators
        return found.reshape(-1) if has_softmax else softmax(found.reshape(-1))

    return "LiteRT", answer


def _mask(found: NDArray[Any]) -> NDArray[np.uint8]:
    return found.reshape(found.shape[:2]).astype(np.uint8)


def _torchvision(checkpoint: Checkpoint, model: ModelFile) -> _Found:
    module, architecture = _module("torchvision"), model.card.architecture
    if module is None:
        return "torchvision is not installed: pip install 'mobilenetv2[train]'"
    network = module.models.mobilenet_v2(width_mult=architecture.width, num_classes=architecture.num_classes)
    return _of_torch(_titled(module, "torchvision"), network, checkpoint, model)


def _timm(checkpoint: Checkpoint, model: ModelFile) -> _Found:
    module, architecture = _module("timm"), model.card.architecture
    if module is None:
        return "timm is not installed: pip install timm"
    name = _TIMM.get((architecture.name, architecture.width))
    if name is None:
        return f"timm has no {architecture.name} of width {architecture.width:g}"
    network = module.create_model(name, num_classes=architecture.num_classes)
    return _of_torch(_titled(module, "timm"), network, checkpoint, model)


def _transformers(checkpoint: Checkpoint, model: ModelFile) -> _Found:
    module, architecture = _module("transformers"), model.card.architecture
    if module is None:
        return "transformers is not installed: pip install transformers"
    options = {"depth_multiplier": architecture.width, "num_labels": architecture.num_classes}
    if isinstance(architecture, Architecture) and architecture.name == "mobilenet_v1":
        network = module.MobileNetV1ForImageClassification(module.MobileNetV1Config(**options))
    else:
        assert isinstance(architecture, Architecture | Segmenter)
        config = module.MobileNetV2Config(**options, output_stride=architecture.output_stride)
        kind = "SemanticSegmentation" if isinstance(architecture, Segmenter) else "ImageClassification"
        network = getattr(module, f"MobileNetV2For{kind}")(config)
    return _of_torch(_titled(module, "transformers"), network, checkpoint, model)


def _of_torch(title: str, network: Any, checkpoint: Checkpoint, model: ModelFile) -> _Found:
    import torch

    own = network.state_dict()
    state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in plain(checkpoint.state).items()}
    if own.keys() - state.keys() - {name for name in own if name.endswith("num_batches_tracked")}:
        return f"{title} does not build the network that this file is of"
    network.load_state_dict(state, strict=False)
    network.eval()

    def answer(picture: NDArray[np.uint8]) -> NDArray[Any]:
        with torch.inference_mode():
            found = network(torch.from_numpy(normalize(picture, model.card.preprocessing))[None])
        logits: NDArray[np.float32] = getattr(found, "logits", found)[0].numpy()
        return decode(logits, picture.shape[:2]) if model.card.task == "segment" else softmax(logits)

    return title, answer


def _keras(checkpoint: Checkpoint, model: ModelFile) -> _Found:
    # Keras asks for a backend when it is imported, and TensorFlow is not what this package needs.
    os.environ.setdefault("KERAS_BACKEND", "torch")
    module, architecture = _module("keras"), model.card.architecture
    if module is None:
        return "keras is not installed: pip install keras"
    build = module.applications.MobileNet if architecture.name == "mobilenet_v1" else module.applications.MobileNetV2
    network = build(
        input_shape=(*model.card.preprocessing.size_hw, 3),
        alpha=architecture.width,
        weights=None,
        classes=architecture.num_classes,
    )
    with tempfile.TemporaryDirectory() as folder:
        # Keras knows formats by their names.
        copy = Path(folder) / f"weights{_keras_suffix(checkpoint)}"
        shutil.copyfile(checkpoint.path, copy)
        try:
            network.load_weights(copy)
        except ValueError as error:
            return f"Keras' own network does not take this file ({str(error).splitlines()[0]})"

    def answer(picture: NDArray[np.uint8]) -> NDArray[Any]:
        pixels = normalize(picture, model.card.preprocessing).transpose(1, 2, 0)[None]
        (probabilities,) = module.ops.convert_to_numpy(network(pixels, training=False))
        return np.asarray(probabilities)

    return _titled(module, "Keras"), answer


def _keras_suffix(checkpoint: Checkpoint) -> str:
    with checkpoint.path.open("rb") as file:
        if file.read(2) == b"PK":
            return ".keras"
    # Keras 3 keeps layers in a group of their own; older files, and whole models, do not.
    return ".weights.h5" if checkpoint.path.name.endswith(".weights.h5") else ".h5"
