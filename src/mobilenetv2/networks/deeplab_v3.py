"""DeepLabv3 (Chen et al., 2017, arXiv 1706.05587) on MobileNetV1, MobileNetV2 and ResNet-101.

Sandler et al., CVPR 2018, Sec. 6.3 and Table 7: for mobile use the head is image pooling and a 1x1 convolution,
without the atrous spatial pyramid (ASPP), and on MobileNetV2 it stands on the second-last map, of 320 channels.
What the papers leave open is as in TF DeepLab. The light decoder follows DeepLabv3+ (Chen et al., ECCV 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilenetv2.architecture import STRIDE_4_BLOCKS
from mobilenetv2.networks.complexity import Complexity, Operator, trace
from mobilenetv2.networks.layers import ConvNorm, headless, initialize
from mobilenetv2.networks.mobilenet_v1 import MobileNetV1
from mobilenetv2.networks.mobilenet_v2 import MobileNetV2
from mobilenetv2.networks.mobilenets import build_mobilenet
from mobilenetv2.networks.resnet_101 import DEEPLAB_BETA, ResNet101
from mobilenetv2.networks.resnet_101 import LAST_CHANNELS as RESNET_CHANNELS
from mobilenetv2.numerics import NUMERICS, Numerics
from mobilenetv2.segmenter import (
    DECODER_BLOCKS,
    DECODER_CHANNELS,
    HEAD_CHANNELS,
    HEAD_EPS,
    Segmenter,
    aspp_rates,
    segmenter_layers,
)

HEAD_DROPOUT = 0.1
VOC_CLASSES = 21  # with the background

# Multi-scale evaluation (Table 7, "MF"), together with the left-right flip.
EVALUATION_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)

# TF DeepLab normalises the head with epsilon 1e-5 and decay .9997, whatever the backbone does.
HEAD_NUMERICS = {
    "torch": NUMERICS["torch"],
    "tf": Numerics(padding="same", batch_norm_eps=HEAD_EPS, batch_norm_momentum=0.0003),
}

Backbone = MobileNetV1 | MobileNetV2 | ResNet101
BackboneName = Literal["mobilenet_v1", "mobilenet_v2", "resnet_101"]


class DeepLabv3Head(nn.Module):
    """(N, in_channels, H, W) -> (N, 256, H, W).

    rates: dilation of the 3x3 convolutions of the pyramid; none without ASPP.
    numerics: a key of `HEAD_NUMERICS`.
    """

    def __init__(self, in_channels: int, *, rates: Sequence[int] = (), numerics: str) -> None:
        super().__init__()
        profile = HEAD_NUMERICS[numerics]

        def branch(channels: int, kernel: int = 1, rate: int = 1) -> ConvNorm:
            return ConvNorm(channels, HEAD_CHANNELS, kernel=kernel, dilation=rate, activation="relu", numerics=profile)

        self.image = branch(in_channels)
        self.point = branch(in_channels)
        self.atrous = nn.ModuleList(branch(in_channels, kernel=3, rate=rate) for rate in rates)
        self.project = branch(HEAD_CHANNELS * (2 + len(rates)))
        initialize(self, numerics)

    def forward(self, x: Tensor) -> Tensor:
        # Image pooling: the same 256 numbers at every pixel.
        image = self.image(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        branches = torch.cat([image, self.point(x), *(atrous(x) for atrous in self.atrous)], dim=1)
        projected: Tensor = self.project(branches)
        return projected


class LightDecoder(nn.Module):
    """(N, 256, h, w) from the head and (N, skip_channels, H, W) from the backbone -> (N, 96, H, W).

    DeepLabv3+ enlarges the head's map, joins the backbone's and mixes both by 3x3 convolutions of 256 channels. Here
    both are brought to 96 channels and added, which is what a 1x1 convolution of the two joined does, and does it
    before enlarging, at a sixteenth of the cost; what follows is separable.
    """

    def __init__(self, skip_channels: int, *, numerics: str) -> None:
        super().__init__()
        profile = HEAD_NUMERICS[numerics]
        self.deep = ConvNorm(HEAD_CHANNELS, DECODER_CHANNELS, activation="linear", numerics=profile)
        self.skip = ConvNorm(skip_channels, DECODER_CHANNELS, activation="linear", numerics=profile)
        self.blocks = nn.Sequential(*(DecoderBlock(profile) for _ in range(DECODER_BLOCKS)))
        initialize(self, numerics)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        enlarged = upsample(self.deep(x), (skip.shape[2], skip.shape[3]))
        mixed: Tensor = self.blocks(F.relu(enlarged + self.skip(skip)))
        return mixed


class DecoderBlock(nn.Module):
    """Filter 3x3 depthwise, mix 1x1: (N, 96, H, W) -> (N, 96, H, W)."""

    def __init__(self, numerics: Numerics) -> None:
        super().__init__()
        channels = DECODER_CHANNELS
        self.filter = ConvNorm(channels, channels, kernel=3, groups=channels, activation="relu", numerics=numerics)
        self.mix = ConvNorm(channels, channels, activation="relu", numerics=numerics)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(self.filter(x))
        return mixed


class DeepLabv3(nn.Module):
    """(N, 3, H, W), preprocessed -> (N, num_classes, H/s, W/s) logits, rounded up.

    s is the backbone's output stride, or 4 with a decoder. Any H and W from 1 up.
    backbone: it belongs to this network from then on, and loses whatever lies behind `maps`. head: what reads the last
    of these. decoder: what puts the head's answer and the first together; None without. Training needs two
    pictures a batch, because batch norm needs two values and image pooling leaves one a picture.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: DeepLabv3Head,
        *,
        decoder: LightDecoder | None = None,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.backbone: Backbone = backbone if isinstance(backbone, ResNet101) else headless(backbone)
        if isinstance(backbone, MobileNetV2):
            del backbone.last
        self.head = head
        self.decoder = decoder
        self.dropout = nn.Dropout(HEAD_DROPOUT)
        self.classifier = nn.Conv2d(HEAD_CHANNELS if decoder is None else DECODER_CHANNELS, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(cast(Tensor, self.classifier.bias))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.maps(images)
        x = self.head(maps[-1])
        if self.decoder is not None:
            x = self.decoder(x, maps[0])
        logits: Tensor = self.classifier(self.dropout(x))
        return logits

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The backbone's maps: at stride 4, which decoders read, and the last, which the head reads.

        (N, C, H/s, W/s) with C = 128 and 1024 on V1, 24 and 320 on V2, at width 1; on ResNet-101 the last alone, 2048.
        """
        backbone = self.backbone
        if isinstance(backbone, MobileNetV1):
            blocks = backbone.rows(images)
            return blocks[STRIDE_4_BLOCKS - 1], blocks[-1]
        if isinstance(backbone, MobileNetV2):
            rows = backbone.rows(images)
            return rows[1], rows[-1]
        return (backbone(images),)


def deeplab_v3(
    backbone: BackboneName = "mobilenet_v2",
    *,
    width: float = 1.0,
    output_stride: int = 16,
    aspp: bool = False,
    num_classes: int = VOC_CLASSES,
    numerics: str = "torch",
) -> DeepLabv3:
    """DeepLabv3 with random weights, as in Table 7.

    width: multiplier of a MobileNet's channels; the head keeps its 256. output_stride: 32, 16 or 8.
    num_classes: with the background, where there is one. numerics: a key of `numerics.NUMERICS`;
    ResNet-101 itself has only one. Raises ValueError or UserError for what is not possible.
    """
    if backbone == "resnet_101":
        if width != 1:
            raise ValueError(f"width {width} is not possible with ResNet-101; it has no width multiplier")
        trunk = ResNet101(DEEPLAB_BETA, output_stride=output_stride)
        rates = aspp_rates(output_stride) if aspp else ()
        head = DeepLabv3Head(RESNET_CHANNELS, rates=rates, numerics=numerics)
        return DeepLabv3(trunk, head, num_classes=num_classes)
    if backbone not in ("mobilenet_v1", "mobilenet_v2"):
        raise ValueError(
            f"backbone {backbone!r} is not known; it can be 'mobilenet_v1', 'mobilenet_v2' or 'resnet_101'"
        )
    return build_segmenter(
        Segmenter(
            backbone=backbone,
            width=width,
            output_stride=output_stride,
            aspp=aspp,
            num_classes=num_classes,
            numerics=numerics,
        )
    )


def build_segmenter(segmenter: Segmenter) -> DeepLabv3:
    """The network of a model card with random weights."""
    layers, numerics = segmenter_layers(segmenter), segmenter.numerics
    head = DeepLabv3Head(layers.backbone[-1].out_channels, rates=segmenter.rates, numerics=numerics)
    decoder = LightDecoder(layers.skip[0].in_channels, numerics=numerics) if layers.skip else None
    return DeepLabv3(build_mobilenet(segmenter.trunk), head, decoder=decoder, num_classes=segmenter.num_classes)


def upsample(values: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(N, C, h, w) -> (N, C, H, W), bilinear with the corners on the corners (TF DeepLab).

    Logits then lie where they were computed if each side is one more than a multiple of the output stride, as 513.
    """
    return F.interpolate(values, size=size_hw, mode="bilinear", align_corners=True)


def scaled_size_hw(size_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width at a scale, with the distance of the corner pixels scaled and cut down: 513 at .75 is 385."""
    height, width = (int((size - 1) * scale + 1) for size in size_hw)
    return height, width


def multi_scale_probabilities(
    network: nn.Module, images: Tensor, *, scales: Sequence[float] = EVALUATION_SCALES, flip: bool = True
) -> Tensor:
    """(N, 3, H, W), preprocessed -> (N, num_classes, H, W): softmax averaged over scales and the left-right flip.

    network: gives logits at any output stride; put it into evaluation mode first. Raises ValueError without scales.
    """
    if not scales:
        raise ValueError("multi-scale evaluation needs at least one scale")
    size_hw = (images.shape[2], images.shape[3])
    total: Tensor | None = None
    for scale in scales:
        resized = images if scale == 1 else upsample(images, scaled_size_hw(size_hw, scale))
        for flipped in (False, True) if flip else (False,):
            logits = network(resized.flip(3)).flip(3) if flipped else network(resized)
            probabilities = upsample(logits, size_hw).softmax(dim=1)
            total = probabilities if total is None else total + probabilities
    return cast(Tensor, total) / (len(scales) * (2 if flip else 1))


def multi_scale_cost(scales: Sequence[float] = EVALUATION_SCALES, *, flip: bool = True) -> float:
    """Cost by that of one pass at scale 1, up to the rounding of sizes: 17.375 for Table 7's MF."""
    return (2 if flip else 1) * sum(scale**2 for scale in scales)


def space_to_batch_madds(complexity: Complexity) -> int:
    """Multiply-adds as TensorFlow's graph of 2018 performs them, and Table 7 counts them.

    There a convolution of dilation r sorts its map into r x r smaller ones (`SpaceToBatchND`) and filters each
    without dilation. For that the map is padded at the bottom and on the right to a multiple of r, and the
    outputs there are computed and cut off again: 33 x 33 pixels cost 36 x 36 at r = 6, 12 and 18. The border of
    zeros that SAME adds comes on top, but no output lies on it.
    """
    return sum(_space_to_batch_madds(operator) for operator in complexity.operators)


def _space_to_batch_madds(operator: Operator) -> int:
    if operator.dilation == 1:
        return operator.madds
    rate = operator.dilation
    height, width = operator.output_shape[2:]  # that of the input too: nothing dilated has a stride here
    padded_height, padded_width = (-(-size // rate) * rate for size in (height, width))
    return operator.madds // (height * width) * padded_height * padded_width


def evaluation_madds(
    network: nn.Module, size_hw: tuple[int, int], *, scales: Sequence[float] = (1.0,), flip: bool = False
) -> int:
    """Table 7's multiply-adds for one picture: `space_to_batch_madds` summed over the sizes that are evaluated."""
    passes = sum(space_to_batch_madds(trace(network, scaled_size_hw(size_hw, scale))) for scale in scales)
    return passes * (2 if flip else 1)
