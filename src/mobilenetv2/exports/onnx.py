"""ONNX: one file that takes pictures of any size, with the card in its metadata."""

from __future__ import annotations

from pathlib import Path

from mobilenetv2.modelfile import ModelFile
from mobilenetv2.runtime.graph import picture_graph
from mobilenetv2.runtime.graph_form import ANY_PICTURES, GraphForm

FILE = "model.onnx"


def write_onnx(
    model: ModelFile, folder: Path, *, int8: bool = False, taps: bool = False, form: GraphForm = ANY_PICTURES
) -> None:
    """`model.onnx`, as `graph.picture_graph` describes it."""
    (folder / FILE).write_bytes(picture_graph(model, int8=int8, taps=taps, form=form))
