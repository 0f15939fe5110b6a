"""OpenVINO: `model.xml` and `model.bin` of the network; its preprocessing, which OpenVINO would round, is ours."""

from __future__ import annotations

from pathlib import Path

from mobilenetv2.modelfile import ModelFile
from mobilenetv2.runtime.engine_openvino import XML, import_openvino
from mobilenetv2.runtime.graph import network_graph


def write_openvino(model: ModelFile, folder: Path, *, int8: bool = False, taps: bool = False) -> None:
    """As `graph.network_graph` describes it.

    Read by OpenVINO's core, not by its converter, which would report to its makers. (It has no 64-bit numbers, which
    `graph.picture_graph` is exact by.)
    """
    openvino = import_openvino()
    network = openvino.Core().read_model(network_graph(model, int8=int8, taps=taps))
    openvino.save_model(network, folder / XML, compress_to_fp16=False)
