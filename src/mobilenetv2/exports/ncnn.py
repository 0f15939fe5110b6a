"""Export to ncnn: a `.param` that lists the layers, and a `.bin` that holds their weights, by pnnx."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import ExportError, MissingExtraError
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.runtime.engine_ncnn import BIN, PARAM, read_network
from mobilenetv2.runtime.graph import network_graph

# The shipped models take 5 seconds.
_TIMEOUT_SECONDS = 600.0


def write_ncnn(
    model: ModelFile, folder: Path, *, calibration: NDArray[np.float32] | None = None, taps: bool = False
) -> None:
    """Write `model.param` and `model.bin` into `folder`, both of float32, for one picture of the card's size.

    pnnx reads the network as `runtime.graph.network_graph` describes it; its blobs are `in0`, and `out0` and on for
    the outputs in their order, without the batch, which ncnn does not have. taps: the result of every layer follows.
    Raises ExportError where pnnx fails or makes what our engine would refuse, and for `calibration`, since no package
    brings ncnn's quantiser; MissingExtraError without pnnx.
    """
    if calibration is not None:
        raise ExportError(
            "ncnn quantises with ncnn2table and ncnn2int8, C++ programs that its Python packages leave out; "
            "export to ncnn without int8"
        )
    try:
        import pnnx
    except ModuleNotFoundError as error:
        raise MissingExtraError("export to ncnn", "ncnn") from error
    height, width = model.card.preprocessing.size_hw
    # pnnx leaves eight other files behind.
    with TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "model.onnx").write_bytes(network_graph(model, taps=taps))
        last_line = _run([pnnx.EXEC_PATH, "model.onnx", f"inputshape=[1,3,{height},{width}]", "fp16=0"], scratch)
        written = [scratch / f"model.ncnn.{kind}" for kind in ("param", "bin")]
        if not all(path.is_file() for path in written):
            raise ExportError(f"pnnx cannot convert {model.card.name!r}: {last_line}")
        param, weights = (path.read_bytes() for path in written)
    try:
        read_network(param, weights)
    except ValueError as error:
        raise ExportError(f"pnnx converts {model.card.name!r} to what our engine does not take: {error}") from error
    (folder / PARAM).write_bytes(param)
    (folder / BIN).write_bytes(weights)


def _run(command: list[str], folder: Path) -> str:
    """What it printed last. Raises ExportError if it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - a program of the package, and words of ours
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"pnnx was stopped after {_TIMEOUT_SECONDS:.0f} seconds") from error
    except OSError as error:
        raise ExportError(f"pnnx cannot be run on this machine: {error.strerror}") from error
    lines = done.stdout.decode(errors="replace").split("\n")
    last_line = next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")
    if done.returncode:
        raise ExportError(f"pnnx failed with code {done.returncode}: {last_line}")
    return last_line
