"""How other libraries call the layers of MobileNetV1 and V2, and what they do with pictures.

Every reader in this package gives names as torch would have them (`LAYER.weight`, `NORM.running_mean`), so a library is
told apart by its names of layers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mobilenetv2.architecture import Architecture, plan_mobilenet_v1, plan_network
from mobilenetv2.preprocessing import HALF, IMAGENET_MEAN_RGB, IMAGENET_STD_RGB


class Pair(NamedTuple):
    """Names of a convolution and of its batch norm."""

    convolution: str
    norm: str


class Place(NamedTuple):
    """A block of MobileNetV2: its number from 1, its stage and its number in it from 0, and whether it expands."""

    number: int
    stage: int
    block: int
    expands: bool

    @property
    def parts(self) -> tuple[str, ...]:
        """Of which it is made, in order."""
        return ("expand", "filter", "project") if self.expands else ("filter", "project")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One library's way with one network.

    title: the library. network: "mobilenet_v2" or "mobilenet_v1". marks: layers that only this library has.
    stem: of both networks. last: of MobileNetV2, by the number of blocks. block: a layer for each part of a block of
        MobileNetV2. separable: the depthwise and the 1x1 convolution of a block of MobileNetV1, by its number from 0.
    classifier: the last layer; the first of these that is there.
    head: of a DeepLabv3 on MobileNetV2, our layer -> theirs; empty if the library has none.
    numerics: a key of `numerics.NUMERICS`.
    resize, crop_fraction, interpolation: what pictures go through, as in `preprocessing.Preprocessing`.
    """

    title: str
    network: str
    marks: tuple[str, ...]
    stem: Pair
    last: Callable[[int], Pair] = lambda blocks: Pair("", "")
    block: Callable[[Place], tuple[Pair, ...]] = lambda place: ()
    separable: Callable[[int], tuple[Pair, Pair]] = lambda index: (Pair("", ""), Pair("", ""))
    classifier: tuple[str, ...] = ("classifier",)
    head: Mapping[str, Pair] = field(default_factory=dict)
    numerics: str = "torch"
    resize: str = "crop"
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"

    @property
    def mean_rgb(self) -> tuple[float, float, float]:
        """What pictures go through, too: TensorFlow's libraries take -1..1, torch's ImageNet's own."""
        return IMAGENET_MEAN_RGB if self.numerics == "torch" else HALF

    @property
    def std_rgb(self) -> tuple[float, float, float]:
        return IMAGENET_STD_RGB if self.numerics == "torch" else HALF

    def layers(self, architecture: Architecture) -> dict[str, Pair]:
        """Our layer -> theirs, for every convolution of the network."""
        names = {"stem": self.stem}
        if self.network == "mobilenet_v1":
            for index in range(len(plan_mobilenet_v1(architecture))):
                names[f"blocks.{index}.filter"], names[f"blocks.{index}.mix"] = self.separable(index)
            return names
        count = 0
        for place in _places(architecture):
            count = place.number
            for part, pair in zip(place.parts, self.block(place), strict=True):
                names[f"stages.{place.stage}.blocks.{place.block}.{part}"] = pair
        return names | {"last": self.last(count)}


def _places(architecture: Architecture) -> Iterator[Place]:
    number = 0
    for s, stage in enumerate(plan_network(architecture).stages):
        for b, block in enumerate(stage):
            number += 1
            yield Place(number, s, b, block.expands)


def _torchvision(place: Place) -> tuple[Pair, ...]:
    # Activated convolutions are sequences of their own, the last is not.
    base, count = f"features.{place.number}.conv", len(place.parts) - 1
    activated = (Pair(f"{base}.{index}.0", f"{base}.{index}.1") for index in range(count))
    return *activated, Pair(f"{base}.{count}", f"{base}.{count + 1}")


def _flat(place: Place) -> tuple[Pair, ...]:
    # Convolution, batch norm and activation in one row.
    base = f"features.{place.number}.conv"
    return tuple(Pair(f"{base}.{3 * index}", f"{base}.{3 * index + 1}") for index in range(len(place.parts)))


def _timm(place: Place) -> tuple[Pair, ...]:
    base = f"blocks.{place.stage}.{place.block}"
    # Without an expansion, the projection is the only 1x1 convolution.
    kernels = ("conv_pw", "conv_dw", "conv_pwl") if place.expands else ("conv_dw", "conv_pw")
    return tuple(Pair(f"{base}.{kernel}", f"{base}.bn{number}") for number, kernel in enumerate(kernels, start=1))


def _mmpretrain(place: Place) -> tuple[Pair, ...]:
    base = f"backbone.layer{place.stage + 1}.{place.block}.conv"
    return tuple(Pair(f"{base}.{index}.conv", f"{base}.{index}.bn") for index in range(len(place.parts)))


def _transformers(place: Place) -> tuple[Pair, ...]:
    base = f"mobilenet_v2.layer.{place.number - 2}" if place.number > 1 else "mobilenet_v2.conv_stem"
    names = {"expand": "expand_1x1", "filter": "conv_3x3", "project": "reduce_1x1"}
    return tuple(_of_transformers(f"{base}.{names[part]}") for part in place.parts)


def _of_transformers(name: str) -> Pair:
    return Pair(f"{name}.convolution", f"{name}.normalization")


def _pytorchcv(place: Place) -> tuple[Pair, ...]:
    # Its stages begin where the stride is 2: it counts two rows of Table 2 as one.
    stage, before = ((1, 0), (2, 0), (3, 0), (4, 0), (4, 4), (5, 0), (5, 3))[place.stage]
    base = f"features.stage{stage}.unit{before + place.block + 1}"
    numbers = (1, 2, 3) if place.expands else (2, 3)
    return tuple(_of_pytorchcv(f"{base}.conv{number}") for number in numbers)


def _of_pytorchcv(name: str) -> Pair:
    return Pair(f"{name}.conv", f"{name}.bn")


# TF-Slim's words for the parts of a block, which keras-applications took over.
_SLIM_PARTS = {"expand": "expand", "filter": "depthwise", "project": "project"}


def _keras(place: Place) -> tuple[Pair, ...]:
    base = f"block_{place.number - 1}" if place.number > 1 else "expanded_conv"
    return tuple(Pair(f"{base}_{_SLIM_PARTS[part]}", f"{base}_{_SLIM_PARTS[part]}_BN") for part in place.parts)


def _slim(place: Place) -> tuple[Pair, ...]:
    base = f"MobilenetV2/expanded_conv_{place.number - 1}" if place.number > 1 else "MobilenetV2/expanded_conv"
    return tuple(_of_slim(f"{base}/{_SLIM_PARTS[part]}") for part in place.parts)


def _of_slim(name: str) -> Pair:
    return Pair(name, f"{name}/BatchNorm")


def _paddle(place: Place) -> tuple[Pair, ...]:
    stage = f"conv{place.stage + 2}"
    base = f"{stage}.{stage}_{place.block + 1}" if place.block else f"{stage}._first_block"
    names = {"expand": "_expand_conv", "filter": "_bottleneck_conv", "project": "_linear_conv"}
    return tuple(_of_paddle(f"{base}.{names[part]}") for part in place.parts)


def _of_paddle(name: str) -> Pair:
    return Pair(f"{name}._conv", f"{name}._batch_norm")


def _by_stage(index: int) -> tuple[int, int]:
    """Stage and block of a block of MobileNetV1, where a stage begins with each stride."""
    starts = (0, 1, 3, 5, 11)
    stage = max(at for at, start in enumerate(starts) if start <= index)
    return stage, index - starts[stage]


def _timm_v1(index: int) -> tuple[Pair, Pair]:
    base = "blocks.{}.{}".format(*_by_stage(index))
    return Pair(f"{base}.conv_dw", f"{base}.bn1"), Pair(f"{base}.conv_pw", f"{base}.bn2")


def _transformers_v1(index: int) -> tuple[Pair, Pair]:
    first, second = (_of_transformers(f"mobilenet_v1.layer.{2 * index + part}") for part in (0, 1))
    return first, second


def _keras_v1(index: int) -> tuple[Pair, Pair]:
    number = index + 1
    return Pair(f"conv_dw_{number}", f"conv_dw_{number}_bn"), Pair(f"conv_pw_{number}", f"conv_pw_{number}_bn")


def _slim_v1(index: int) -> tuple[Pair, Pair]:
    base = f"MobilenetV1/Conv2d_{index + 1}"
    return _of_slim(f"{base}_depthwise"), _of_slim(f"{base}_pointwise")


# The order matters: the first whose marks are all there is taken.
LAYOUTS = (
    Layout(
        title="transformers",
        network="mobilenet_v2",
        marks=("mobilenet_v2.conv_stem.first_conv.convolution",),
        stem=_of_transformers("mobilenet_v2.conv_stem.first_conv"),
        last=lambda blocks: _of_transformers("mobilenet_v2.conv_1x1"),
        block=_transformers,
        head={
            "head.image": _of_transformers("segmentation_head.conv_pool"),
            "head.point": _of_transformers("segmentation_head.conv_aspp"),
            "head.project": _of_transformers("segmentation_head.conv_projection"),
            "classifier": Pair("segmentation_head.classifier.convolution", ""),
        },
        numerics="tf",
    ),
    Layout(
        title="transformers",
        network="mobilenet_v1",
        marks=("mobilenet_v1.conv_stem.convolution",),
        stem=_of_transformers("mobilenet_v1.conv_stem"),
        separable=_transformers_v1,
        numerics="tf",
    ),
    Layout(
        title="TF-Slim",
        network="mobilenet_v2",
        marks=("MobilenetV2/Conv", "MobilenetV2/expanded_conv/depthwise"),
        stem=_of_slim("MobilenetV2/Conv"),
        last=lambda blocks: _of_slim("MobilenetV2/Conv_1"),
        block=_slim,
        classifier=("MobilenetV2/Logits/Conv2d_1c_1x1",),
        head={
            "head.image": _of_slim("image_pooling"),
            "head.point": _of_slim("aspp0"),
            "head.project": _of_slim("concat_projection"),
            "classifier": Pair("logits/semantic", ""),
        },
        numerics="tf",
        resize="central",
        interpolation="sampled",
    ),
    Layout(
        title="TF-Slim",
        network="mobilenet_v1",
        marks=("MobilenetV1/Conv2d_0",),
        stem=_of_slim("MobilenetV1/Conv2d_0"),
        separable=_slim_v1,
        classifier=("MobilenetV1/Logits/Conv2d_1c_1x1",),
        numerics="tf",
        resize="central",
        interpolation="sampled",
    ),
    Layout(
        title="keras-applications",
        network="mobilenet_v2",
        marks=("Conv1", "expanded_conv_depthwise"),
        stem=Pair("Conv1", "bn_Conv1"),
        last=lambda blocks: Pair("Conv_1", "Conv_1_bn"),
        block=_keras,
        classifier=("predictions", "dense"),
        numerics="tf",
    ),
    Layout(
        title="keras-applications",
        network="mobilenet_v1",
        marks=("conv1", "conv_dw_1"),
        stem=Pair("conv1", "conv1_bn"),
        separable=_keras_v1,
        classifier=("conv_preds", "predictions", "dense"),
        numerics="keras",
    ),
    Layout(
        title="timm",
        network="mobilenet_v2",
        marks=("conv_stem", "conv_head", "blocks.1.0.conv_pwl"),
        stem=Pair("conv_stem", "bn1"),
        last=lambda blocks: Pair("conv_head", "bn2"),
        block=_timm,
        interpolation="bicubic",
    ),
    Layout(
        title="timm",
        network="mobilenet_v1",
        marks=("conv_stem", "blocks.0.0.conv_dw"),
        stem=Pair("conv_stem", "bn1"),
        separable=_timm_v1,
        interpolation="bicubic",
    ),
    Layout(
        title="pytorchcv",
        network="mobilenet_v2",
        marks=("features.init_block.conv", "features.stage2.unit1.conv3.conv"),
        stem=_of_pytorchcv("features.init_block"),
        last=lambda blocks: _of_pytorchcv("features.final_block"),
        block=_pytorchcv,
        classifier=("output",),
    ),
    Layout(
        title="PaddleClas",
        network="mobilenet_v2",
        marks=("conv1._conv", "conv2._first_block._bottleneck_conv._conv"),
        stem=_of_paddle("conv1"),
        last=lambda blocks: _of_paddle("conv9"),
        block=_paddle,
        classifier=("out",),
    ),
    Layout(
        title="mmpretrain",
        network="mobilenet_v2",
        marks=("backbone.conv1.conv", "backbone.layer1.0.conv.0.conv"),
        stem=Pair("backbone.conv1.conv", "backbone.conv1.bn"),
        last=lambda blocks: Pair("backbone.conv2.conv", "backbone.conv2.bn"),
        block=_mmpretrain,
        classifier=("head.fc",),
    ),
    Layout(
        title="torchvision",
        network="mobilenet_v2",
        marks=("features.1.conv.0.0",),
        stem=Pair("features.0.0", "features.0.1"),
        last=lambda blocks: Pair(f"features.{blocks + 1}.0", f"features.{blocks + 1}.1"),
        block=_torchvision,
        classifier=("classifier.1",),
    ),
    Layout(
        title="d-li14",
        network="mobilenet_v2",
        marks=("features.1.conv.0", "conv.0"),
        stem=Pair("features.0.0", "features.0.1"),
        last=lambda blocks: Pair("conv.0", "conv.1"),
        block=_flat,
    ),
    Layout(
        title="tonylins",
        network="mobilenet_v2",
        marks=("features.1.conv.0",),
        stem=Pair("features.0.0", "features.0.1"),
        last=lambda blocks: Pair(f"features.{blocks + 1}.0", f"features.{blocks + 1}.1"),
        block=_flat,
        classifier=("classifier", "classifier.1"),
    ),
)
