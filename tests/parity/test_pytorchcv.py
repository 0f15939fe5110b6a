"""With pytorchcv's weights under our names, our outputs are pytorchcv's: ShuffleNet V1, NASNet-A, MobileNetV1.

Its poolings of 7x7 before the classifier are made global here, so that small pictures do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peers import pictures, randomize, relative_difference
from torch import nn

from mobilenetv2.architecture import Architecture
from mobilenetv2.networks.mobilenet_v1 import MobileNetV1
from mobilenetv2.networks.nasnet_a import NASNetAMobile
from mobilenetv2.networks.shufflenet_v1 import ShuffleNetV1

shufflenet: Any = pytest.importorskip("pytorchcv.models.shufflenet")
nasnet: Any = pytest.importorskip("pytorchcv.models.nasnet")
mobilenet: Any = pytest.importorskip("pytorchcv.models.mobilenet")

Rename = Callable[[str], str]


def peer(network: nn.Module, seed: int) -> nn.Module:
    network.features.final_pool = nn.AdaptiveAvgPool2d(1)  # type: ignore[union-attr]
    return randomize(network, seed)


def difference(ours: nn.Module, theirs: nn.Module, rename: Rename, size_hw: tuple[int, int]) -> float:
    renamed = {rename(name): tensor for name, tensor in theirs.state_dict().items()}
    assert len(renamed) == len(theirs.state_dict())
    ours.load_state_dict(renamed)  # Strict: every tensor of ours is one of theirs, and all of theirs are used.
    images = pictures(size_hw)
    with torch.inference_mode():
        return relative_difference(ours.eval()(images), theirs(images))


def substitute(name: str, rules: dict[str, str | Callable[[re.Match[str]], str]]) -> str:
    for pattern, replacement in rules.items():
        name = re.sub(pattern, replacement, name)
    return name


def shufflenet_name(name: str) -> str:
    return substitute(
        name,
        {
            r"^features\.init_block\.conv\.": "stem.conv.",
            r"^features\.init_block\.bn\.": "stem.norm.",
            r"^features\.stage(\d)\.unit(\d)\.": lambda m: f"stages.{int(m[1]) - 1}.{int(m[2]) - 1}.",
            r"\.(compress|expand)_conv\d\.": r".\1.conv.",
            r"\.(compress|expand)_bn\d\.": r".\1.norm.",
            r"\.dw_conv2\.": ".filter.conv.",
            r"\.dw_bn2\.": ".filter.norm.",
            r"^output\.": "classifier.",
        },
    )


@pytest.mark.parametrize(
    ("groups", "width"),
    [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (8, 1.0), (1, 0.5), (3, 0.5), (3, 2.0)],
)
def test_shufflenet(groups: int, width: float) -> None:
    theirs = peer(shufflenet.get_shufflenet(groups, width, num_classes=50), seed=groups)
    for size_hw in ((64, 64), (97, 33)):
        ours = ShuffleNetV1(groups=groups, width=width, num_classes=50)
        assert difference(ours, theirs, shufflenet_name, size_hw) <= 1e-5


@pytest.mark.parametrize(("width", "their_stem", "our_stem"), [(1.5, 36, 24), (0.25, 6, 12)])
def test_where_the_first_convolutions_of_shufflenet_differ(width: float, their_stem: int, our_stem: int) -> None:
    """pytorchcv multiplies the 24 channels too; the published multiply-adds need ours (see `STEM_CHANNELS`)."""
    with torch.device("meta"):
        theirs, ours = shufflenet.get_shufflenet(3, width), ShuffleNetV1(width=width)
    assert theirs.features.init_block.conv.out_channels == their_stem
    assert ours.stem.conv.out_channels == our_stem


# Unit of pytorchcv's stages -> cell of ours: its stem units are the reduction cells of our first two stages.
NASNET_CELLS = {
    "stem1_unit": "stages.0.cells.0",
    "stem2_unit": "stages.1.cells.0",
    **{f"stage1.unit{cell}": f"stages.1.cells.{cell}" for cell in (1, 2, 3, 4)},
    **{f"stage{stage}.unit{cell + 1}": f"stages.{stage}.cells.{cell}" for stage in (2, 3) for cell in range(5)},
}


def nasnet_name(name: str) -> str:
    return substitute(
        name,
        {
            r"^features\.init_block\.conv\.": "stem.conv.",
            r"^features\.init_block\.bn\.": "stem.norm.",
            r"^features\.(stem\d_unit|stage\d\.unit\d)\.": lambda m: f"{NASNET_CELLS[m[1]]}.",
            r"\.conv1x1\.conv\.": ".current.mix.conv.",
            r"\.conv1x1\.bn\.": ".current.mix.norm.",
            r"\.conv1x1_prev\.conv\.": ".previous.mix.conv.",
            r"\.conv1x1_prev\.bn\.": ".previous.mix.norm.",
            r"\.path\.path1\.conv\.": ".previous.even.",
            r"\.path\.path2\.conv\.": ".previous.odd.",
            r"\.path\.bn\.": ".previous.norm.",
            r"\.comb(\d)_(left|right)\.conv(\d)\.": lambda m: f".{m[2]}.{'abcde'[int(m[1])]}.{int(m[3]) - 1}.",
            r"\.(\d)\.conv\.dw_conv\.": r".\1.filter.",
            r"\.(\d)\.conv\.pw_conv\.": r".\1.mix.conv.",
            r"\.(\d)\.bn\.": r".\1.mix.norm.",
            r"^output\.fc\.": "classifier.",
        },
    )


@pytest.fixture(scope="module")
def their_nasnet() -> nn.Module:
    return peer(nasnet.nasnet_4a1056(num_classes=50), seed=1)


# pytorchcv pads as TensorFlow does where the stem's map is odd and all later ones are even: at 32 k and 32 k - 1.
@pytest.mark.parametrize("size_hw", [(64, 64), (95, 160), (224, 224)], ids=str)
def test_nasnet(their_nasnet: nn.Module, size_hw: tuple[int, int]) -> None:
    assert difference(NASNetAMobile(num_classes=50), their_nasnet, nasnet_name, size_hw) <= 1e-5


# Units of pytorchcv's stages, of which ours are one row.
MOBILENET_UNITS = [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), *((4, unit) for unit in range(1, 7)), (5, 1), (5, 2)]


def mobilenet_name(name: str) -> str:
    return substitute(
        name,
        {
            r"^features\.init_block\.conv\.": "stem.conv.",
            r"^features\.init_block\.bn\.": "stem.norm.",
            r"^features\.stage(\d)\.unit(\d)\.": lambda m: f"blocks.{MOBILENET_UNITS.index((int(m[1]), int(m[2])))}.",
            r"\.dw_conv\.": ".filter.",
            r"\.pw_conv\.": ".mix.",
            r"\.bn\.": ".norm.",
            r"^output\.": "classifier.",
        },
    )


@pytest.mark.parametrize("width", [1.0, 0.75, 0.5, 0.25])
def test_mobilenet_v1(width: float) -> None:
    theirs = peer(mobilenet.get_mobilenet(width, num_classes=50), seed=2)
    architecture = Architecture(name="mobilenet_v1", width=width, num_classes=50)
    for size_hw in ((64, 64), (97, 33)):
        ours = MobileNetV1(architecture, activation="relu")
        assert difference(ours, theirs, mobilenet_name, size_hw) <= 1e-5
    # pytorchcv's activation is the paper's; ReLU6 would show.
    relu6 = MobileNetV1(architecture, activation="relu6")
    assert difference(relu6, theirs, mobilenet_name, (64, 64)) > 1e-3
