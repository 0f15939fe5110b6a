"""Export to ONNX: pictures in, answers out, checked on real pictures before it is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mobilenetv2.errors import ExportError, UserError
from mobilenetv2.exports.parity import Comparison, compare
from mobilenetv2.files import write_aside
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.runtime.drawn import draw_pictures
from mobilenetv2.runtime.graph import picture_graph
from mobilenetv2.runtime.images import Source, name_of
from mobilenetv2.runtime.predictor import predictor_of, predictor_of_graph

# Far below what is shown, so that there are many boxes to compare.
PROOF_SCORE = 0.01


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, and how it was checked.

    pictures: how many were answered by both sides.
    largest_difference: of any probability, or score of a box, of any picture, 0..1.
    boxes: of a detector, how many were found by both sides. least_iou: the least overlap of any two that belong
    together, 0..1. pixels: of a segmenter, how many were compared; different: how many of them are of another class.
    None for models of other tasks.
    """

    path: Path
    pictures: int
    largest_difference: float
    file_bytes: int
    boxes: int | None = None
    least_iou: float | None = None
    pixels: int | None = None
    different: int | None = None

    def to_text(self) -> str:
        """One line: how many pictures, how near, and the size of the file."""
        size = f"{self.file_bytes / 1e6:.1f} MB"
        noun = "picture" if self.pictures == 1 else "pictures"
        text = f"{self.pictures} {noun} answered alike, "
        if self.boxes is not None:
            noun = "box" if self.boxes == 1 else "boxes"
            text += f"{self.boxes} {noun}, least overlap (IoU) {self.least_iou:.4f}, "
        if self.pixels is not None:
            return f"{text}{self.different:,} of {self.pixels:,} pixels of another class, {size}"
        kind = "probability" if self.boxes is None else "score"
        return f"{text}largest difference of a {kind} {self.largest_difference:.1e}, {size}"


def export_onnx(model: ModelFile, path: Path, *, pictures: Iterable[Source] | None = None) -> ExportReport:
    """Write `model` as an `.onnx` file that holds its preprocessing, what follows its network, and its card.

    The file is in memory first and answers `pictures` (nine drawn ones if None) in onnxruntime; the
    runtime answers the same from the model file with Pillow's preprocessing. Only where `parity.compare` finds
    all of them alike is anything written; a detector shows all boxes of a score above .01 for that.
    Raises ExportError, which names the picture, where they differ; ImageError for a picture that cannot be
    read; UserError if there is none, no box is in any, or the file cannot be written.
    """
    content = picture_graph(model)
    task = model.card.task
    detects = task == "detect"
    score_threshold = PROOF_SCORE if detects else None
    ours = predictor_of(model, score_threshold=score_threshold)
    theirs = predictor_of_graph(content, source=str(path), score_threshold=score_threshold)
    comparisons: list[Comparison] = []
    for source in draw_pictures() if pictures is None else pictures:
        comparison = compare(ours.predict(source), theirs.predict(source), ours.card)
        if comparison.problem:
            name = name_of(source) or f"picture {len(comparisons) + 1}"
            raise ExportError(f"{name}: {comparison.problem}; {path} was not written")
        comparisons.append(comparison)
    if not comparisons:
        raise UserError(f"no pictures to check the export with; give some, or leave them out; {path} was not written")
    boxes = sum(comparison.boxes for comparison in comparisons)
    if detects and not boxes:
        raise UserError(
            "nothing was found in the pictures, so there is nothing to check the export with; give pictures of what "
            f"the model detects; {path} was not written"
        )
    write_aside(path, content)
    return ExportReport(
        path=path,
        pictures=len(comparisons),
        largest_difference=max(comparison.largest_difference for comparison in comparisons),
        file_bytes=len(content),
        boxes=boxes if detects else None,
        least_iou=min(comparison.least_iou for comparison in comparisons) if detects else None,
        pixels=sum(comparison.pixels for comparison in comparisons) if task == "segment" else None,
        different=sum(comparison.different for comparison in comparisons) if task == "segment" else None,
    )
