"""Every command of the README is run, as it stands there, in an empty folder with the pictures it speaks of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v2

from conftest import paint
from mobilenetv2.data.shapes import write_shapes

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line.removeprefix("$ ") for kind, text in BLOCKS if kind == "console" for line in text.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the README's reader has: a photo, pictures, flowers by class, cells with boxes, a street with masks.

    And a checkpoint of torchvision.
    """
    paint(tmp_path / "photo.jpg", (200, 120, 40), seed=0, size=64)
    for index in range(2):
        paint(tmp_path / "pictures" / f"{index}.jpg", (90, 120, 200), seed=index, size=48)
    for name, colour in (("daisy", (230, 230, 230)), ("rose", (200, 40, 60))):
        for index in range(12):
            paint(tmp_path / "flowers" / name / f"{index}.jpg", colour, seed=index, size=40)
    write_shapes(tmp_path / "cells", train=6, val=2, size_hw=(96, 96))
    write_shapes(tmp_path / "street", train=6, val=2, size_hw=(96, 128))
    torch.save(mobilenet_v2(width_mult=0.35).state_dict(), tmp_path / "mobilenet_v2_035.pth")
    return tmp_path


def environment() -> dict[str, str]:
    binaries = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}


def test_the_set_up_is_two_commands() -> None:
    first = next(text for kind, text in BLOCKS if kind == "sh")
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]
    targets = (README.parent / "Makefile").read_text()
    assert "\ndemo:" in targets
    assert "\ntest:" in targets
    assert "make test" in (README.parent / ".ci/run").read_text()


@pytest.mark.slow
def test_every_command_runs(folder: Path) -> None:
    found = commands()
    assert len(found) >= 10
    for command in found:
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout, command


def test_the_python_runs(folder: Path) -> None:
    (code,) = (text for kind, text in BLOCKS if kind == "python")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"\w+ 0\.\d+", done.stdout)


def test_every_link_leads_somewhere() -> None:
    pages = [README, README.parent / "CONTRIBUTING.md", *sorted((README.parent / "docs").glob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
