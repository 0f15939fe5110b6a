"""Damaged checkpoints by the thousand: each is read, or refused in one line; none crashes, hangs or runs code."""

from __future__ import annotations

import io
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_safetensors
from torchvision.models import mobilenet_v2

from conftest import make_random_model
from mobilenetv2.errors import UserError
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.weights.checkpoint import as_array, read_checkpoint
from mobilenetv2.weights.conventions import convert_checkpoint
from tflite_files import tflite_file

SECONDS = 5.0  # for one file; a whole one takes a tenth
BYTES = 512 << 20  # more than before


def tflite(kind: str) -> bytes:
    model = make_random_model(preprocessing=Preprocessing(size_hw=(32, 32)), width=0.05, numerics="tf", num_classes=2)
    return tflite_file(model, kind)


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(mobilenet_v2(width_mult=0.05, num_classes=2).state_dict())


def pth(*, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(state(), file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def safetensors() -> bytes:
    return save_safetensors({name: as_array(tensor) for name, tensor in state().items()})


def mutated(content: bytes, generator: np.random.Generator) -> bytes:
    """Bytes changed here and there, cut off, doubled, or put in another place; mostly where the structure is."""
    changed = bytearray(content)
    size = len(changed)

    def place() -> int:
        # Headers and tables are at the ends of most formats.
        near = int(generator.exponential(size / 50)) % size
        return [near, size - 1 - near, int(generator.integers(size))][int(generator.integers(3))]

    for _ in range(int(generator.integers(1, 6))):
        at, kind = place(), int(generator.integers(6))
        if kind == 0:
            changed[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            changed[at : at + 4] = int(generator.integers(1 << 32)).to_bytes(4, "little")
        elif kind == 2:
            changed[at : at + 8] = [b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7][int(generator.integers(3))]
        elif kind == 3:
            changed[at : at + 4] = np.float32([np.nan, np.inf, -1e38][int(generator.integers(3))]).tobytes()
        elif kind == 4:
            other, length = place(), int(generator.integers(1, 64))
            changed[at : at + length] = changed[other : other + length]
        else:
            del changed[max(at, 9) :]
        size = len(changed)
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "name", "count"),
    [
        (lambda: tflite("float32"), "m.tflite", 2500),
        (lambda: tflite("uint8"), "m.tflite", 1500),
        (lambda: tflite("float16"), "m.tflite", 1000),
        (safetensors, "m.safetensors", 2000),
        (pth, "m.pth", 1500),
        (lambda: pth(zipped=False), "m.pth", 1500),
    ],
    ids=["tflite-float32", "tflite-uint8", "tflite-float16", "safetensors", "pth", "pth-legacy"],
)
def test_damage_is_one_line(make: Callable[[], bytes], name: str, count: int, tmp_path: Path) -> None:
    content, path = make(), tmp_path / name
    path.write_bytes(content)
    convert_checkpoint(read_checkpoint(path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    generator = np.random.default_rng(0)
    refused = 0
    for number in range(count):
        path.write_bytes(mutated(content, generator))
        began = time.monotonic()
        try:
            convert_checkpoint(read_checkpoint(path))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error), f"file {number}: {error}"
        assert time.monotonic() - began < SECONDS, f"file {number} took too long"
    assert refused > count / 3
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES
    assert sorted(each.name for each in tmp_path.iterdir()) == [name]
