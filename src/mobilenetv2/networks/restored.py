"""The torch network of a model file, for libraries that take one."""

from __future__ import annotations

import torch
from torch import nn

from mobilenetv2.detector import Detector
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.networks.deeplab_v3 import build_segmenter
from mobilenetv2.networks.mobilenets import build_mobilenet
from mobilenetv2.networks.ssd import build_detector
from mobilenetv2.segmenter import Segmenter


def network_of(model: ModelFile) -> nn.Module:
    """A network that is ready to answer (`eval`): (N, 3, H, W), preprocessed -> what `graph.network_graph` describes.

    What quantised checkpoints round (`activation_levels`) is not rounded here.
    """
    architecture = model.card.architecture
    if isinstance(architecture, Detector):
        network: nn.Module = build_detector(architecture)
    elif isinstance(architecture, Segmenter):
        network = build_segmenter(architecture)
    else:
        network = build_mobilenet(architecture)
    # What is missing counts batches, which only training reads.
    network.load_state_dict({name: torch.from_numpy(array) for name, array in model.tensors.items()}, strict=False)
    return network.eval()
