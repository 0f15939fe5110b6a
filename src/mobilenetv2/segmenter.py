"""DeepLabv3 as a record and a table: what stands where, before any tensor exists.

Sources: Chen et al., "Rethinking Atrous Convolution", 2017 (arXiv 1706.05587); Sandler et al., "MobileNetV2",
Sec. 6.3; what they leave open as in TF DeepLab. The decoder follows DeepLabv3+ (Chen et al., ECCV 2018), made light.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

from mobilenetv2.architecture import (
    OUTPUT_STRIDES,
    STRIDE_4_BLOCKS,
    TAPS,
    Architecture,
    Convolution,
    ParameterShape,
    count_multiply_adds,
    count_parameters,
    trunk,
)
from mobilenetv2.errors import UserError, did_you_mean
from mobilenetv2.numerics import Dilation, Rounding, check_task_numerics

BackboneName = Literal["mobilenet_v2", "mobilenet_v1"]

BACKBONE = "backbone"  # the module that holds the trunk
HEAD_CHANNELS = 256
HEAD_EPS = 1e-5  # of TF DeepLab's head, whatever the backbone has
ASPP_RATES = (6, 12, 18)  # at output stride 16; DeepLabv3 doubles them at 8 (Sec. 3.3)
DECODER_CHANNELS = 96
DECODER_BLOCKS = 2
MAX_CLASSES = 255  # a mask is made of bytes, and one value is kept for pixels that do not count

# The last convolution at stride 4, which the decoder reads too.
SKIPS = {"mobilenet_v2": "stages.1.blocks.1.project", "mobilenet_v1": f"blocks.{STRIDE_4_BLOCKS - 1}.mix"}
SKIP_STRIDE = 4


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """Everything that decides the shape and the arithmetic of a segmentation network; part of the model card.

    backbone: "mobilenet_v2" or "mobilenet_v1". width: of the backbone; the head keeps its 256 channels.
    num_classes: with the background, where there is one. numerics: a key of `numerics.NUMERICS`.
    output_stride: of the map that the head reads: 32, 16 or 8. aspp: with the atrous pyramid.
    decoder: "none" answers at the output stride, as the paper does; "light" at stride 4, with what the backbone knows
        of edges and thin things there.
    rounding, dilation: of the backbone, as in `Architecture`.
    """

    name: Literal["deeplab_v3"] = "deeplab_v3"
    backbone: BackboneName = "mobilenet_v2"
    width: float = 1.0
    num_classes: int = 21
    numerics: str = "torch"
    output_stride: int = 16
    aspp: bool = False
    decoder: Literal["none", "light"] = "none"
    rounding: Rounding = "slim"
    dilation: Dilation = "slim"

    def __post_init__(self) -> None:
        if self.name != "deeplab_v3":
            raise UserError(f"segmenter {self.name!r} is not known; it can be 'deeplab_v3'")
        if self.backbone not in TAPS:
            raise UserError(
                f"backbone {self.backbone!r} is not known{did_you_mean(str(self.backbone), TAPS)}; "
                f"it can be {' or '.join(map(repr, TAPS))}"
            )
        self.trunk  # noqa: B018  raises for width, output stride and numerics
        check_task_numerics(self.numerics)
        if not isinstance(self.num_classes, int) or not 1 <= self.num_classes <= MAX_CLASSES:
            raise UserError(f"number of classes {self.num_classes!r} is out of range; give 1 to {MAX_CLASSES}")
        if not isinstance(self.aspp, bool):
            raise UserError(f"aspp {self.aspp!r} is not possible; it can be true or false")
        if self.decoder not in ("none", "light"):
            raise UserError(f"decoder {self.decoder!r} is not known; it can be 'none' or 'light'")

    @property
    def trunk(self) -> Architecture:
        """The backbone; its classifier is not there, so its classes do not count."""
        return Architecture(
            name=self.backbone,
            width=self.width,
            num_classes=1,
            numerics=self.numerics,
            output_stride=self.output_stride,
            rounding=self.rounding,
            dilation=self.dilation,
        )

    @property
    def rates(self) -> tuple[int, ...]:
        """Dilation of the pyramid's 3x3 convolutions; none without it."""
        return aspp_rates(self.output_stride) if self.aspp else ()

    @property
    def logits_stride(self) -> int:
        """Input pixels for one pixel of the answer."""
        return SKIP_STRIDE if self.decoder == "light" else self.output_stride


def aspp_rates(output_stride: int) -> tuple[int, ...]:
    """Dilation of the three 3x3 convolutions of the pyramid."""
    assert output_stride in OUTPUT_STRIDES
    return tuple(rate * 16 // output_stride for rate in ASPP_RATES)


class SegmenterLayers(NamedTuple):
    """Every convolution. Those of the backbone and of the decoder's blocks are in a row.

    image: on the mean of the backbone's last map; point and atrous: on the map itself; project: on all of them.
    deep: on the projected map, before it is enlarged; skip: on the map of `SKIPS`; blocks: on the sum of both,
    rectified. All three are empty without a decoder. classifier: on what comes last.
    """

    backbone: list[Convolution]
    image: Convolution
    point: Convolution
    atrous: list[Convolution]
    project: Convolution
    deep: list[Convolution]
    skip: list[Convolution]
    blocks: list[Convolution]
    classifier: Convolution


def segmenter_layers(segmenter: Segmenter) -> SegmenterLayers:
    """The convolutions under the names of the torch module."""
    backbone = [each for each in trunk(segmenter.trunk) if each.name != "last"]
    channels = backbone[-1].out_channels
    has_decoder = segmenter.decoder == "light"
    width = DECODER_CHANNELS if has_decoder else HEAD_CHANNELS

    def added(name: str, in_channels: int, out_channels: int) -> Convolution:
        return Convolution(name, in_channels, out_channels, norm_eps=HEAD_EPS, activation="relu")

    def blocks() -> Iterator[Convolution]:
        for index in range(DECODER_BLOCKS):
            block = added(f"decoder.blocks.{index}.filter", width, width)
            yield block._replace(kernel=3, depthwise=True)
            yield added(f"decoder.blocks.{index}.mix", width, width)

    skip = next(each.out_channels for each in backbone if each.name == SKIPS[segmenter.backbone])
    return SegmenterLayers(
        backbone=[each.under(BACKBONE) for each in backbone],
        image=added("head.image", channels, HEAD_CHANNELS),
        point=added("head.point", channels, HEAD_CHANNELS),
        atrous=[
            added(f"head.atrous.{index}", channels, HEAD_CHANNELS)._replace(kernel=3, dilation=rate)
            for index, rate in enumerate(segmenter.rates)
        ],
        project=added("head.project", HEAD_CHANNELS * (2 + len(segmenter.rates)), HEAD_CHANNELS),
        deep=[added("decoder.deep", HEAD_CHANNELS, width)._replace(activation="linear")] if has_decoder else [],
        skip=[added("decoder.skip", skip, width)._replace(activation="linear")] if has_decoder else [],
        blocks=list(blocks()) if has_decoder else [],
        classifier=Convolution("classifier", width, segmenter.num_classes, has_norm=False, activation="linear"),
    )


def segmenter_shapes(segmenter: Segmenter) -> list[ParameterShape]:
    """Name and shape of every tensor of a segmenter's model file, in the order of the torch module."""
    layers = segmenter_layers(segmenter)
    rows = chain(
        layers.backbone,
        [layers.image, layers.point, *layers.atrous, layers.project],
        [*layers.deep, *layers.skip, *layers.blocks, layers.classifier],
    )
    return [shape for convolution in rows for shape in convolution.shapes]


def segmenter_parameters(segmenter: Segmenter, *, batch_norm: bool = True) -> int:
    """`architecture.count_parameters` of a whole segmenter."""
    return count_parameters(segmenter_shapes(segmenter), batch_norm=batch_norm)


def size_at_stride(size_hw: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width of a map, rounded up."""
    return -(-size_hw[0] // stride), -(-size_hw[1] // stride)


def segmenter_multiply_adds(segmenter: Segmenter, size_hw: tuple[int, int]) -> int:
    """`architecture.count_multiply_adds` of a whole segmenter for one picture of that height and width in pixels.

    Dilated convolutions are counted as they are; Table 7 counts what TensorFlow padded them to
    (`networks.deeplab_v3.evaluation_madds`). Enlarging is not counted.
    """
    layers = segmenter_layers(segmenter)
    deep, last = (size_at_stride(size_hw, stride) for stride in (segmenter.output_stride, segmenter.logits_stride))
    return (
        count_multiply_adds(layers.backbone, size_hw)
        + layers.image.multiply_adds((1, 1))
        + sum(each.multiply_adds(deep) for each in (layers.point, *layers.atrous, layers.project, *layers.deep))
        + sum(each.multiply_adds(last) for each in (*layers.skip, *layers.blocks, layers.classifier))
    )
