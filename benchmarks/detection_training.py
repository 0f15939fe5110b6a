"""Training speed of SSDLite on MobileNetV2 beside torchvision's SSDLite on MobileNetV3, on the same pictures.

    python benchmarks/detection_training.py DATA [STEPS]

DATA: a detection data set, as `mobilenetv2 train detect` takes it. Both train at 320 px in batches of 16 as their
own recipes do it, from random weights: pictures are decoded, augmented (ours: the recipe "transfer"; torchvision's
reference: random IoU crop and flip), and one step is taken, all in one process. Interleaved, medians, and images a
second per multiply-add, since the two networks are of different size.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobilenetv2.training.memory import keep_freed_memory

keep_freed_memory()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torchvision import tv_tensors  # noqa: E402
from torchvision.models.detection import ssdlite320_mobilenet_v3_large  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from mobilenetv2.data.boxed import BoxData, read_boxes  # noqa: E402
from mobilenetv2.data.tree import decode  # noqa: E402
from mobilenetv2.networks.complexity import trace  # noqa: E402
from mobilenetv2.tasks.detect import Detect  # noqa: E402
from mobilenetv2.training.optim import build_average, build_optimizer  # noqa: E402
from mobilenetv2.training.recipes import DetectRecipe  # noqa: E402

BATCH = 16
SIZE_HW = (320, 320)


def our_step(data: BoxData) -> tuple[Callable[[int], None], int]:
    """A step of our training by number, and the multiply-adds of a picture."""
    recipe = DetectRecipe(pretrained="none", batch_size=BATCH)
    task = Detect(data, recipe, name="ours")
    optimizer, average = build_optimizer(task.network, recipe), build_average(task.network, recipe)
    task.network.train()

    def step(number: int) -> None:
        keys = [(number, (number * BATCH + i) % len(data.splits["train"])) for i in range(BATCH)]
        samples = [task.training_set[key] for key in keys]
        batch = [torch.stack(parts) for parts in zip(*samples, strict=True)]
        loss = task.loss(task.network, (batch[0], batch[1], batch[2]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update_parameters(task.network)

    return step, trace(task.network, SIZE_HW).madds


class Outputs(nn.Module):
    """What of torchvision's detector is network: the backbone and the head, without anchors and losses."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features: list[Tensor] = list(self.backbone(images).values())
        outputs = self.head(features)
        return outputs["cls_logits"], outputs["bbox_regression"]


def torchvision_step(data: BoxData) -> tuple[Callable[[int], None], int]:
    """The same of torchvision's reference training (references/detection, preset "ssdlite")."""
    model = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=len(data.classes) + 1, trainable_backbone_layers=6
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.15, momentum=0.9, weight_decay=4e-5)
    change = v2.Compose(
        [
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(0.5),
            v2.ToDtype(torch.float, scale=True),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    model.train()

    def step(number: int) -> None:
        torch.manual_seed(number)
        images, targets = [], []
        for i in range(BATCH):
            picture = data.splits["train"][(number * BATCH + i) % len(data.splits["train"])]
            pixels = torch.from_numpy(np.array(decode(data.tree, picture.name))).permute(2, 0, 1)
            boxes = tv_tensors.BoundingBoxes(
                torch.from_numpy(picture.boxes_xyxy), format="XYXY", canvas_size=picture.size_hw
            )
            target = {"boxes": boxes, "labels": torch.from_numpy(picture.labels + 1)}
            image, target = change(tv_tensors.Image(pixels), target)
            images.append(image)
            targets.append(target)
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        # From random weights the reference's rate may diverge; the work is the same without taking the step's size.
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()

    return step, trace(Outputs(model), SIZE_HW).madds


def main() -> None:
    data = read_boxes(Path(sys.argv[1]), skip_bad=True)
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 6
    sides = {"SSDLite MobileNetV2 (here)": our_step(data), "SSDLite MobileNetV3 (torchvision)": torchvision_step(data)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(steps + 1):
        for name, (step, _) in sides.items():
            began = time.perf_counter()
            step(number)
            # The first one allocates.
            if number:
                seconds[name].append(time.perf_counter() - began)
    print(f"{torch.get_num_threads()} threads, batch {BATCH}, {SIZE_HW[0]} px, medians of {steps} steps")
    print(f"{'':36}{'images/s':>10}{'M MAdds':>10}{'G MAdds/s':>12}")
    for name, (_, madds) in sides.items():
        speed = BATCH / statistics.median(seconds[name])
        print(f"{name:36}{speed:10.2f}{madds / 1e6:10.1f}{speed * madds / 1e9:12.3f}")


if __name__ == "__main__":
    main()
