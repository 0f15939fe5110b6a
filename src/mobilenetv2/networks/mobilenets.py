"""MobileNetV1 or V2, as an architecture asks for."""

from __future__ import annotations

from mobilenetv2.architecture import Architecture
from mobilenetv2.networks.mobilenet_v1 import MobileNetV1
from mobilenetv2.networks.mobilenet_v2 import MobileNetV2

MobileNet = MobileNetV1 | MobileNetV2


def build_mobilenet(architecture: Architecture) -> MobileNet:
    """A classifier with random weights, and its framework's dropout."""
    return MobileNetV1(architecture) if architecture.name == "mobilenet_v1" else MobileNetV2(architecture)
