"""How good a model is: measured on the file that is shipped, through the runtime that ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mobilenetv2.evaluation.classify import Evaluation, evaluate_classifier
from mobilenetv2.evaluation.detect import DetectionEvaluation, evaluate_detector
from mobilenetv2.evaluation.segment import SegmentationEvaluation, evaluate_segmenter
from mobilenetv2.runtime.predictor import Predictor

__all__ = ["AnyEvaluation", "DetectionEvaluation", "Evaluation", "SegmentationEvaluation", "evaluate"]

AnyEvaluation = Evaluation | DetectionEvaluation | SegmentationEvaluation

_MEASURES: dict[str, Callable[..., AnyEvaluation]] = {
    "classify": evaluate_classifier,
    "detect": evaluate_detector,
    "segment": evaluate_segmenter,
}


def evaluate(
    predictor: Predictor,
    path: Path,
    *,
    split: str | None = None,
    skip_bad: bool = False,
    tick: Callable[[int], None] = lambda _: None,
) -> AnyEvaluation:
    """Answer every picture of a split and measure, by the model's task.

    split: by default `val`, or the only split there is; where the data is what the model was trained on and `val`
        was split off by seed, just those pictures. skip_bad: go on without pictures that cannot be decoded and
        boxes and masks that cannot be right. tick: called with the number of pictures just done.
    Raises DataError for classes that the model does not know, and, unless `skip_bad`, for what is bad.
    """
    measure = _MEASURES[predictor.card.task]
    return measure(predictor, path, split=split, skip_bad=skip_bad, tick=tick)
