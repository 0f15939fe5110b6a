"""Wrong weights in what is written are named by their layer, in every runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_rows import PACKAGES, needs

from conftest import make_random_detector, make_random_model, make_random_segmenter
from mobilenetv2.errors import ExportError
from mobilenetv2.exports.difference import first_difference
from mobilenetv2.exports.export import export_model
from mobilenetv2.exports.support import BLOCKED
from mobilenetv2.exports.target import TARGETS, Target
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.drawn import draw_pictures

SIZE = Preprocessing(size_hw=(64, 48))
MODELS: dict[str, Callable[[], ModelFile]] = {
    "classify": lambda: make_random_model(preprocessing=SIZE),
    "detect": lambda: make_random_detector(preprocessing=SIZE),
    "segment": lambda: make_random_segmenter(preprocessing=SIZE, decoder="light"),
}
# With batch norm before a shortcut, of the network's own part, and the last.
LAYERS = {
    "classify": ("stages.1.blocks.1.project", "classifier"),
    "detect": ("extras.0.filter", "class_heads.1.predict"),
    "segment": ("head.image", "decoder.blocks.0.mix"),
}
# Layers are compared in float32.
COMPARED = [name for name in PACKAGES if (name, "float32") not in BLOCKED]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@dataclass(frozen=True, kw_only=True)
class Tampered(Target):
    """Writes the weights of one layer otherwise."""

    layer: str

    @property
    def write(self) -> Callable[..., None]:
        def write(model: ModelFile, folder: Path, **options: Any) -> None:
            names = (f"{self.layer}.conv.weight", f"{self.layer}.weight")
            name = next(name for name in names if name in model.tensors)
            tensors = {**model.tensors, name: model.tensors[name] * np.float32(1.1)}
            TARGETS[self.name].write(replace(model, tensors=tensors), folder, **options)

        return write


def tampered(name: str, layer: str) -> Tampered:
    target = TARGETS[name]
    return Tampered(name=name, title=target.title, extra=target.extra, own_levels=target.own_levels, layer=layer)


@pytest.mark.parametrize("task", MODELS)
@pytest.mark.parametrize("name", COMPARED)
def test_it_is_the_layer_with_the_wrong_weights(name: str, task: str) -> None:
    needs(name)
    model, (picture, *_) = MODELS[task](), draw_pictures()
    assert first_difference(model, TARGETS[name], picture) == "all layers are alike, so it is what follows the network"
    for layer in LAYERS[task]:
        assert f"the first to differ is layer '{layer}', by " in first_difference(model, tampered(name, layer), picture)


@pytest.mark.parametrize("name", COMPARED)
def test_export_fails_with_that_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    needs(name)
    model = MODELS["classify"]()
    with pytest.raises(ExportError, match=r"picture \d: .*layer 'stages\.1\.blocks\.1\.project'.* was not written"):
        export_model(model, tampered(name, "stages.1.blocks.1.project"), tmp_path / "exported")
    assert not list(tmp_path.iterdir())
