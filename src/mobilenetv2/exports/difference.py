"""Where an export begins to differ from its model file: the first layer of which the results are not alike."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.exports.onnx import FILE
from mobilenetv2.exports.target import Target
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.preprocessing import preprocess
from mobilenetv2.runtime.engine import open_session
from mobilenetv2.runtime.engines import engine_of_export
from mobilenetv2.runtime.exported import Export
from mobilenetv2.runtime.graph import PREPROCESSED, TAP, network_graph
from mobilenetv2.runtime.images import Source, open_image

# In shares of the largest result of a layer: rounding stays far below, a wrong weight goes far beyond.
_ALIKE = 1e-3

Results = dict[str, NDArray[Any]]


def first_difference(model: ModelFile, target: Target, source: Source) -> str:
    """One clause that names the first layer at which the target differs on a picture.

    The target is written again for that, with the result of every layer as an output.
    """
    picture = open_image(source)
    images = preprocess(picture, model.card.preprocessing)[None]
    expected = {PREPROCESSED: images, **_answered(network_graph(model, taps=True), images)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target.write(model, folder, taps=True)
        if target.is_file:
            found = _answered((folder / FILE).read_bytes(), np.asarray(picture)[None])
        else:
            export = Export(folder=folder, target=target.name, precision="float32", card=model.card)
            layers = list(expected)[1:]
            outputs = engine_of_export(export, threads=None).run(images)[-len(layers) :]
            found = {PREPROCESSED: images, **dict(zip(layers, outputs, strict=True))}
    for layer, result in expected.items():
        # Some runtimes drop sides of one pixel.
        difference = np.abs(found[layer].reshape(result.shape) - result).max() / max(np.abs(result).max(), 1e-6)
        # Written so that NaN differs too.
        if not difference <= _ALIKE:
            what = "the preprocessing" if layer == PREPROCESSED else f"layer {layer.removeprefix(TAP)!r}"
            return f"the first to differ is {what}, by {difference:.1%} of its largest result"
    return "all layers are alike, so it is what follows the network"


def _answered(graph: bytes, images: NDArray[Any]) -> Results:
    session = open_session(graph, threads=None)
    names = [output.name for output in session.get_outputs()]
    results = dict(zip(names, session.run(None, {"images": images}), strict=True))
    return {name: result for name, result in results.items() if name.startswith(TAP)}
