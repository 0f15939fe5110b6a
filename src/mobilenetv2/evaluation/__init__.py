"""How good a model is: measured on the file that is shipped, through the runtime that ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mobilenetv2.evaluation.classify import Evaluation, evaluate_classifier
from mobilenetv2.evaluation.detect import DetectionEvaluation, evaluate_detector
from mobilenetv2.runtime.predictor import Predictor

__all__ = ["AnyEvaluation", "DetectionEvaluation", "Evaluation", "evaluate"]

AnyEvaluation = Evaluation | DetectionEvaluation


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
        boxes that cannot be right. tick: called with the number of pictures just done.
    Raises DataError for classes that the model does not know, and, unless `skip_bad`, for what is bad.
    """
    measure = evaluate_detector if predictor.card.task == "detect" else evaluate_classifier
    return measure(predictor, path, split=split, skip_bad=skip_bad, tick=tick)
