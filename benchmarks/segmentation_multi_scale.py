"""What evaluation at many scales with the left-right flip brings a segmenter, and costs (Table 7, "MF").

    python benchmarks/segmentation_multi_scale.py MODEL.safetensors DATA [EVERY]

Both evaluations run in torch on the same pictures of `val`, every EVERY-th of them (1): one pass at the model's input,
and softmax averaged over scales .5 to 1.75, each as it is and mirrored.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

from mobilenetv2.data.masked import read_mask, read_masks_of_split
from mobilenetv2.data.tree import decode
from mobilenetv2.evaluation.mask_metrics import confusion, mean_iou
from mobilenetv2.modelfile import load_model_file
from mobilenetv2.networks.deeplab_v3 import (
    EVALUATION_SCALES,
    build_segmenter,
    multi_scale_cost,
    multi_scale_probabilities,
    scaled_size_hw,
    upsample,
)
from mobilenetv2.networks.layers import channels_last
from mobilenetv2.preprocessing import preprocess
from mobilenetv2.segmenter import segmenter_multiply_adds


@torch.inference_mode()
def main() -> None:
    model = load_model_file(Path(sys.argv[1]))
    every = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    card = model.card
    network = build_segmenter(card.segmenter).eval()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in model.tensors.items()}, strict=False)
    channels_last(network)
    tree, split, pictures = read_masks_of_split(Path(sys.argv[2]), card.labels)
    classes = len(card.labels)
    counts = {name: np.zeros((classes, classes), np.int64) for name in ("one scale", "multi-scale + flip")}
    seconds = dict.fromkeys(counts, 0.0)
    for picture in pictures[::every]:
        pixels = preprocess(decode(tree, picture.name), card.preprocessing)
        images = torch.from_numpy(pixels)[None].contiguous(memory_format=torch.channels_last)
        true = read_mask(tree, picture)
        for name, scales, flip in (("one scale", (1.0,), False), ("multi-scale + flip", EVALUATION_SCALES, True)):
            began = time.perf_counter()
            shares = multi_scale_probabilities(network, images, scales=scales, flip=flip)
            found = upsample(shares, picture.size_hw).argmax(dim=1)[0].numpy()
            seconds[name] += time.perf_counter() - began
            counts[name] += confusion(true, found, classes)
    size_hw = card.preprocessing.size_hw
    once = segmenter_multiply_adds(card.segmenter, size_hw)
    many = 2 * sum(
        segmenter_multiply_adds(card.segmenter, scaled_size_hw(size_hw, scale)) for scale in EVALUATION_SCALES
    )
    print(f"{card.name} on {len(pictures[::every])} pictures of {split}")
    print(f"{'':20}{'mIOU':>8}{'G MAdds':>10}{'seconds a picture':>20}")
    for name, madds in (("one scale", once), ("multi-scale + flip", many)):
        share, spent = mean_iou(counts[name]) or 0.0, seconds[name] / len(pictures[::every])
        print(f"{name:20}{share:8.4f}{madds / 1e9:10.2f}{spent:20.2f}")
    print(f"times as many multiply-adds: {many / once:.3f}; by the scales alone {multi_scale_cost():.3f}")


if __name__ == "__main__":
    main()
