"""YOLOv2 (Redmon & Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017) on Darknet-19 (Table 6 there)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilenetv2.networks.layers import ConvNorm, initialize
from mobilenetv2.numerics import Numerics


class Conv(NamedTuple):
    channels: int
    kernel: int


# Without the 19th convolution, the classifier. Between two stages stands a 2x2 max pooling.
DARKNET_19 = (
    #                                    input at 416
    (Conv(32, 3),),  #                   416 x 416 x 3
    (Conv(64, 3),),  #                   208 x 208 x 32
    (Conv(128, 3), Conv(64, 1), Conv(128, 3)),  # 104 x 104 x 64
    (Conv(256, 3), Conv(128, 1), Conv(256, 3)),  # 52 x 52 x 128
    (Conv(512, 3), Conv(256, 1), Conv(512, 3), Conv(256, 1), Conv(512, 3)),  # 26 x 26 x 256
    (Conv(1024, 3), Conv(512, 1), Conv(1024, 3), Conv(512, 1), Conv(1024, 3)),  # 13 x 13 x 512
)
FINE_CHANNELS = 512  # of the map at stride 16, which is passed through
HEAD_CHANNELS = 1024
PASSTHROUGH_CHANNELS = 64

# The authors' five priors for COCO, by k-means: width and height in cells of 32 pixels.
ANCHORS_WH = (
    (0.57273, 0.677385),
    (1.87446, 2.06253),
    (3.33843, 5.47434),
    (7.88282, 3.52778),
    (9.77052, 9.16828),
)

# Darknet's batch norm: epsilon .00001, decay .99.
DARKNET = Numerics(padding="symmetric", batch_norm_eps=1e-5, batch_norm_momentum=0.01)


def darknet_conv(in_channels: int, out_channels: int, kernel: int) -> ConvNorm:
    return ConvNorm(in_channels, out_channels, kernel=kernel, activation="leaky_relu", numerics=DARKNET)


class Darknet19(nn.Module):
    """The backbone: (N, 3, H, W) -> (N, 512, H/16, W/16) and (N, 1024, H/32, W/32)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        in_channels = 3
        for convs in DARKNET_19:
            stage = nn.Sequential()
            for conv in convs:
                stage.append(darknet_conv(in_channels, conv.channels, conv.kernel))
                in_channels = conv.channels
            self.stages.append(stage)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        fine = coarse = self.stages[0](images)
        for stage in self.stages[1:]:
            fine, coarse = coarse, stage(F.max_pool2d(coarse, 2))
        return fine, coarse


class YOLOv2(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, 5 * (5 + num_classes), H/32, W/32), undecoded.

    H and W are multiples of 32, or `forward` raises ValueError. The channels of an anchor stand together: x, y,
    width, height, objectness, then a logit per class (there is no background).

    passthrough_channels: to how many channels a 1x1 convolution cuts the map at stride 16 before it joins the
        one at stride 32. 64 in the network that the authors released; None passes all 512 on, as the paper says.

    A pixel's four neighbours become channels in the order of `pixel_unshuffle`; Darknet's own order differs,
    so its weights would have to be permuted.
    """

    def __init__(self, *, num_classes: int = 80, passthrough_channels: int | None = PASSTHROUGH_CHANNELS) -> None:
        super().__init__()
        self.backbone = Darknet19()
        self.coarse = nn.Sequential(
            darknet_conv(HEAD_CHANNELS, HEAD_CHANNELS, 3), darknet_conv(HEAD_CHANNELS, HEAD_CHANNELS, 3)
        )
        self.passthrough: nn.Module = nn.Identity()
        if passthrough_channels is not None:
            self.passthrough = darknet_conv(FINE_CHANNELS, passthrough_channels, 1)
        passed = 4 * (passthrough_channels or FINE_CHANNELS)
        self.joined = darknet_conv(passed + HEAD_CHANNELS, HEAD_CHANNELS, 3)
        self.predict = nn.Conv2d(HEAD_CHANNELS, len(ANCHORS_WH) * (5 + num_classes), 1)
        initialize(self, "torch")
        nn.init.normal_(self.predict.weight, std=0.01)
        if self.predict.bias is not None:
            nn.init.zeros_(self.predict.bias)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2] % 32 or images.shape[3] % 32:
            raise ValueError(f"height and width {tuple(images.shape[2:])} are not multiples of 32")
        fine, coarse = self.backbone(images)
        passed = F.pixel_unshuffle(self.passthrough(fine), 2)
        joined = self.joined(torch.cat([passed, self.coarse(coarse)], dim=1))
        predicted: Tensor = self.predict(joined)
        return predicted
