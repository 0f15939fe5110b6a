"""Mean intersection over union and pixel accuracy are torchmetrics', on random masks with ignored pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from mobilenetv2.evaluation.mask_metrics import class_ious, confusion, mean_iou, pixel_accuracy
from mobilenetv2.masks import IGNORED

CLASSES = 5


def scenes(seed: int) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """A few pictures of different size; not every class is in each, and some are nowhere or only found."""
    random = np.random.default_rng(seed)
    known = random.permutation(CLASSES)[: random.integers(2, CLASSES)]
    pictures = []
    for _ in range(4):
        height, width = random.integers(1, 60, 2)
        true = random.choice(np.append(known, IGNORED), (height, width)).astype(np.uint8)
        is_right = random.random((height, width)) < 0.7
        other = random.choice(random.permutation(CLASSES)[:3], (height, width))
        found = np.where(is_right & (true != IGNORED), true, other).astype(np.uint8)
        pictures.append((true, found))
    return pictures


@pytest.mark.parametrize("seed", range(8))
def test_mean_iou_and_accuracy(seed: int) -> None:
    mean = MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=IGNORED)
    each = MulticlassJaccardIndex(CLASSES, average="none", ignore_index=IGNORED)
    right = MulticlassAccuracy(CLASSES, average="micro", ignore_index=IGNORED)
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    for true, found in scenes(seed):
        counts += confusion(true, found, CLASSES)
        answer, truth = torch.from_numpy(found).long().reshape(-1), torch.from_numpy(true).long().reshape(-1)
        for metric in (mean, each, right):
            metric.update(answer, truth)
    assert mean_iou(counts) == pytest.approx(float(mean.compute()), abs=1e-6)
    assert pixel_accuracy(counts) == pytest.approx(float(right.compute()), abs=1e-6)
    # Of a class that is nowhere torchmetrics says 0, and leaves it out of the mean as well.
    np.testing.assert_allclose(np.nan_to_num(class_ious(counts)), each.compute().numpy(), atol=1e-6)
