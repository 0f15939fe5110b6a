"""Published weights as training takes them: by name, checked, under our names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mobilenetv2.architecture import Architecture
from mobilenetv2.detector import BACKBONE
from mobilenetv2.errors import ModelFileError, UserError
from mobilenetv2.modelfile import Tensors, load_model_file
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.predictor import find_model, models_in_the_box
from mobilenetv2.segmenter import Segmenter
from mobilenetv2.weights.checkpoint import read_checkpoint
from mobilenetv2.weights.fetch import Progress, fetch
from mobilenetv2.weights.sources import Source, default_source, find_source
from mobilenetv2.weights.states import match_state

__all__ = ["default_source", "pretrained", "pretrained_trunk"]


def pretrained(
    name: str,
    *,
    num_classes: int | None,
    labels: Sequence[str] | None = None,
    file: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Tensors, Architecture, Preprocessing]:
    """For a MobileNetV2 classifier: tensors by our names (float32 NumPy), the architecture they fit, and the
    preprocessing they were made with.

    name: a source in `SOURCES`, a model in the box, or the path of a model file; of detectors and segmenters the
        backbone is taken.
    num_classes: of the network to be; None for the source's own. The classifier is among the tensors only
        where both agree; otherwise it is left out, and the rest is the backbone.
    labels: of the network to be; where they are given, the classifier is among the tensors only if it was trained
        for just these, which of published weights nobody knows.
    file: the user's own copy, instead of fetching it.
    Raises UserError (unknown name, another network), DownloadError or ModelFileError, each in one line.
    """
    found = _find(name, file, progress)
    architecture = found.architecture
    if architecture.name != "mobilenet_v2":
        raise UserError(f"pretrained weights {name!r} are of {architecture.name}; a classifier needs mobilenet_v2's")
    if num_classes in (None, architecture.num_classes) and (labels is None or labels == found.labels):
        return found.tensors, architecture, found.preprocessing
    architecture = replace(architecture, num_classes=num_classes or architecture.num_classes)
    return _without_classifier(found.tensors), architecture, found.preprocessing


def pretrained_trunk(
    name: str, *, file: Path | None = None, progress: Progress | None = None, needs_last: bool = True
) -> tuple[Tensors, Architecture, Preprocessing]:
    """What other tasks build on: tensors by the names of `architecture.trunk_shapes`, of a model of any task.

    Options, answer and errors as `pretrained`; the architecture is MobileNetV1's or V2's, and its classes mean nothing.
    Numerics that are of classifiers alone become "tf", which is the same where sides are even.
    needs_last: whether MobileNetV2's last convolution is wanted, which a segmenter does not have.
    """
    found = _find(name, file, progress, needs_last=needs_last)
    architecture = found.architecture
    if architecture.numerics == "keras":
        architecture = replace(architecture, numerics="tf")
    return _without_classifier(found.tensors), architecture, found.preprocessing


class _Found(NamedTuple):
    """Tensors of a classifier, or of a backbone; labels: what the classifier was trained for, where that is known."""

    tensors: Tensors
    architecture: Architecture
    preprocessing: Preprocessing
    labels: Sequence[str] | None


def _find(name: str, file: Path | None, progress: Progress | None, *, needs_last: bool = True) -> _Found:
    if not name.endswith(".safetensors") and name not in models_in_the_box():
        source = find_source(name)
        tensors = _read_source(fetch(source, file=file, progress=progress), source)
        return _Found(tensors, source.architecture, source.preprocessing, None)
    model = load_model_file(file or find_model(name))
    architecture, preprocessing = model.card.architecture, model.card.preprocessing
    if isinstance(architecture, Architecture):
        return _Found(model.tensors, architecture, preprocessing, model.card.labels)
    if isinstance(architecture, Segmenter) and needs_last and architecture.backbone == "mobilenet_v2":
        raise UserError(
            f"pretrained weights {name!r} are of a segmenter, which has no last convolution; choose a classifier's"
        )
    prefix = f"{BACKBONE}."
    backbone = {key.removeprefix(prefix): value for key, value in model.tensors.items() if key.startswith(prefix)}
    return _Found(backbone, architecture.trunk, preprocessing, None)


def _without_classifier(tensors: Tensors) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if not key.startswith("classifier.")}


def _read_source(path: Path, source: Source) -> Tensors:
    """Raises ModelFileError if the file cannot be read, or is of another library or network than the source."""
    found = match_state(read_checkpoint(path).state, source=str(path))
    if (found.layout.title, found.architecture) != (source.library, source.architecture):
        theirs = found.architecture
        raise ModelFileError(
            f"{path}: is a {theirs.name} of {found.layout.title} with width {theirs.width:g} and {theirs.num_classes} "
            f"classes, not {source.name!r}"
        )
    return found.tensors
