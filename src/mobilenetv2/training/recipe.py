"""What decides a training, whatever the task: one flat record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from mobilenetv2.errors import UserError

Optimizer = Literal["adamw", "sgd", "rmsprop_tf"]
Schedule = Literal["cosine", "exponential", "poly"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training, resolved. Every field can be given on the command line as `--set name=value`.

    recipe: the starting point that the other values were derived from.
    width, resolution: of the network; resolution in pixels, square.
    numerics: padding and batch norm as in "torch" or "tf"; "auto" takes the pretrained weights' own.
    pretrained: a name that `mobilenetv2 models` lists, the path of a model file, "auto" for the best ImageNet
        weights of this width, or "none".
    freeze_stages: parts that keep their pretrained weights and batch norm: 0 none, 1 the stem, 2 the stem
        and the first row of bottlenecks, and so on. Early parts cost most and change least.
    qat: train for 8 bits (`networks.fake_quantised`), best at a learning rate of 1e-4 to 1e-5: weights and activations
        are rounded while the network learns, and batch norm keeps its statistics. `pretrained` is then the trained
        model to begin with.
    epochs, warmup_epochs: passes over the training pictures; the warm-up may be a fraction.
    measure_every: epochs between two measurements on the validation pictures; the last is always measured.
    batch_size: pictures a step and process.
    learning_rate, head_learning_rate: at their highest; the head is what is new: classifier, extra layers, predictors.
    schedule: "cosine" down to 0, "exponential", x `decay_rate` an epoch, or "poly", the share of steps that are left
        to the power of `poly_power`.
    momentum, nesterov, rms_decay, optimizer_eps: of the optimizer, where it has them.
    weight_decay: never on batch norm and biases; `decay_depthwise` says whether on depthwise kernels.
    flip: share of pictures mirrored left to right.
    ema_decay: of the weights' exponential moving average, which is what is measured and kept; 0 is off.
    clip_gradient_norm: 0 is off.
    batch_norm_momentum: weight of the new batch; 0 takes the numerics profile's own (TF-Slim's .003 suits
        hundreds of epochs: a short training would be measured with statistics of pictures it no longer sees).
    val_fraction: share split off where there is no `val` folder. seed: of everything random, that split included.
    workers: processes that decode; -1 takes the processor's count less one, 4 at most.
    precision: "no" is float32; "bf16" and "fp16" where the hardware has them.
    save_every_s: seconds between two savings of the state that a run resumes from.
    """

    recipe: str = "transfer"
    width: float = 1.0
    resolution: int = 224
    numerics: Literal["auto", "torch", "tf"] = "auto"
    pretrained: str = "auto"
    freeze_stages: int = 0
    qat: bool = False
    epochs: int = 20
    warmup_epochs: float = 0.5
    measure_every: int = 1
    batch_size: int = 32
    optimizer: Optimizer = "adamw"
    learning_rate: float = 1e-3
    head_learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    decay_rate: float = 0.98
    poly_power: float = 0.9
    momentum: float = 0.9
    nesterov: bool = True
    rms_decay: float = 0.9
    optimizer_eps: float = 1e-8
    weight_decay: float = 0.05
    decay_depthwise: bool = True
    flip: float = 0.5
    ema_decay: float = 0.998
    clip_gradient_norm: float = 0.0
    batch_norm_momentum: float = 0.1
    val_fraction: float = 0.1
    seed: int = 0
    workers: int = -1
    precision: Literal["no", "bf16", "fp16"] = "no"
    save_every_s: float = 60.0

    # The least and the largest value of every number; a task's recipe adds its own.
    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        "width": (0.05, 16),
        "resolution": (1, 4096),
        "freeze_stages": (0, 9),
        "epochs": (1, 100_000),
        "warmup_epochs": (0, 1000),
        "measure_every": (1, 100_000),
        "batch_size": (2, 65_536),
        "learning_rate": (0, 100),
        "head_learning_rate": (0, 100),
        "decay_rate": (0, 1),
        "poly_power": (0, 10),
        "momentum": (0, 1),
        "rms_decay": (0, 1),
        "optimizer_eps": (0, 10),
        "weight_decay": (0, 10),
        "flip": (0, 1),
        "ema_decay": (0, 0.999999),
        "clip_gradient_norm": (0, 1e6),
        "batch_norm_momentum": (0, 1),
        "val_fraction": (0.001, 0.9),
        "seed": (0, 2**31),
        "workers": (-1, 256),
        "save_every_s": (0, 1e9),
    }

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise UserError(f"{name} {value!r} is out of range; give {low:g} to {high:g}")
        if self.qat and self.pretrained == "none":
            raise UserError(
                "qat needs a trained model to begin with; name its file by --set pretrained=MODEL.safetensors"
            )
