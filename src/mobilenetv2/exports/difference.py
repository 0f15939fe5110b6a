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
from mobilenetv2.runtime.graph import PREPROCESSED, TAP, network_graph
from mobilenetv2.runtime.images import Source, open_image

# In shares of the largest result of a layer: rounding stays far below, a wrong weight goes far beyond.
_ALIKE = 1e-3

Results = dict[str, NDArray[Any]]


def first_difference(model: ModelFile, target: Target, source: Source) -> str:
    """One clause that names the first layer at which the target differs on a picture, or says that it is not known."""
    if target.own_levels:
        return "its layers cannot be looked at in this runtime"
    picture = open_image(source)
    images = preprocess(picture, model.card.preprocessing)[None]
    expected = {PREPROCESSED: images, **_answered(network_graph(model, taps=True), images)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target.write(model, folder, taps=True)
        if target.is_file:
            found = _answered((folder / FILE).read_bytes(), np.asarray(picture)[None])
        else:
            found = {PREPROCESSED: images, **_answered_by_openvino(folder, images)}
    for layer, result in expected.items():
        difference = float(np.abs(found[layer] - result).max() / max(float(np.abs(result).max()), 1e-6))
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


def _answered_by_openvino(folder: Path, images: NDArray[np.float32]) -> Results:
    from mobilenetv2.runtime.engine_openvino import XML, compile_network

    network = compile_network(folder / XML, threads=None, source=str(folder))
    found = network.create_infer_request().infer({"images": images})
    return {
        name: np.array(found[output]) for output in network.outputs for name in output.names if name.startswith(TAP)
    }
