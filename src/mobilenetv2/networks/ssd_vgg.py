"""SSD300 and SSD512 on VGG-16 (Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from mobilenetv2.networks.ssd import SSDOutput, predict, ssd_head


class ExtraPlan(NamedTuple):
    """A 1x1 convolution to `reduced` channels, then one that makes the map smaller."""

    reduced: int
    channels: int
    kernel: int
    stride: int
    padding: int


class SSDPlan(NamedTuple):
    extras: tuple[ExtraPlan, ...]
    anchors_per_cell: tuple[int, ...]  # on conv4_3, on fc7, then on every extra map


SSD300 = SSDPlan(
    extras=(  #                        input at 300
        ExtraPlan(256, 512, 3, 2, 1),  # conv6: 19 x 19 x 1024
        ExtraPlan(128, 256, 3, 2, 1),  # conv7: 10 x 10 x 512
        ExtraPlan(128, 256, 3, 1, 0),  # conv8: 5 x 5 x 256
        ExtraPlan(128, 256, 3, 1, 0),  # conv9: 3 x 3 x 256
    ),
    anchors_per_cell=(4, 6, 6, 6, 4, 4),
)
SSD512 = SSDPlan(
    extras=(  #                        input at 512
        ExtraPlan(256, 512, 3, 2, 1),  # conv6: 32 x 32 x 1024
        ExtraPlan(128, 256, 3, 2, 1),  # conv7: 16 x 16 x 512
        ExtraPlan(128, 256, 3, 2, 1),  # conv8: 8 x 8 x 256
        ExtraPlan(128, 256, 3, 2, 1),  # conv9: 4 x 4 x 256
        ExtraPlan(128, 256, 4, 1, 1),  # conv10: 2 x 2 x 256
    ),
    anchors_per_cell=(4, 6, 6, 6, 6, 4, 4),
)

CONV4_3 = 23  # torchvision's layers of VGG-16 up to conv4_3 with its ReLU
CONV4_3_CHANNELS, FC_CHANNELS = 512, 1024
NORM_SCALE = 20.0


class L2Norm(nn.Module):
    """Scale every pixel's features to length 1, then by a learned factor per channel (Liu et al., ParseNet, 2015).

    (N, C, H, W) -> the same shape. The features of conv4_3 are far larger than those of the other maps.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.scale[:, None, None]


class VGGExtra(nn.Module):
    """Reduce 1x1, filter; both with bias and ReLU."""

    def __init__(self, in_channels: int, plan: ExtraPlan) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, plan.reduced, 1)
        self.filter = nn.Conv2d(plan.reduced, plan.channels, plan.kernel, plan.stride, plan.padding)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.filter(F.relu(self.reduce(x))))


class SSDVGG(nn.Module):
    """(N, 3, H, W), preprocessed -> `SSDOutput`: 8732 anchors for SSD300 at 300, 24564 for SSD512 at 512.

    H and W from 257 up; below, the last convolutions do not fit on their maps.

    plan: `SSD300` or `SSD512`.
    num_classes: without the background.

    `backbone` has the layers and names of torchvision's `vgg16().features`.
    """

    def __init__(self, plan: SSDPlan, *, num_classes: int = 80) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = make_layers(cfgs["D"])
        for layer in self.backbone:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True  # Caffe rounds up: 75 -> 38
        self.backbone[-1] = nn.MaxPool2d(3, stride=1, padding=1)
        # VGG's first two classifier layers, of which Liu et al. keep every third pixel and every fourth channel.
        self.fc6 = nn.Conv2d(CONV4_3_CHANNELS, FC_CHANNELS, 3, padding=6, dilation=6)
        self.fc7 = nn.Conv2d(FC_CHANNELS, FC_CHANNELS, 1)
        self.conv4_3_norm = L2Norm(CONV4_3_CHANNELS, NORM_SCALE)
        channels = [CONV4_3_CHANNELS, FC_CHANNELS]
        self.extras = nn.ModuleList()
        for extra in plan.extras:
            self.extras.append(VGGExtra(channels[-1], extra))
            channels.append(extra.channels)
        cells = list(zip(channels, plan.anchors_per_cell, strict=True))
        self.class_heads = nn.ModuleList(ssd_head(width, anchors * (num_classes + 1)) for width, anchors in cells)
        self.box_heads = nn.ModuleList(ssd_head(width, anchors * 4) for width, anchors in cells)
        initialize_vgg(self)

    def forward(self, images: Tensor) -> SSDOutput:
        return predict(self.maps(images), self.class_heads, self.box_heads, self.num_classes)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps that are predicted from: conv4_3 (normalized), fc7, and every extra map."""
        conv4_3 = self.backbone[:CONV4_3](images)
        x = F.relu(self.fc6(self.backbone[CONV4_3:](conv4_3)))
        x = F.relu(self.fc7(x))
        maps = [self.conv4_3_norm(conv4_3), x]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps


def initialize_vgg(network: SSDVGG) -> None:
    """He normal for VGG's own layers (torchvision), Xavier uniform for what is added (Liu et al.), zero biases."""
    own = set(network.backbone.modules())
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            if module in own:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def ssd300(*, num_classes: int = 80) -> SSDVGG:
    """SSD300 with random weights, for pictures of 300 x 300."""
    return SSDVGG(SSD300, num_classes=num_classes)


def ssd512(*, num_classes: int = 80) -> SSDVGG:
    """SSD512 with random weights, for pictures of 512 x 512."""
    return SSDVGG(SSD512, num_classes=num_classes)
