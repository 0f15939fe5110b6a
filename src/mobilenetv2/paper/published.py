"""What the papers print: their own column beside ours. Nothing here is computed, nothing is corrected.

Where a printed figure is not what the network has, the table that shows it says so in a footnote.
Accuracies are in percent, `_m` is millions, `_b` is billions, `_kb` is kilobytes of 16-bit numbers, `_ms` is the
latency of one picture on one large core of a Pixel 1 under TF-Lite; None is where a dash is printed.
"""

from __future__ import annotations

from typing import NamedTuple


class Memory(NamedTuple):
    """A row of Table 3: the widest map at one size, as channels and kilobytes, for each network."""

    size: int  # pixels on each side
    v1_channels: int
    v1_kb: int
    v2_channels: int
    v2_kb: int
    shufflenet_channels: int  # "2x, g=3"
    shufflenet_kb: int


# Sandler et al., CVPR 2018, Table 3.
TABLE_3 = (
    Memory(112, 64, 1600, 16, 400, 32, 800),
    Memory(56, 128, 800, 32, 200, 48, 300),
    Memory(28, 256, 400, 64, 100, 400, 600),
    Memory(14, 512, 200, 160, 62, 800, 310),
    Memory(7, 1024, 199, 320, 32, 1600, 156),
    Memory(1, 1024, 2, 1280, 2, 1600, 3),
)
TABLE_3_MAX_KB = {"MobileNetV1": 1600, "MobileNetV2": 400, "ShuffleNet (x2)": 600}


class Classifier(NamedTuple):
    """A row of Table 4: ImageNet at 224 x 224."""

    network: str
    top1: float
    parameters_m: float
    madds_m: int
    cpu_ms: int | None


# Sandler et al., Table 4.
TABLE_4 = (
    Classifier("MobileNetV1", 70.6, 4.2, 575, 113),
    Classifier("ShuffleNet (1.5)", 71.5, 3.4, 292, None),
    Classifier("ShuffleNet (x2)", 73.7, 5.4, 524, None),
    Classifier("NASNet-A", 74.0, 5.3, 564, 183),
    Classifier("MobileNetV2", 72.0, 3.4, 300, 75),
    Classifier("MobileNetV2 (1.4)", 74.7, 6.9, 585, 143),
)


class Head(NamedTuple):
    """A row of Table 5: a detection head on MobileNetV2 at 320 x 320, 80 classes, without the backbone."""

    head: str
    parameters_m: float
    madds_b: float


# Sandler et al., Table 5.
TABLE_5 = (
    Head("SSD", 14.8, 1.25),
    Head("SSDLite", 2.1, 0.35),
)


class Detector(NamedTuple):
    """A row of Table 6: COCO test-dev."""

    network: str
    coco_map: float
    parameters_m: float
    madds_b: float
    cpu_ms: int | None


# Sandler et al., Table 6.
TABLE_6 = (
    Detector("SSD300", 23.2, 36.1, 35.2, None),
    Detector("SSD512", 26.8, 36.1, 99.5, None),
    Detector("YOLOv2", 21.6, 50.7, 17.5, None),
    Detector("MobileNetV1 + SSDLite", 22.2, 5.1, 1.3, 270),
    Detector("MobileNetV2 + SSDLite", 22.1, 4.3, 0.8, 200),
)


class Segmenter(NamedTuple):
    """A row of Table 7: DeepLabv3 on VOC 2012 val at 513 x 513."""

    network: str
    output_stride: int
    aspp: bool
    multi_scale_flip: bool
    miou: float
    parameters_m: float
    madds_b: float


# Sandler et al., Table 7. The star: on the second-last feature map, of 320 channels.
TABLE_7 = (
    Segmenter("MobileNetV1", 16, True, False, 75.29, 11.15, 14.25),
    Segmenter("MobileNetV1", 8, True, True, 78.56, 11.15, 941.9),
    Segmenter("MobileNetV2*", 16, True, False, 75.70, 4.52, 5.8),
    Segmenter("MobileNetV2*", 8, True, True, 78.42, 4.52, 387),
    Segmenter("MobileNetV2*", 16, False, False, 75.32, 2.11, 2.75),
    Segmenter("MobileNetV2*", 8, False, True, 77.33, 2.11, 152.6),
    Segmenter("ResNet-101", 16, True, False, 80.49, 58.16, 81.0),
    Segmenter("ResNet-101", 8, True, True, 82.70, 58.16, 4870.6),
)


class V1(NamedTuple):
    """A MobileNetV1: width multiplier and side of the input."""

    width: float
    resolution: int
    top1: float
    madds_m: int
    parameters_m: float


# Howard et al., 2017 (arXiv 1704.04861), Tables 6 and 7.
MOBILENET_V1 = (
    V1(1.0, 224, 70.6, 569, 4.2),
    V1(0.75, 224, 68.4, 325, 2.6),
    V1(0.5, 224, 63.7, 149, 1.3),
    V1(0.25, 224, 50.6, 41, 0.5),
    V1(1.0, 192, 69.1, 418, 4.2),
    V1(1.0, 160, 67.2, 290, 4.2),
    V1(1.0, 128, 64.4, 186, 4.2),
)


class ShuffleNet(NamedTuple):
    """A ShuffleNet V1 at 224 x 224."""

    width: float
    groups: int
    top1_error: float
    madds_m: int


# Zhang et al., CVPR 2018 (arXiv 1707.01083).
SHUFFLENET_V1 = (
    ShuffleNet(1.0, 1, 33.6, 143),
    ShuffleNet(1.0, 2, 32.7, 140),
    ShuffleNet(1.0, 3, 32.6, 137),
    ShuffleNet(1.0, 4, 32.8, 133),
    ShuffleNet(1.0, 8, 32.4, 137),
    ShuffleNet(1.5, 3, 28.5, 292),
    ShuffleNet(2.0, 3, 26.3, 524),
)


class SlimV2(NamedTuple):
    """A checkpoint of MobileNetV2. `madds_m` is cut off, not rounded."""

    width: float
    resolution: int
    madds_m: int
    parameters_m: float
    top1: float
    top5: float
    pixel1_ms: float


# TF-Slim, the table of MobileNetV2 checkpoints.
SLIM_MOBILENET_V2 = (
    SlimV2(1.4, 224, 582, 6.06, 75.0, 92.5, 138.0),
    SlimV2(1.3, 224, 509, 5.34, 74.4, 92.1, 123.0),
    SlimV2(1.0, 224, 300, 3.47, 71.8, 91.0, 73.8),
    SlimV2(1.0, 192, 221, 3.47, 70.7, 90.1, 55.1),
    SlimV2(1.0, 160, 154, 3.47, 68.8, 89.0, 40.2),
    SlimV2(1.0, 128, 99, 3.47, 65.3, 86.9, 27.6),
    SlimV2(1.0, 96, 56, 3.47, 60.3, 83.2, 17.6),
    SlimV2(0.75, 224, 209, 2.61, 69.8, 89.6, 55.8),
    SlimV2(0.75, 192, 153, 2.61, 68.7, 88.9, 41.6),
    SlimV2(0.75, 160, 107, 2.61, 66.4, 87.3, 30.4),
    SlimV2(0.75, 128, 69, 2.61, 63.2, 85.3, 21.9),
    SlimV2(0.75, 96, 39, 2.61, 58.8, 81.6, 14.2),
    SlimV2(0.5, 224, 97, 1.95, 65.4, 86.4, 28.7),
    SlimV2(0.5, 192, 71, 1.95, 63.9, 85.4, 21.1),
    SlimV2(0.5, 160, 50, 1.95, 61.0, 83.2, 14.9),
    SlimV2(0.5, 128, 32, 1.95, 57.7, 80.8, 9.9),
    SlimV2(0.5, 96, 18, 1.95, 51.2, 75.8, 6.4),
    SlimV2(0.35, 224, 59, 1.66, 60.3, 82.9, 19.7),
    SlimV2(0.35, 192, 43, 1.66, 58.2, 81.2, 14.6),
    SlimV2(0.35, 160, 30, 1.66, 55.7, 79.1, 10.5),
    SlimV2(0.35, 128, 20, 1.66, 50.8, 75.0, 6.9),
    SlimV2(0.35, 96, 11, 1.66, 45.5, 70.4, 4.5),
)


class Line(NamedTuple):
    """A row of Table 2."""

    input: str
    operator: str
    t: int | None
    c: int | None
    n: int | None
    s: int | None


# Sandler et al., Table 2; None is a dash, and c of the last row is k, the number of classes.
TABLE_2 = (
    Line("224 x 224 x 3", "conv2d", None, 32, 1, 2),
    Line("112 x 112 x 32", "bottleneck", 1, 16, 1, 1),
    Line("112 x 112 x 16", "bottleneck", 6, 24, 2, 2),
    Line("56 x 56 x 24", "bottleneck", 6, 32, 3, 2),
    Line("28 x 28 x 32", "bottleneck", 6, 64, 4, 2),
    Line("14 x 14 x 64", "bottleneck", 6, 96, 3, 1),
    Line("14 x 14 x 96", "bottleneck", 6, 160, 3, 2),
    Line("7 x 7 x 160", "bottleneck", 6, 320, 1, 1),
    Line("7 x 7 x 320", "conv2d 1x1", None, 1280, 1, 1),
    Line("7 x 7 x 1280", "avgpool 7x7", None, None, 1, None),
    Line("1 x 1 x 1280", "conv2d 1x1", None, None, None, None),
)
