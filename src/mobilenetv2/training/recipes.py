"""Recipes: what each task adds to a training's options, and named starting points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

from mobilenetv2.detector import Detector
from mobilenetv2.errors import UserError, did_you_mean
from mobilenetv2.modelfile import Card
from mobilenetv2.segmenter import Segmenter
from mobilenetv2.settings import changed
from mobilenetv2.training.recipe import Recipe

Augmentation = Literal["none", "light", "colour", "trivial", "rand"]
Crop = Literal["pad", "resized"]
ClassLoss = Literal["focal", "quality", "sigmoid", "softmax"]
BoxLoss = Literal["smooth_l1", "giou"]


@dataclass(frozen=True, kw_only=True)
class ClassifyRecipe(Recipe):
    """The training of a classifier.

    label_smoothing, dropout, mixup, cutmix: 0 is off; mixup and cutmix are the alpha of their Beta.
    augmentation: "none" leaves the picture as it is, "light" crops and flips, "colour" adds TF-Slim's
        brightness and saturation, "trivial" adds TrivialAugmentWide, "rand" RandAugment.
    crop: "pad" moves the picture by up to an eighth of its side; "resized" cuts a piece of
        `crop_area_min` to 1 of its area.
    """

    label_smoothing: float = 0.1
    dropout: float = 0.2
    augmentation: Augmentation = "trivial"
    crop: Crop = "resized"
    crop_area_min: float = 0.35
    mixup: float = 0.0
    cutmix: float = 0.0

    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        **Recipe.ranges,
        "label_smoothing": (0, 0.99),
        "dropout": (0, 0.99),
        "crop_area_min": (0.01, 1),
        "mixup": (0, 100),
        "cutmix": (0, 100),
    }


@dataclass(frozen=True, kw_only=True)
class DetectRecipe(Recipe):
    """The training of a detector.

    detector: "ssdlite", or "ssd" with full convolutions in what is added. backbone: what stands below it.
    anchors: "tf" for the TF Object Detection API's rule, "fit" for sizes fitted to the training boxes.
    matching_iou: an anchor that overlaps a true box by this or more answers for it. anchors_per_box: so many do at
        least, however little they overlap it; SSD has 1, and more help small boxes.
    class_loss: "focal" (sigmoid, Lin et al. 2017), "quality" (sigmoid towards the overlap that the predicted box
        reaches, Li et al. 2020), "sigmoid" or "softmax" (cross-entropy with hard negatives).
    focal_alpha, focal_gamma: of the focal loss; gamma is the quality loss's beta too.
    negatives_per_positive: hard negatives of "sigmoid" and "softmax", at least 3 a picture.
    box_loss: "smooth_l1" of the box codes, or "giou" of the boxes. box_weight: of the box loss.
    flip_vertical: share of pictures mirrored top to bottom, for what has no up and down.
    crop, zoom_out, photometric, mosaic: shares of pictures that are cut by SSD's rule of overlaps, laid on a
        larger grey ground, changed in colour, and put together from four.
    zoom_out_max: side of that ground, in sides of the picture.
    iou_threshold, max_detections: of the suppression, for the model's card.
    """

    resolution: int = 320
    epochs: int = 100
    warmup_epochs: float = 2.0
    measure_every: int = 5
    batch_size: int = 16
    detector: Literal["ssdlite", "ssd"] = "ssdlite"
    backbone: Literal["mobilenet_v2", "mobilenet_v1"] = "mobilenet_v2"
    anchors: Literal["tf", "fit"] = "tf"
    matching_iou: float = 0.5
    anchors_per_box: int = 1
    class_loss: ClassLoss = "focal"
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    negatives_per_positive: float = 3.0
    box_loss: BoxLoss = "giou"
    box_weight: float = 2.0
    flip_vertical: float = 0.0
    crop: float = 0.5
    zoom_out: float = 0.3
    zoom_out_max: float = 2.0
    photometric: float = 0.5
    mosaic: float = 0.0
    iou_threshold: float = 0.6
    max_detections: int = 100

    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        **Recipe.ranges,
        "matching_iou": (0, 1),
        "anchors_per_box": (1, 1000),
        "focal_alpha": (0, 1),
        "focal_gamma": (0, 10),
        "negatives_per_positive": (0, 1000),
        "box_weight": (0, 1000),
        "flip_vertical": (0, 1),
        "crop": (0, 1),
        "zoom_out": (0, 1),
        "zoom_out_max": (1, 10),
        "photometric": (0, 1),
        "mosaic": (0, 1),
        "iou_threshold": (0, 1),
        "max_detections": (1, 10_000),
    }


@dataclass(frozen=True, kw_only=True)
class SegmentRecipe(Recipe):
    """The training of a segmenter.

    resolution: height of the input; 0 takes the middle size of the training pictures, at most 513 pixels a side.
    input_width: its width; 0 makes it as wide as high. Sides that are one more than a multiple of 16 keep every map in
        its place (TF DeepLab's 513).
    crop: sides of the training crops in shares of the input's, to the nearest multiple of 16 and one.
    scale_min, scale_max: of the picture before it is cut, evenly by their logarithm; what it does not fill is ignored.
    photometric: share of pictures changed in colour.
    backbone, output_stride, aspp, decoder: as in `segmenter.Segmenter`.
    class_balance: classes weigh the inverse of their share of pixels to this power; 0 weighs all pixels alike.
    hard_examples: share of a batch's pixels, those of the largest loss, that train; 1 is all of them.
    dice: weight of the soft Dice loss beside the cross-entropy; 0 is off.
    """

    resolution: int = 0
    input_width: int = 0
    epochs: int = 60
    warmup_epochs: float = 1.0
    measure_every: int = 3
    batch_size: int = 8
    learning_rate: float = 5e-4
    ema_decay: float = 0.995
    clip_gradient_norm: float = 5.0
    crop: float = 1.0
    scale_min: float = 0.5
    scale_max: float = 2.0
    photometric: float = 0.5
    backbone: Literal["mobilenet_v2", "mobilenet_v1"] = "mobilenet_v2"
    output_stride: int = 16
    aspp: bool = False
    decoder: Literal["none", "light"] = "light"
    class_balance: float = 0.25
    hard_examples: float = 1.0
    dice: float = 0.5

    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        **Recipe.ranges,
        "resolution": (0, 4096),
        "input_width": (0, 4096),
        "crop": (0.05, 1),
        "scale_min": (0.1, 10),
        "scale_max": (0.1, 10),
        "photometric": (0, 1),
        "output_stride": (8, 32),
        "class_balance": (0, 1),
        "hard_examples": (0.001, 1),
        "dice": (0, 100),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_min > self.scale_max:
            raise UserError(f"scale_min {self.scale_min:g} is above scale_max {self.scale_max:g}; exchange them")
        if self.input_width and not self.resolution:
            raise UserError(f"input_width {self.input_width} needs the height too; set resolution")


def classify_transfer() -> ClassifyRecipe:
    """From pretrained weights to the user's classes: a few hundred pictures up to tens of thousands."""
    return ClassifyRecipe(recipe="transfer")


def classify_paper() -> ClassifyRecipe:
    """From random weights as Sec. 6.1 trains ImageNet, completed from TF-Slim where the paper is silent.

    RMSProp with decay and momentum .9 (eps 1.0 inside the root), learning rate .045 x .98 an epoch,
    weight decay 4e-5 but not on depthwise kernels, batch 96 a process, label smoothing .1, EMA .9999.
    """
    return ClassifyRecipe(
        recipe="paper",
        numerics="tf",
        pretrained="none",
        epochs=300,
        warmup_epochs=0,
        batch_size=96,
        optimizer="rmsprop_tf",
        learning_rate=0.045,
        head_learning_rate=0.045,
        schedule="exponential",
        decay_rate=0.98,
        optimizer_eps=1.0,
        weight_decay=4e-5,
        decay_depthwise=False,
        augmentation="colour",
        crop_area_min=0.05,
        ema_decay=0.9999,
        batch_norm_momentum=0,
    )


def classify_small() -> ClassifyRecipe:
    """From pretrained weights to pictures of 32 pixels and the like: whole pictures, moved and mirrored only."""
    return ClassifyRecipe(
        recipe="small",
        resolution=96,
        freeze_stages=3,
        epochs=6,
        warmup_epochs=0.3,
        batch_size=64,
        augmentation="light",
        crop="pad",
        label_smoothing=0.05,
    )


def detect_transfer() -> DetectRecipe:
    """From ImageNet weights to the user's boxes: a hundred pictures up to tens of thousands."""
    return DetectRecipe(recipe="transfer")


def detect_paper() -> DetectRecipe:
    """As the TF Object Detection API trains the SSDLite of Sec. 6.2 on COCO, from ImageNet weights.

    RMSProp with decay and momentum .9 (eps 1.0 inside the root), learning rate .004 x .95 now and then, batch 24,
    sigmoid cross-entropy and smooth L1 with 3:1 hard negatives, flips and SSD's crops.
    """
    return DetectRecipe(
        recipe="paper",
        numerics="tf",
        epochs=40,
        warmup_epochs=0,
        batch_size=24,
        optimizer="rmsprop_tf",
        learning_rate=0.004,
        head_learning_rate=0.004,
        schedule="exponential",
        decay_rate=0.95,
        optimizer_eps=1.0,
        weight_decay=4e-5,
        decay_depthwise=False,
        ema_decay=0.9999,
        batch_norm_momentum=0,
        class_loss="sigmoid",
        box_loss="smooth_l1",
        box_weight=1.0,
        crop=6 / 7,  # one of SSD's seven choices leaves the picture as it is
        zoom_out=0,
        photometric=0,
    )


def segment_transfer() -> SegmentRecipe:
    """From ImageNet weights to the user's masks: a hundred pictures up to tens of thousands."""
    return SegmentRecipe(recipe="transfer")


def segment_paper() -> SegmentRecipe:
    """As TF DeepLab trains the network of Sec. 6.3 on PASCAL VOC, from ImageNet weights.

    SGD with momentum .9, learning rate .007 x (1 - share of steps)^.9, weight decay 4e-5, 513 x 513 pixels, scales from
    .5 to 2; neither decoder nor pyramid. Its 30,000 steps of 16 pictures are 45 epochs of VOC's 10,582.
    """
    return SegmentRecipe(
        recipe="paper",
        numerics="tf",
        resolution=513,
        epochs=45,
        warmup_epochs=0,
        batch_size=16,
        optimizer="sgd",
        nesterov=False,
        schedule="poly",
        learning_rate=0.007,
        head_learning_rate=0.007,
        weight_decay=4e-5,
        ema_decay=0,
        clip_gradient_norm=0,
        batch_norm_momentum=0,
        photometric=0,
        decoder="none",
        class_balance=0,
        dice=0,
    )


RECIPES: Mapping[str, Mapping[str, Callable[[], Recipe]]] = {
    "classify": {"transfer": classify_transfer, "paper": classify_paper, "small": classify_small},
    "detect": {"transfer": detect_transfer, "paper": detect_paper},
    "segment": {"transfer": segment_transfer, "paper": segment_paper},
}
RECIPE_KINDS: Mapping[str, type[Recipe]] = {
    "classify": ClassifyRecipe,
    "detect": DetectRecipe,
    "segment": SegmentRecipe,
}


# A few passes of little steps: ranges settle, and weights move by less than a level.
_QAT: Mapping[str, Any] = {
    "qat": True,
    "epochs": 2,
    "warmup_epochs": 0.0,
    "measure_every": 1,
    "freeze_stages": 0,
    "optimizer": "adamw",
    "schedule": "cosine",
    "learning_rate": 1e-5,
    "head_learning_rate": 1e-5,
}


def resolve(task: str, name: str, settings: Iterable[str] = (), **given: Any) -> Recipe:
    """A task's recipe by name, changed by `name=value` settings and by values that are not None.

    Raises UserError for an unknown recipe or name, with the nearest one, and for a value of the wrong kind.
    """
    known = RECIPES[task]
    if name not in known:
        raise UserError(
            f"recipe {name!r} is not known for {task!r}{did_you_mean(name, known)}; it can be {', '.join(known)}"
        )
    return changed(known[name](), settings, fixed=("recipe",), **given)


def resolve_qat(card: Card, source: str, settings: Iterable[str] = (), **given: Any) -> Recipe:
    """How a trained model goes on for 8 bits: by its own recipe, at a rate that moves no weight far.

    card: of that model. source: its path, or its name in the box. A model that was not trained here goes on by
    "transfer". settings, given: as `resolve` takes them, and raises.
    """
    # Models in the box tell of several trainings, one after the other.
    own = card.training.get("recipe") or (card.training.get("stages") or [{}])[-1]
    known = RECIPES[card.task]["transfer"]()
    values = {field.name: own[field.name] for field in fields(known) if field.name in own}
    height, width = card.preprocessing.size_hw
    architecture = card.architecture
    values |= {"width": architecture.width, "resolution": height, "numerics": "auto", "pretrained": source}
    if isinstance(architecture, Detector):
        values |= {"detector": architecture.name, "backbone": architecture.backbone}
    elif isinstance(architecture, Segmenter):
        names = ("backbone", "output_stride", "aspp", "decoder")
        values |= {"input_width": width} | {name: getattr(architecture, name) for name in names}
    recipe = replace(known, **{**values, **_QAT})
    return changed(recipe, settings, fixed=("recipe",), **given)
