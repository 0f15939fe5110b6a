"""What can be had, as `mobilenetv2 models` shows it: the models in the box and the published weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mobilenetv2.modelfile import load_model_file
from mobilenetv2.runtime.predictor import MODELS_IN_THE_BOX
from mobilenetv2.weights.sources import SOURCES


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One model.

    in_box: whether `predict` can use it at once; the others are what training starts from.
    top1, top5: of a classifier, AP, AP50: of a detector; shares 0..1, None where they were not measured.
    measured_on: what they are true of.
    size_mb: of the file or the download, in millions of bytes.
    origin: "in the box", an address, or a project on the package index.
    """

    name: str
    task: str
    in_box: bool
    top1: float | None
    top5: float | None
    AP: float | None
    AP50: float | None
    miou: float | None
    measured_on: str
    parameters: int
    size_mb: float
    licence: str
    origin: str


def list_models(box: Path = MODELS_IN_THE_BOX) -> list[ModelRow]:
    """The models in the box, then the sources of pretrained weights. Raises ModelFileError if one is damaged."""
    rows = []
    for path in sorted(box.glob("*.safetensors")):
        card = load_model_file(path).card
        rows.append(
            ModelRow(
                name=path.stem,
                task=card.task,
                in_box=True,
                top1=card.metrics.get("top1"),
                top5=card.metrics.get("top5"),
                AP=card.metrics.get("AP"),
                AP50=card.metrics.get("AP50"),
                miou=card.metrics.get("miou"),
                measured_on=str(card.metrics.get("data", "")),
                parameters=card.parameters,
                size_mb=round(path.stat().st_size / 1e6, 1),
                licence=card.licence,
                origin="in the box",
            )
        )
    rows.extend(
        ModelRow(
            name=source.name,
            task="classify",
            in_box=False,
            top1=source.top1,
            top5=source.top5,
            AP=None,
            AP50=None,
            miou=None,
            measured_on=source.measured_on,
            parameters=source.parameters,
            size_mb=source.size_mb,
            licence=source.licence,
            origin=source.origin,
        )
        for source in SOURCES.values()
    )
    return rows
