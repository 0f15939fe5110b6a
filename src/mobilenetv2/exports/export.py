"""Writing a model for another runtime: into a folder aside, proved there on pictures, then renamed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import ExportError, UserError
from mobilenetv2.exports.difference import first_difference
from mobilenetv2.exports.onnx import FILE
from mobilenetv2.exports.parity import LEAST_INT8_AGREEMENT, Comparison, agreement, compare
from mobilenetv2.exports.target import Target
from mobilenetv2.files import reason, write_aside
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.predictions import Prediction
from mobilenetv2.quantization.prepare import Preparation, prepare
from mobilenetv2.quantization.report import QuantisationReport, report_layers
from mobilenetv2.runtime.drawn import draw_pictures
from mobilenetv2.runtime.exported import CARD_FILE, Export, read_export, write_card
from mobilenetv2.runtime.graph_form import ANY_PICTURES, GraphForm
from mobilenetv2.runtime.images import Source, name_of, open_image
from mobilenetv2.runtime.predictor import Predictor, predictor_of, predictor_of_export, predictor_of_graph

# Far below what is shown, so that there are many boxes to compare.
PROOF_SCORE = 0.01
# Of the steps of 8 bits on each side of 0, where the runtime's own tool makes them.
OWN_LEVELS = 127
_LAYER_PICTURES = 16


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, and how it was checked.

    pictures: how many were answered by both sides; none where nothing here can run the target, and not_run says why.
    largest_difference: of any probability, or score of a box, of any picture, 0..1.
    boxes: of a detector, how many were found by both sides. least_iou: the least overlap of any two that belong
    together, 0..1. pixels: of a segmenter, how many were compared; different: how many of them are of another class.
    None for models of other tasks.
    agreement: of a model in 8 bits, 0..1: the share of pictures, boxes or pixels that are answered alike; the others
    are then None. speed: how many times as fast as the model file it answered the pictures, both in turns, on this
    machine. layers: what 8 bits cost, layer by layer, if that was asked for. None in float32.
    """

    path: Path
    pictures: int
    file_bytes: int
    largest_difference: float | None = None
    boxes: int | None = None
    least_iou: float | None = None
    pixels: int | None = None
    different: int | None = None
    agreement: float | None = None
    speed: float | None = None
    layers: QuantisationReport | None = None
    not_run: str = ""

    def to_text(self) -> str:
        """One line: how many pictures, how near, and the size of the file."""
        size = f"{self.file_bytes / 1e6:.1f} MB"
        if self.not_run:
            return f"names, shapes and every weight are the model's, not run ({self.not_run}), {size}"
        noun = "picture" if self.pictures == 1 else "pictures"
        if self.agreement is not None:
            faster = "" if self.speed is None else f"{self.speed:.2f} times as fast here, "
            return f"{self.pictures} {noun} in 8 bits, {self.agreement:.1%} answered as in float32, {faster}{size}"
        text = f"{self.pictures} {noun} answered alike, "
        if self.boxes is not None:
            noun = "box" if self.boxes == 1 else "boxes"
            text += f"{self.boxes} {noun}, least overlap (IoU) {self.least_iou:.4f}, "
        if self.pixels is not None:
            return f"{text}{self.different:,} of {self.pixels:,} pixels of another class, {size}"
        kind = "probability" if self.boxes is None else "score"
        return f"{text}largest difference of a {kind} {self.largest_difference:.1e}, {size}"


def export_model(
    model: ModelFile,
    target: Target,
    out: Path,
    *,
    int8: bool = False,
    calibration: NDArray[np.float32] | None = None,
    preparation: Preparation | None = None,
    by_layer: bool = False,
    form: GraphForm = ANY_PICTURES,
    pictures: Iterable[Source] | None = None,
) -> ExportReport:
    """Write `model` for a target to `out`: a file for ONNX, else a folder with a `card.json`.

    int8: in 8 bits. calibration: pictures for that, (N, 3, H, W), preprocessed; None for the ranges of the card.
    preparation: for 8 bits; the target's own if None. by_layer: whether the report tells what each layer lost, as our
    own graph has it in 8 bits, on a few of the calibration pictures. form: of an ONNX graph. pictures: to prove
    it with, nine drawn ones if None; they are resized where the form fixes their size.
    What was written answers them in its own runtime, the model file answers the same in onnxruntime with Pillow's
    preprocessing. Only where `parity.compare` finds all of them alike is it renamed to `out`; in 8 bits, where
    `parity.agreement` is .85 or more. Where nothing here can run the target, its writer checks the file instead, and
    pictures must be None. A detector shows all boxes of a score above .01 for that, in 8 bits of that of
    its card.
    Raises ExportError, which names the picture and the first layer that differs; ImageError for a picture that cannot
    be read; UserError if there is none, no box is in any, or the place cannot be written.
    """
    prepared = model
    if int8:
        levels = Preparation(levels=OWN_LEVELS) if target.own_levels else Preparation()
        prepared = prepare(model, calibration, preparation or levels)
    _check_place(out, target)
    if target.not_run and pictures is not None:
        raise UserError(f"pictures cannot prove an export to {target.name}, as {target.not_run}; leave them out")
    if form != ANY_PICTURES and not target.is_file:
        raise UserError(f"raw outputs, batch, size and order of colours can be chosen for onnx, not for {target.name}")
    sources = list(draw_pictures() if pictures is None else pictures)
    if form.size_hw is not None:
        height, width = form.size_hw
        sources = [open_image(source).resize((width, height)) for source in sources]
    if not sources:
        raise UserError(f"no pictures to check the export with; give some, or leave them out; {out} was not written")
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=_parent(out)) as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        if target.own_levels:
            target.write(prepared, folder, calibration=calibration if int8 else None)
        elif target.is_file:
            target.write(prepared, folder, int8=int8, form=form)
        else:
            target.write(prepared, folder, int8=int8)
        precision = "int8" if int8 else "float32"
        if target.is_file:
            content = (folder / FILE).read_bytes()
        else:
            write_card(Export(folder=folder, target=target.name, precision=precision, card=prepared.card))
        file_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if target.not_run:
            report = ExportReport(path=out, pictures=0, file_bytes=file_bytes, not_run=target.not_run)
        else:
            score_threshold = PROOF_SCORE if model.card.task == "detect" and not int8 else None
            ours = predictor_of(model, score_threshold=score_threshold)
            if target.is_file:
                theirs = predictor_of_graph(content, source=str(out), score_threshold=score_threshold)
            else:
                theirs = predictor_of_export(read_export(folder), score_threshold=score_threshold)
            prove = _prove_int8 if int8 else _prove
            report = prove(model, target, out, ours, theirs, sources, file_bytes)
        if by_layer and calibration is not None:
            report = replace(report, layers=report_layers(model, prepared, calibration[:_LAYER_PICTURES]))
        _into_place(folder, out, target)
    return report


def _prove(
    model: ModelFile,
    target: Target,
    out: Path,
    ours: Predictor,
    theirs: Predictor,
    sources: Sequence[Source],
    file_bytes: int,
) -> ExportReport:
    comparisons: list[Comparison] = []
    for source in sources:
        comparison = compare(ours.predict(source), theirs.predict(source), ours.card)
        if comparison.problem:
            name = name_of(source) or f"picture {len(comparisons) + 1}"
            where = first_difference(model, target, source)
            raise ExportError(f"{name}: {comparison.problem}; {where}; {out} was not written")
        comparisons.append(comparison)
    task = model.card.task
    detects, segments = task == "detect", task == "segment"
    boxes = sum(comparison.boxes for comparison in comparisons)
    if detects and not boxes:
        raise UserError(
            "nothing was found in the pictures, so there is nothing to check the export with; give pictures of what "
            f"the model detects; {out} was not written"
        )
    return ExportReport(
        path=out,
        pictures=len(comparisons),
        largest_difference=max(comparison.largest_difference for comparison in comparisons),
        file_bytes=file_bytes,
        boxes=boxes if detects else None,
        least_iou=min(comparison.least_iou for comparison in comparisons) if detects else None,
        pixels=sum(comparison.pixels for comparison in comparisons) if segments else None,
        different=sum(comparison.different for comparison in comparisons) if segments else None,
    )


def _prove_int8(
    model: ModelFile,
    target: Target,
    out: Path,
    ours: Predictor,
    theirs: Predictor,
    sources: Sequence[Source],
    file_bytes: int,
) -> ExportReport:
    answers = [(ours.predict(source), theirs.predict(source)) for source in sources]
    shares = [agreement(expected, found) for expected, found in answers]
    share = float(np.mean(shares))
    # Written so that NaN fails too.
    if not share >= LEAST_INT8_AGREEMENT:
        worst = sources[int(np.argmin(shares))]
        raise ExportError(
            f"in 8 bits only {share:.1%} is answered as in float32 (worst: {name_of(worst) or 'a drawn picture'}); "
            f"calibrate with more pictures, of the kind that the model is for; {out} was not written"
        )
    speed = float(np.median([_ms(expected) / _ms(found) for expected, found in answers]))
    return ExportReport(path=out, pictures=len(shares), file_bytes=file_bytes, agreement=share, speed=speed)


def _ms(answer: Prediction) -> float:
    """All but the decoding: an exported graph may do its preprocessing itself."""
    return answer.ms.preprocess + answer.ms.network + answer.ms.postprocess


def _parent(out: Path) -> Path:
    """Where the folder aside goes: beside `out`, so that it can be renamed."""
    parent = out.parent
    if not parent.is_dir():
        raise UserError(f"{out}: there is no folder {parent}; make it first")
    return parent


def _check_place(out: Path, target: Target) -> None:
    """An earlier export is replaced; whatever else stands there is not."""
    if target.is_file:
        if out.is_dir():
            raise UserError(f"{out}: is a folder; give the name of a file")
    elif out.exists() and not (out / CARD_FILE).is_file():
        raise UserError(f"{out}: is there already, and is no export; give another name by --out")


def _into_place(folder: Path, out: Path, target: Target) -> None:
    if target.is_file:
        write_aside(out, (folder / FILE).read_bytes())
        return
    try:
        if out.exists():
            # Both renames are whole, so that there is never half of an export; the old one goes with the scratch.
            shutil.move(out, folder.parent / "replaced")
        folder.rename(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {reason(error)}") from error
