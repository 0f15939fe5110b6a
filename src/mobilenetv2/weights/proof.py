"""Whether a converted model answers as the original does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mobilenetv2.errors import ExportError
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.predictions import Classification, Segmentation
from mobilenetv2.preprocessing import resize
from mobilenetv2.runtime.drawn import draw_pictures
from mobilenetv2.runtime.images import Source, open_image
from mobilenetv2.runtime.predictor import predictor_of
from mobilenetv2.weights.conventions import with_input_as_it_is
from mobilenetv2.weights.references import Reference

MAX_DIFFERENCE = 1e-3  # of a probability, where both compute in floating point
LEAST_PIXELS = 0.999  # of the same class


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How near a converted model is to its original, on pictures of the input's size.

    reference: what ran the original. rounds: whether it computed in 8 bits, where answers differ by its rounding.
    agreement: share of pictures with the same best class, or of pixels of the same class, 0..1. with_ties: the same,
        counting pictures for which the original gives its highest probability to several classes, ours among them.
    largest_difference, mean_difference: of probabilities; None for masks.
    """

    reference: str
    rounds: bool
    pictures: int
    agreement: float
    with_ties: float
    largest_difference: float | None
    mean_difference: float | None

    def to_text(self) -> str:
        """One line."""
        noun = "picture" if self.pictures == 1 else "pictures"
        text = f"{self.pictures} {noun} answered by {self.reference} too: "
        if self.largest_difference is None:
            return f"{text}{self.agreement:.2%} of the pixels are of the same class{self._rounding()}"
        ties = "" if self.with_ties == self.agreement else f" ({self.with_ties:.1%} counting the original's ties)"
        return (
            f"{text}the same best class for {self.agreement:.1%}{ties}, difference of a probability at most "
            f"{self.largest_difference:.1e}, on average {self.mean_difference:.1e}{self._rounding()}"
        )

    def _rounding(self) -> str:
        return "; the original computes in 8 bits" if self.rounds else ""


def prove(model: ModelFile, reference: Reference, pictures: Iterable[Source] | None = None) -> Proof:
    """Answer pictures (nine drawn ones if None) by both, after one and the same resize, and compare.

    Raises ExportError where both compute in floating point and a best class differs, a probability by more than
    .001, or more than .1 % of the pixels; ImageError for a picture that cannot be read.
    """
    predictor = predictor_of(with_input_as_it_is(model))
    same: list[float] = []
    tied: list[float] = []
    differences: list[Any] = []
    for source in draw_pictures() if pictures is None else pictures:
        picture = np.asarray(resize(open_image(source), model.card.preprocessing))
        theirs, ours = reference.answer(picture), predictor.predict(Image.fromarray(picture))
        if isinstance(ours, Segmentation):
            same.append(float((ours.mask == theirs).mean()))
            tied.append(same[-1])
            continue
        assert isinstance(ours, Classification)
        same.append(float(ours.best.index == theirs.argmax()))
        tied.append(float(theirs[ours.best.index] == theirs.max()))
        differences.append(np.abs(ours.scores - theirs))
    proof = Proof(
        reference=reference.title,
        rounds=reference.rounds,
        pictures=len(same),
        agreement=float(np.mean(same)),
        with_ties=float(np.mean(tied)),
        largest_difference=float(np.max(differences)) if differences else None,
        mean_difference=float(np.mean(differences)) if differences else None,
    )
    if not reference.rounds:
        _insist(proof)
    return proof


def _insist(proof: Proof) -> None:
    if proof.largest_difference is None:
        holds = proof.agreement >= LEAST_PIXELS
    else:
        # Written so that NaN fails too. Classes a hair apart may change places.
        holds = proof.largest_difference <= MAX_DIFFERENCE
    if not holds:
        raise ExportError(
            f"the converted model does not answer as the original: {proof.to_text()}; nothing was written "
            "(--no-proof writes it all the same)"
        )
