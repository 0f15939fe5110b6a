"""All that is done to a model before it is written in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.architecture import Convolution
from mobilenetv2.errors import UserError
from mobilenetv2.modelfile import Card, ModelFile
from mobilenetv2.quantization.equalise import equalise
from mobilenetv2.quantization.folded import rows
from mobilenetv2.quantization.observed import observe
from mobilenetv2.quantization.rounded_weights import round_weights
from mobilenetv2.runtime.graph_network import WEIGHT_LEVELS


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a model is made ready for 8 bits.

    equalise: whether channels are scaled first. correct: whether biases make up for what rounding moves.
    levels: of weights, to each side of 0; 63 where overflow threatens (`graph_network.WEIGHT_LEVELS`), else 127.
    """

    equalise: bool = True
    correct: bool = True
    levels: int = WEIGHT_LEVELS


def prepare(
    model: ModelFile, images: NDArray[np.float32] | None, preparation: Preparation = Preparation()
) -> ModelFile:
    """The model with weights on the levels of 8 bits, and the ranges of its activations in its card.

    images: pictures to calibrate with, (N, 3, H, W), preprocessed. None for a model whose card knows the ranges
    already, because it was trained for 8 bits (`qat`) or comes from a quantised checkpoint: its weights stay
    as they are.
    The raw outputs have no range, so that they stay float32: class logits and box codes never share a scale.
    Raises UserError where there are neither pictures nor ranges.
    """
    if images is None:
        ranges = model.card.activation_ranges
        if not ranges:
            raise UserError(
                f"model {model.card.name!r} does not know the ranges of its activations; "
                "give pictures like those that it was trained on by --calibrate DIR"
            )
        return _with_ranges(model, ranges)
    observed = observe(model, images)
    if preparation.equalise:
        model = equalise(model, observed)
        observed = observe(model, images)
    model = round_weights(model, observed, levels=preparation.levels, correct=preparation.correct)
    return _with_ranges(model, observe(model, images).ranges)


def _with_ranges(model: ModelFile, ranges: dict[str, tuple[float, float]]) -> ModelFile:
    last = {plan.name for plan in last_layers(model.card)}
    inner = {name: ends for name, ends in ranges.items() if name not in last and ends[0] < ends[1]}
    return replace(model, card=replace(model.card, activation_ranges=inner, activation_levels=0))


def last_layers(card: Card) -> list[Convolution]:
    """Those whose results are the raw outputs: they have neither activation nor batch norm."""
    return [plan for row in rows(card.architecture) for plan in row if not plan.has_norm]
