"""The fused engine in 8 bits: one `levels.safetensors`. In float32 it runs model files as they are."""

from __future__ import annotations

from pathlib import Path

from mobilenetv2.errors import ExportError
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.runtime.level_file import LEVELS, level_file


def write_native(model: ModelFile, folder: Path, *, int8: bool = False) -> None:
    """int8: of a model that was prepared for it. Raises ExportError without it: there would be nothing to write."""
    if not int8:
        raise ExportError(
            "the fused engine runs model files as they are, in float32; add --int8 to export one in 8 bits"
        )
    (folder / LEVELS).write_bytes(level_file(model))
