"""The runtimes that models are exported to, one line each."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenetv2.errors import UserError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Target:
    """A runtime that models are written for.

    title: its name for people. extra: of the package, with what it takes to write and to run them; empty for none.
    own_levels: whether its own tool quantises, with 127 steps to each side of 0; else our graph does.
    not_run: why nothing here can run it, if so; its writer checks what can be checked without.
    """

    name: str
    title: str
    extra: str
    own_levels: bool = True
    not_run: str = ""

    @property
    def is_file(self) -> bool:
        """Whether an export is one file, card and all; else it is a folder."""
        return self.name == "onnx"

    def path(self, stem: str, precision: str) -> Path:
        """Where an export goes if nothing else is said, in the current folder."""
        stem = stem if precision == "float32" else f"{stem}-{precision}"
        return Path(f"{stem}.onnx" if self.is_file else f"{stem}-{self.name}")

    @property
    def write(self) -> Callable[..., None]:
        """`write_NAME(model, folder, *, calibration or int8, taps)` of the target's module."""
        module = importlib.import_module(f"mobilenetv2.exports.{self.name}")
        writer: Callable[..., Any] = getattr(module, f"write_{self.name}")
        return writer


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(name="onnx", title="ONNX Runtime", extra="", own_levels=False),
        Target(name="native", title="the fused engine", extra="", own_levels=False),
        Target(name="openvino", title="OpenVINO", extra="openvino", own_levels=False),
        Target(name="litert", title="LiteRT", extra="litert"),
        Target(name="executorch", title="ExecuTorch", extra="executorch"),
        Target(name="ncnn", title="ncnn", extra="ncnn"),
        Target(name="coreml", title="Core ML", extra="coreml", not_run="Core ML runs on Apple's systems alone"),
    )
}


def find_target(name: str) -> Target:
    """Raises UserError, with the nearest name, if there is none."""
    if name not in TARGETS:
        raise UserError(
            f"export target {name!r} is not known{did_you_mean(name, TARGETS)}; it can be {', '.join(TARGETS)}"
        )
    return TARGETS[name]
