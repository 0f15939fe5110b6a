"""What each task makes of the arrays that a network or an exported graph answers with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.anchors import anchor_grid
from mobilenetv2.modelfile import Card
from mobilenetv2.predictions import Classification, Detections, Prediction, Segmentation, Timing
from mobilenetv2.runtime import segment
from mobilenetv2.runtime.detect import Found, decode

Outputs = tuple[NDArray[Any], ...]
# Of one picture: a classifier's probabilities, a detector's boxes in pixels of the picture, or a segmenter's mask.
Answer = NDArray[Any] | Found


class AnswerReader(Protocol):
    """From outputs to one answer for each picture, in their order."""

    def of_network(self, outputs: Outputs, sizes_hw: Sequence[tuple[int, int]]) -> Sequence[Answer]:
        """Raw outputs of the bare network. sizes_hw: of the pictures, in pixels."""

    def of_graph(self, outputs: Outputs, pictures: int) -> Sequence[Answer]:
        """Outputs of an exported graph, which has done all of it already for that many pictures."""


class ClassifyReader:
    """Logits or probabilities (N, num_classes)."""

    def of_network(self, outputs: Outputs, sizes_hw: Sequence[tuple[int, int]]) -> Sequence[Answer]:
        (logits,) = outputs
        return list(softmax(logits))

    def of_graph(self, outputs: Outputs, pictures: int) -> Sequence[Answer]:
        (probabilities,) = outputs
        return list(probabilities)


class DetectReader:
    """Raw class logits and box codes, or boxes, scores, labels and which picture each is of."""

    def __init__(self, card: Card) -> None:
        detector, self._postprocessing = card.detection
        self._anchors_xyxy = anchor_grid(card.preprocessing.size_hw, detector.anchors)

    def of_network(self, outputs: Outputs, sizes_hw: Sequence[tuple[int, int]]) -> Sequence[Answer]:
        class_logits, box_codes = outputs
        found = decode(class_logits, box_codes, self._anchors_xyxy, self._postprocessing)
        return [one.in_pixels(size_hw) for one, size_hw in zip(found, sizes_hw, strict=True)]

    def of_graph(self, outputs: Outputs, pictures: int) -> Sequence[Answer]:
        boxes_xyxy, scores, labels, picture = outputs
        return [
            Found(boxes_xyxy=boxes_xyxy[own], scores=scores[own], labels=labels[own])
            for own in (picture == index for index in range(pictures))
        ]


class SegmentReader:
    """Logits (N, num_classes, h, w), or masks (N, H, W)."""

    def of_network(self, outputs: Outputs, sizes_hw: Sequence[tuple[int, int]]) -> Sequence[Answer]:
        (logits,) = outputs
        return [segment.decode(one, size_hw) for one, size_hw in zip(logits, sizes_hw, strict=True)]

    def of_graph(self, outputs: Outputs, pictures: int) -> Sequence[Answer]:
        (masks,) = outputs
        return list(masks)


def reader_for(card: Card) -> AnswerReader:
    """How the answers of this model are read."""
    if card.task == "detect":
        return DetectReader(card)
    return SegmentReader() if card.task == "segment" else ClassifyReader()


def record(answer: Answer, *, card: Card, size_hw: tuple[int, int], source: str, ms: Timing) -> Prediction:
    """The answer for one picture as users get it."""
    about: dict[str, Any] = {"names": card.labels, "model": card.name, "size_hw": size_hw, "source": source, "ms": ms}
    if isinstance(answer, Found):
        return Detections(boxes_xyxy=answer.boxes_xyxy, scores=answer.scores, labels=answer.labels, **about)
    return Segmentation(mask=answer, **about) if card.task == "segment" else Classification(scores=answer, **about)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., num_classes) -> probabilities of sum 1."""
    powers: NDArray[np.float64] = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities = powers / powers.sum(axis=-1, keepdims=True)
    return np.asarray(probabilities, np.float32)
