"""Whether two answers for one picture are the same, as far as rounding goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.boxes import Boxes, pairwise_iou
from mobilenetv2.modelfile import Card
from mobilenetv2.predictions import Classification, Detections, Prediction, Segmentation

MAX_DIFFERENCE = 1e-3
LEAST_IOU = 0.99
LEAST_AGREEMENT = 0.999
# The least mean of `agreement` that an export in 8 bits must have.
LEAST_INT8_AGREEMENT = 0.85
# Boxes that belong together overlap by that much at least, as in AP50.
_SAME_BOX = 0.5
# Boxes whose edges are this near are the same, in pixels: one beyond the picture has no area that could overlap.
_SAME_EDGES = 1e-3


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How near the answer of an exported model is to that of its model file.

    problem: in what they differ; nothing if they are alike.
    largest_difference: of any probability, or of the scores of any two boxes that belong together, 0..1.
    boxes: how many boxes belong together. least_iou: of any such two, 0..1; 1 without boxes.
    pixels: of a mask. different: how many of them are of another class.
    """

    problem: str
    largest_difference: float
    boxes: int = 0
    least_iou: float = 1.0
    pixels: int = 0
    different: int = 0


def compare(expected: Prediction, found: Prediction, card: Card) -> Comparison:
    """The model file's answer and the exported model's, for one picture.

    Classifications are alike if the best class is the same and all probabilities are within .001. Detections are
    alike if each box has one of its own on the other side, of the same class, with an overlap (IoU) above .99 and a
    score within .001. Only a box as near as that to the score threshold, or to the last score where there are as
    many boxes as a picture may have, may be missing. The order does not count. Masks are alike if at least 99.9 % of
    the pixels are of the same class.
    """
    if isinstance(expected, Classification) and isinstance(found, Classification):
        return _compare_classes(expected, found)
    if isinstance(expected, Detections) and isinstance(found, Detections):
        return _compare_boxes(expected, found, card)
    if isinstance(expected, Segmentation) and isinstance(found, Segmentation):
        return _compare_masks(expected, found)
    raise TypeError(f"{type(expected).__name__} and {type(found).__name__} cannot be compared")


def agreement(expected: Prediction, found: Prediction) -> float:
    """How much of an answer 8 bits have kept, 0..1.

    Of a classification 1 if the best class is the same, else 0; of a mask the share of pixels that are of the same
    class; of boxes the F1 score of those found against those expected, where two belong together that are of one class
    and overlap by half (1 if there are none on either side).
    """
    if isinstance(expected, Classification) and isinstance(found, Classification):
        return float(found.best.index == expected.best.index)
    if isinstance(expected, Segmentation) and isinstance(found, Segmentation):
        return float((expected.mask == found.mask).mean())
    if isinstance(expected, Detections) and isinstance(found, Detections):
        if not len(expected) and not len(found):
            return 1.0
        same = pairwise_iou(expected.boxes_xyxy, found.boxes_xyxy) >= _SAME_BOX
        same &= expected.labels[:, None] == found.labels[None]
        # Each box is used once: no more belong together than have a partner on either side.
        together = min(int(same.any(axis=0).sum()), int(same.any(axis=1).sum()))
        return 2 * together / (len(expected) + len(found))
    raise TypeError(f"{type(expected).__name__} and {type(found).__name__} cannot be compared")


def _compare_classes(expected: Classification, found: Classification) -> Comparison:
    difference = float(np.abs(found.scores - expected.scores).max())
    problem = ""
    # Written so that NaN fails too.
    if not difference <= MAX_DIFFERENCE or found.best.index != expected.best.index:
        problem = (
            f"the exported model answers {found.best.name!r} ({found.best.score:.4f}), the model file "
            f"{expected.best.name!r} ({expected.best.score:.4f}); largest difference {difference:.2g}, "
            f"allowed {MAX_DIFFERENCE:g}"
        )
    return Comparison(problem=problem, largest_difference=difference)


def _compare_masks(expected: Segmentation, found: Segmentation) -> Comparison:
    pixels = expected.mask.size
    different = int((expected.mask != found.mask).sum()) if expected.mask.shape == found.mask.shape else pixels
    problem = ""
    if different > (1 - LEAST_AGREEMENT) * pixels:
        problem = (
            f"the exported model gives {different:,} of {pixels:,} pixels another class than the model file, "
            f"allowed are {1 - LEAST_AGREEMENT:.1%}"
        )
    return Comparison(problem=problem, largest_difference=0.0, pixels=pixels, different=different)


def _compare_boxes(expected: Detections, found: Detections, card: Card) -> Comparison:
    overlaps = _overlaps(expected.boxes_xyxy, found.boxes_xyxy)
    differences = np.abs(expected.scores[:, None] - found.scores[None])
    alike = (overlaps > LEAST_IOU) & (differences <= MAX_DIFFERENCE) & (expected.labels[:, None] == found.labels[None])
    pairs: list[tuple[int, int]] = []
    free = np.ones(len(found), bool)
    for index in range(len(expected)):
        partners = np.flatnonzero(alike[index] & free)
        if len(partners):
            partner = int(partners[overlaps[index, partners].argmax()])
            free[partner] = False
            pairs.append((index, partner))
    paired = np.array(pairs, np.int64).reshape(-1, 2)
    _, postprocessing = card.detection
    for here, there, place, sides in (
        (expected, found, 0, ("the model file", "the exported model")),
        (found, expected, 1, ("the exported model", "the model file")),
    ):
        least = postprocessing.score_threshold
        if len(there) >= postprocessing.max_detections:
            least = float(there.scores.min())
        for index in np.setdiff1d(np.arange(len(here)), paired[:, place]):
            # Written so that NaN fails too.
            if not here.scores[index] <= least + MAX_DIFFERENCE:
                box = here.boxes[index]
                edges = ", ".join(f"{edge:.1f}" for edge in box.box_xyxy)
                problem = f"{sides[0]} finds {box.name!r} ({box.score:.4f}) at {edges}, where {sides[1]} does not"
                return Comparison(problem=problem, largest_difference=0.0)
    matched = paired[:, 0], paired[:, 1]
    return Comparison(
        problem="",
        largest_difference=float(differences[matched].max(initial=0)),
        boxes=len(pairs),
        least_iou=float(overlaps[matched].min(initial=1)),
    )


def _overlaps(first_xyxy: Boxes, second_xyxy: Boxes) -> NDArray[np.float32]:
    same = (np.abs(first_xyxy[:, None] - second_xyxy[None]) <= _SAME_EDGES).all(axis=2)
    return np.where(same, np.float32(1), pairwise_iou(first_xyxy, second_xyxy))
