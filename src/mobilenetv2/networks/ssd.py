"""SSD and SSDLite on MobileNetV1 and V2 (Liu et al., ECCV 2016; Sandler et al., CVPR 2018, Sec. 6.2).

SSDLite is SSD with every 3x3 convolution of the prediction layers and of the extra layers made separable.
The maps, the extra layers and the anchors are those of the TF Object Detection API; the paper gives none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from mobilenetv2.architecture import NUMERICS, Architecture, Numerics, plan_network
from mobilenetv2.networks.layers import ConvNorm, headless
from mobilenetv2.networks.mobilenet_v1 import STRIDE_16_BLOCKS, MobileNetV1, SeparableConvolution
from mobilenetv2.networks.mobilenet_v2 import MobileNetV2

# One row per map. The first two come from the backbone, each of the others from the map before it.
#                    map at 320, MobileNetV2
ANCHORS_PER_CELL = (
    3,  #                20 x 20 x 576, the expansion at stride 16
    6,  #                10 x 10 x 1280, the last convolution
    6,  #                5 x 5 x 512
    6,  #                3 x 3 x 256
    6,  #                2 x 2 x 256
    6,  #                1 x 1 x 128
)
EXTRA_CHANNELS = (512, 256, 256, 128)
LEAST_EXTRA_CHANNELS = 16

Backbone = MobileNetV1 | MobileNetV2
BackboneName = Literal["mobilenet_v1", "mobilenet_v2"]


class SSDOutput(NamedTuple):
    """What a network of the SSD family says about every anchor, undecoded.

    Anchors are in the order of the maps, within a map row by row, within a cell by anchor.
    """

    class_logits: Tensor  # (N, anchors, classes + 1); by convention the background is class 0
    box_codes: Tensor  # (N, anchors, 4), offsets from the anchor; the task that trains the network codes them


class SSDExtra(nn.Module):
    """An extra layer of SSD: reduce 1x1, filter 3x3 at stride 2. (N, C, H, W) -> (N, C', H/2, W/2), rounded up."""

    def __init__(self, in_channels: int, reduced: int, out_channels: int, numerics: Numerics) -> None:
        super().__init__()
        self.reduce = ConvNorm(in_channels, reduced, numerics=numerics)
        self.filter = ConvNorm(reduced, out_channels, kernel=3, stride=2, numerics=numerics)

    def forward(self, x: Tensor) -> Tensor:
        filtered: Tensor = self.filter(self.reduce(x))
        return filtered


class SSDLiteExtra(nn.Module):
    """An extra layer of SSDLite: reduce 1x1, filter 3x3 depthwise at stride 2, mix 1x1. Shapes as `SSDExtra`."""

    def __init__(self, in_channels: int, reduced: int, out_channels: int, numerics: Numerics) -> None:
        super().__init__()
        self.reduce = ConvNorm(in_channels, reduced, numerics=numerics)
        self.filter = ConvNorm(reduced, reduced, kernel=3, stride=2, groups=reduced, numerics=numerics)
        self.mix = ConvNorm(reduced, out_channels, numerics=numerics)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(self.filter(self.reduce(x)))
        return mixed


class SSDLiteHead(nn.Module):
    """A prediction layer of SSDLite: filter 3x3 depthwise, then predict 1x1 without norm or activation."""

    def __init__(self, in_channels: int, out_channels: int, numerics: Numerics) -> None:
        super().__init__()
        self.filter = ConvNorm(in_channels, in_channels, kernel=3, groups=in_channels, numerics=numerics)
        self.predict = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.predict(self.filter(x))
        return predicted


def ssd_head(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A prediction layer of SSD: one 3x3 convolution with bias."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class SSD(nn.Module):
    """(N, 3, H, W), preprocessed -> `SSDOutput`. Any H and W from 1 up; 1917 anchors at 300, 2034 at 320.

    backbone: a network at output stride 32; it loses its classifier (see `headless`) and belongs to this one.
    num_classes: without the background.
    lite: SSDLite if true, SSD if false.
    extra_channels: of the four extra maps.
    numerics: a key of `architecture.NUMERICS`, for what is added to the backbone.

    Training needs two pictures a batch, or one of more than 512 pixels: the last map is a single pixel up to
    there, and batch norm needs two values.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        lite: bool,
        extra_channels: Sequence[int] = EXTRA_CHANNELS,
        numerics: str = "torch",
    ) -> None:
        super().__init__()
        profile = NUMERICS[numerics]
        self.num_classes = num_classes
        channels = list(tap_channels(backbone))
        self.backbone: Backbone = headless(backbone)
        self.extras = nn.ModuleList()
        for extra in extra_channels:
            reduced = max(LEAST_EXTRA_CHANNELS, extra // 2)
            extra_layer = SSDLiteExtra if lite else SSDExtra
            self.extras.append(extra_layer(channels[-1], reduced, extra, profile))
            channels.append(extra)

        def heads(values_per_anchor: int) -> nn.ModuleList:
            sizes = [
                (width, anchors * values_per_anchor) for width, anchors in zip(channels, ANCHORS_PER_CELL, strict=True)
            ]
            return nn.ModuleList(SSDLiteHead(*size, profile) if lite else ssd_head(*size) for size in sizes)

        self.class_heads = heads(num_classes + 1)
        self.box_heads = heads(4)
        for added in (self.extras, self.class_heads, self.box_heads):
            initialize_added(added)

    def forward(self, images: Tensor) -> SSDOutput:
        return predict(self.maps(images), self.class_heads, self.box_heads, self.num_classes)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The six maps that are predicted from, (N, C, H/s, W/s) at s = 16, 32, 64, ..., rounded up each time."""
        taps = self.backbone.taps(images)
        maps = [taps[0], taps.last]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps


def tap_channels(backbone: Backbone) -> tuple[int, int]:
    """Channels of the backbone's two maps: at stride 16, and the last."""
    if isinstance(backbone, MobileNetV2):
        plan = plan_network(backbone.architecture)
        return plan.stages[5][0].expanded_channels, plan.last_channels
    block = cast(SeparableConvolution, backbone.blocks[STRIDE_16_BLOCKS - 1])
    return block.mix.conv.out_channels, backbone.last_channels


def predict(
    maps: Sequence[Tensor], class_heads: nn.ModuleList, box_heads: nn.ModuleList, num_classes: int
) -> SSDOutput:
    """Every head on its map, and all anchors in one row. `num_classes` is without the background."""
    logits = [by_anchor(head(x), num_classes + 1) for head, x in zip(class_heads, maps, strict=True)]
    boxes = [by_anchor(head(x), 4) for head, x in zip(box_heads, maps, strict=True)]
    return SSDOutput(torch.cat(logits, dim=1), torch.cat(boxes, dim=1))


def by_anchor(predicted: Tensor, values: int) -> Tensor:
    """(N, anchors of a cell * values, H, W) -> (N, H * W * anchors of a cell, values)."""
    return predicted.permute(0, 2, 3, 1).reshape(predicted.shape[0], -1, values)


def initialize_added(network: nn.Module) -> None:
    """Truncated normal with standard deviation .03, zero biases (TF Object Detection API)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.03, a=-0.06, b=0.06)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def ssdlite(
    backbone: BackboneName = "mobilenet_v2", *, width: float = 1.0, num_classes: int = 80, numerics: str = "torch"
) -> SSD:
    """SSDLite with random weights. `width` multiplies the extra layers too, as in the TF Object Detection API."""
    return on_mobilenet(backbone, width=width, num_classes=num_classes, numerics=numerics, lite=True)


def ssd(
    backbone: BackboneName = "mobilenet_v2", *, width: float = 1.0, num_classes: int = 80, numerics: str = "torch"
) -> SSD:
    """SSD with full convolutions, for comparison (Table 5). Options as `ssdlite`."""
    return on_mobilenet(backbone, width=width, num_classes=num_classes, numerics=numerics, lite=False)


def on_mobilenet(backbone: BackboneName, *, width: float, num_classes: int, numerics: str, lite: bool) -> SSD:
    trunk: Backbone
    if backbone == "mobilenet_v2":
        trunk = MobileNetV2(Architecture(width=width, num_classes=1, numerics=numerics))
    elif backbone == "mobilenet_v1":
        trunk = MobileNetV1(width=width, num_classes=1, numerics=numerics)
    else:
        raise ValueError(f"backbone {backbone!r} is not known; it can be 'mobilenet_v1' or 'mobilenet_v2'")
    extra_channels = [max(LEAST_EXTRA_CHANNELS, int(channels * width)) for channels in EXTRA_CHANNELS]
    return SSD(trunk, num_classes=num_classes, lite=lite, extra_channels=extra_channels, numerics=numerics)
