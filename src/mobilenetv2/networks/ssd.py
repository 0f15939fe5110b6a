"""SSD and SSDLite on MobileNetV1 and V2 (Liu et al., ECCV 2016; Sandler et al., CVPR 2018, Sec. 6.2).

SSDLite is SSD with every 3x3 convolution of the prediction layers and of the extra layers made separable.
The maps, the extra layers and the anchors are those of the TF Object Detection API; the paper gives none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mobilenetv2.detector import BackboneName, Detector, DetectorName, ExtraPlan, map_channels, plan_extras
from mobilenetv2.networks.layers import ConvNorm, headless
from mobilenetv2.networks.mobilenets import MobileNet, build_mobilenet
from mobilenetv2.numerics import NUMERICS, Numerics


class SSDOutput(NamedTuple):
    """What a network of the SSD family says about every anchor, undecoded.

    Anchors are in the order of the maps, within a map row by row, within a cell by anchor.
    """

    class_logits: Tensor  # (N, anchors, classes + 1); by convention the background is class 0
    box_codes: Tensor  # (N, anchors, 4), offsets from the anchor; the task that trains the network codes them


class SSDExtra(nn.Module):
    """An extra layer of SSD: reduce 1x1, filter 3x3 at stride 2. (N, C, H, W) -> (N, C', H/2, W/2), rounded up."""

    def __init__(self, plan: ExtraPlan, numerics: Numerics) -> None:
        super().__init__()
        self.reduce = ConvNorm(plan.in_channels, plan.reduced, numerics=numerics)
        self.filter = ConvNorm(plan.reduced, plan.out_channels, kernel=3, stride=2, numerics=numerics)

    def forward(self, x: Tensor) -> Tensor:
        filtered: Tensor = self.filter(self.reduce(x))
        return filtered


class SSDLiteExtra(nn.Module):
    """An extra layer of SSDLite: reduce 1x1, filter 3x3 depthwise at stride 2, mix 1x1. Shapes as `SSDExtra`."""

    def __init__(self, plan: ExtraPlan, numerics: Numerics) -> None:
        super().__init__()
        inner = plan.reduced
        self.reduce = ConvNorm(plan.in_channels, inner, numerics=numerics)
        self.filter = ConvNorm(inner, inner, kernel=3, stride=2, groups=inner, numerics=numerics)
        self.mix = ConvNorm(inner, plan.out_channels, numerics=numerics)

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
    """(N, 3, H, W), preprocessed -> `SSDOutput`. Any H and W from 1 up.

    With the TF rule's anchors there are 1917 of them at 300, 2034 at 320.
    backbone: the network that `detector.trunk` describes; it loses its classifier (see `headless`) and belongs to
    this one.

    Training needs two pictures a batch, or one of more than 512 pixels: the last map is a single pixel up to
    there, and batch norm needs two values.
    """

    def __init__(self, backbone: MobileNet, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        lite, numerics = detector.name == "ssdlite", NUMERICS[detector.numerics]
        self.backbone: MobileNet = headless(backbone)
        extra = SSDLiteExtra if lite else SSDExtra
        self.extras = nn.ModuleList(extra(plan, numerics) for plan in plan_extras(detector))

        def heads(values_per_anchor: int) -> nn.ModuleList:
            cells = zip(map_channels(detector), detector.anchors_per_cell, strict=True)
            sizes = [(channels, anchors * values_per_anchor) for channels, anchors in cells]
            return nn.ModuleList(SSDLiteHead(*size, numerics) if lite else ssd_head(*size) for size in sizes)

        self.class_heads = heads(detector.num_classes + 1)
        self.box_heads = heads(4)
        for added in (self.extras, self.class_heads, self.box_heads):
            initialize_added(added)

    def forward(self, images: Tensor) -> SSDOutput:
        return predict(self.maps(images), self.class_heads, self.box_heads, self.detector.num_classes)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The six maps that are predicted from, (N, C, H/s, W/s) at s = 16, 32, 64, ..., rounded up each time."""
        taps = self.backbone.taps(images)
        maps = [taps[0], taps.last]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps


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


def build_detector(detector: Detector) -> SSD:
    """SSD or SSDLite with random weights."""
    return SSD(build_mobilenet(detector.trunk), detector)


def ssdlite(
    backbone: BackboneName = "mobilenet_v2", *, width: float = 1.0, num_classes: int = 80, numerics: str = "torch"
) -> SSD:
    """SSDLite as the TF Object Detection API has it: with its anchors; `width` multiplies the extra layers too."""
    return _with_tf_anchors("ssdlite", backbone, width, num_classes, numerics)


def ssd(
    backbone: BackboneName = "mobilenet_v2", *, width: float = 1.0, num_classes: int = 80, numerics: str = "torch"
) -> SSD:
    """SSD with full convolutions, for comparison (Table 5). Options as `ssdlite`."""
    return _with_tf_anchors("ssd", backbone, width, num_classes, numerics)


def _with_tf_anchors(name: DetectorName, backbone: BackboneName, width: float, num_classes: int, numerics: str) -> SSD:
    return build_detector(
        Detector(name=name, backbone=backbone, width=width, num_classes=num_classes, numerics=numerics)
    )
