"""Random changes to training pictures, by torchvision's transforms."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from mobilenetv2.preprocessing import Preprocessing, resize
from mobilenetv2.training.recipes import ClassifyRecipe

_MODES = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}


class Augment:
    """A picture of any size -> a random variant of `preprocessing.size_hw`. Draws from torch's generator."""

    def __init__(self, recipe: ClassifyRecipe, preprocessing: Preprocessing) -> None:
        mode = _MODES[preprocessing.interpolation]
        self.crop: Callable[[Image.Image], Image.Image]
        if recipe.crop == "resized":
            self.crop = v2.RandomResizedCrop(
                preprocessing.size_hw, scale=(recipe.crop_area_min, 1), ratio=(3 / 4, 4 / 3), interpolation=mode
            )
        else:
            self.crop = _Shift(preprocessing)
        flip = v2.RandomHorizontalFlip(recipe.flip)
        # Changes of shape leave empty corners; mean grey is what the network sees as zero.
        grey = [round(255 * level) for level in preprocessing.mean_rgb]
        extra: dict[str, list[nn.Module]] = {
            "none": [],
            "light": [],
            # TF-Slim's colours: brightness by 32 / 255, saturation by half.
            "colour": [v2.ColorJitter(brightness=32 / 255, saturation=0.5)],
            "trivial": [v2.TrivialAugmentWide(interpolation=mode, fill=grey)],
            "rand": [v2.RandAugment(interpolation=mode, fill=grey)],
        }
        self.change = v2.Compose([flip, *extra[recipe.augmentation]])
        self.plain = recipe.augmentation == "none"
        self.preprocessing = preprocessing

    def __call__(self, image: Image.Image) -> Image.Image:
        if self.plain:
            return resize(image, self.preprocessing)
        changed: Image.Image = self.change(self.crop(image))
        return changed


class _Shift:
    """Moves the picture by up to an eighth of its sides, mirrored at the borders; then the runtime's own resize."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if min(width, height) > 1:
            pad = [width // 8, height // 8]
            image = v2.RandomCrop((height, width))(F.pad(image, pad, padding_mode="reflect"))
        return resize(image, self.preprocessing)


def batch_mixing(recipe: ClassifyRecipe, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Mixup and cutmix over a batch, or None: (N, 3, H, W), (N,) -> the same mixed, (N, num_classes) shares."""
    mixes: list[nn.Module] = []
    if recipe.mixup > 0:
        mixes.append(v2.MixUp(alpha=recipe.mixup, num_classes=num_classes))
    if recipe.cutmix > 0:
        mixes.append(v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes))
    return v2.RandomChoice(mixes) if mixes else None
