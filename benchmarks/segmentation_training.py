"""Training speed of DeepLabv3 on MobileNetV2 beside torchvision's DeepLabv3 on MobileNetV3, on the same pictures.

    python benchmarks/segmentation_training.py DATA [STEPS]

DATA: masks, as `mobilenetv2 train segment` takes them. Both train at 369 x 481 px in batches of 8 as their own recipes
do it, from random weights: pictures and masks are decoded, scaled by .5 to 2, cut, flipped, and one step is taken, all
in one process. Interleaved, medians, and images a second per multiply-add, since the networks are of different size.
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
from torch.nn import functional as F  # noqa: E402
from torchvision import tv_tensors  # noqa: E402
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from mobilenetv2.data.masked import MaskData, read_mask, read_masks  # noqa: E402
from mobilenetv2.data.tree import decode  # noqa: E402
from mobilenetv2.masks import IGNORED  # noqa: E402
from mobilenetv2.networks.complexity import trace  # noqa: E402
from mobilenetv2.tasks.segment import Segment  # noqa: E402
from mobilenetv2.training.optim import build_average, build_optimizer  # noqa: E402
from mobilenetv2.training.recipes import SegmentRecipe  # noqa: E402

BATCH = 8
SIZE_HW = (369, 481)


def our_step(data: MaskData, *, decoder: bool = False, aspp: bool = False) -> tuple[Callable[[int], None], int]:
    """A step of our training by number, and the multiply-adds of a picture."""
    recipe = SegmentRecipe(
        pretrained="none",
        batch_size=BATCH,
        resolution=SIZE_HW[0],
        input_width=SIZE_HW[1],
        decoder="light" if decoder else "none",
        aspp=aspp,
    )
    task = Segment(data, recipe, name="ours")
    optimizer, average = build_optimizer(task.network, recipe), build_average(task.network, recipe)
    task.network.train()

    def step(number: int) -> None:
        keys = [(number, (number * BATCH + i) % len(data.splits["train"])) for i in range(BATCH)]
        samples = [task.training_set[key] for key in keys]
        pictures, masks = (torch.stack(parts) for parts in zip(*samples, strict=True))
        loss = task.loss(task.network, (pictures, masks))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        average.update_parameters(task.network)

    return step, trace(task.network, SIZE_HW).madds


class Logits(nn.Module):
    """What of torchvision's network answers, without the enlarging."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.classifier, self.auxiliary = model.backbone, model.classifier, model.aux_classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps: dict[str, Tensor] = self.backbone(images)
        return self.classifier(maps["out"]), self.auxiliary(maps["aux"])


def torchvision_step(data: MaskData) -> tuple[Callable[[int], None], int]:
    """The same of torchvision's reference training (references/segmentation): SGD, an auxiliary loss of weight .5."""
    classes = len(data.classes)
    model = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes, aux_loss=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    change = v2.Compose(
        [
            v2.RandomResize(SIZE_HW[0] // 2, SIZE_HW[0] * 2),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomCrop(
                SIZE_HW, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORED, "others": 0}
            ),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
            v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    )
    model.train()

    def step(number: int) -> None:
        torch.manual_seed(number)
        images, masks = [], []
        for i in range(BATCH):
            picture = data.splits["train"][(number * BATCH + i) % len(data.splits["train"])]
            pixels = torch.from_numpy(np.array(decode(data.tree, picture.name))).permute(2, 0, 1)
            mask = torch.from_numpy(read_mask(data.tree, picture))
            image, mask = change(tv_tensors.Image(pixels), tv_tensors.Mask(mask))
            images.append(image)
            masks.append(mask)
        found, true = model(torch.stack(images)), torch.stack(masks)
        losses = [F.cross_entropy(found[name], true, ignore_index=IGNORED) for name in ("out", "aux")]
        optimizer.zero_grad()
        torch.autograd.backward(losses[0] + 0.5 * losses[1])
        optimizer.step()

    return step, trace(Logits(model), SIZE_HW).madds


def main() -> None:
    data = read_masks(Path(sys.argv[1]), skip_bad=True)
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    sides = {
        "DeepLabv3 MobileNetV2, light decoder (here)": our_step(data, decoder=True),
        "DeepLabv3 MobileNetV2 (here)": our_step(data),
        "DeepLabv3 MobileNetV2, pyramid (here)": our_step(data, aspp=True),
        "DeepLabv3 MobileNetV3, pyramid (torchvision)": torchvision_step(data),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(steps + 1):
        for name, (step, _) in sides.items():
            began = time.perf_counter()
            step(number)
            # The first one allocates.
            if number:
                seconds[name].append(time.perf_counter() - began)
    height, width = SIZE_HW
    print(f"{torch.get_num_threads()} threads, batch {BATCH}, {width} x {height} px, medians of {steps} steps")
    print(f"{'':46}{'images/s':>10}{'M MAdds':>10}{'G MAdds/s':>12}")
    for name, (_, madds) in sides.items():
        speed = BATCH / statistics.median(seconds[name])
        print(f"{name:46}{speed:10.2f}{madds / 1e6:10.1f}{speed * madds / 1e9:12.3f}")


if __name__ == "__main__":
    main()
