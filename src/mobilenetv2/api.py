"""Every verb of the command line as a function. What needs torch imports it when called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenetv2.errors import ImageError, MissingExtraError, UserError, did_you_mean
from mobilenetv2.modelfile import load_model_file
from mobilenetv2.runtime.images import expand_sources
from mobilenetv2.runtime.predictor import DEFAULT_MODEL, find_model, load

if TYPE_CHECKING:
    from mobilenetv2.benchmarking.report import BenchmarkReport
    from mobilenetv2.data.diagnosis import Diagnosis
    from mobilenetv2.description import Description
    from mobilenetv2.evaluation import AnyEvaluation
    from mobilenetv2.exports.export import ExportReport
    from mobilenetv2.paper.page import Exhibit
    from mobilenetv2.predictions import Prediction
    from mobilenetv2.weights.catalogue import ModelRow
    from mobilenetv2.weights.conversion import Conversion


# Of those that 8 bits are calibrated with, so many show what they changed.
PROOF_PICTURES = 64


def predict(
    *sources: str | PathLike[str],
    model: str | PathLike[str] = DEFAULT_MODEL,
    engine: str | None = None,
    threads: int | None = None,
    score_threshold: float | None = None,
    tiles: bool = False,
) -> Iterator[Prediction | ImageError]:
    """The answer for every picture of paths, folders, globs, addresses and '-' (stdin), one after another.

    engine: what computes the network, a name of `runtime.engines.ENGINES`; None for the model's own.
    score_threshold: of a detector, 0..1; None for the model's own. tiles: of a segmenter, whether large pictures are
    looked at piece by piece, at their own resolution.
    A picture that cannot be read yields its ImageError, and the others go on. For single pictures in
    memory use `mobilenetv2.load(model).predict(...)`.
    Raises UserError if there are no pictures, ModelFileError for the model.
    """
    predictor = load(model, engine=engine, threads=threads, score_threshold=score_threshold, tiles=tiles)
    for source in expand_sources([str(source) for source in sources]):
        try:
            yield predictor.predict(source)
        except ImageError as error:
            yield error


def train(
    task: str | None = None,
    *,
    data: str | PathLike[str] | None = None,
    out: str | PathLike[str] | None = None,
    name: str | None = None,
    recipe: str | None = None,
    settings: Iterable[str] = (),
    width: float | None = None,
    resolution: int | tuple[int, int] | None = None,
    weights: str | PathLike[str] | None = None,
    qat: str | PathLike[str] | None = None,
    skip_bad: bool = False,
    resume: str | PathLike[str] | None = None,
) -> Path:
    """Train on a folder or `.zip` of pictures, or go on with a stopped run; returns the run's folder.

    task: "classify", of pictures in a folder for each class, "detect", of boxes in COCO, Pascal VOC or YOLO form, or
    "segment", of masks as PNG, in Pascal VOC or COCO form. None is the task of `qat`, else "classify".
    out: the run's folder, by default the first free `runs/TASK-N`. name: of the model, by default the
    data's. recipe ("transfer" if None), settings: see `mobilenetv2.training.recipes`; settings are "name=value".
    resolution: of the input in pixels, square, or (segment alone) height and width.
    weights: a file of pretrained weights, instead of fetching them. qat: a trained model, which goes on by its own
    recipe, for 8 bits (`recipes.resolve_qat`). skip_bad: go on without pictures that
    cannot be decoded and boxes that cannot be right. resume: the folder of a run; it knows everything else.
    The folder ends with `model.safetensors`, `metrics.jsonl`, `evaluation.json` and `report.html`; the model's card
    holds what the runtime measures on the validation pictures.
    Raises UserError, also when stopped by Ctrl-C (everything is saved).
    """
    from mobilenetv2.training.memory import keep_freed_memory

    keep_freed_memory()  # before torch, which reads its part of it once
    try:
        from mobilenetv2.training import run as runs
        from mobilenetv2.training.recipes import resolve, resolve_qat
    except ModuleNotFoundError as error:
        raise MissingExtraError("training", "train") from error
    start = find_model(qat) if qat is not None else None
    trained = load_model_file(start).card if start else None
    task = task or (trained.task if trained else "classify")
    if task not in runs.TASKS:
        raise UserError(
            f"task {task!r} is not known{did_you_mean(task, runs.TASKS)}; it can be {', '.join(runs.TASKS)}"
        )
    if resume is not None:
        folder = Path(resume)
    else:
        if data is None:
            raise UserError("training needs --data DIR, or --resume RUN to go on with a stopped one")
        sides = {"resolution": resolution}
        if isinstance(resolution, tuple):
            if task != "segment":
                raise UserError(f"resolution {resolution}: for {task!r} it is one number, as the input is square")
            sides = {"resolution": resolution[0], "input_width": resolution[1]}
        if start and trained:
            if task != trained.task:
                raise UserError(f"qat {qat}: is for task {trained.task!r}, not {task!r}")
            if recipe is not None:
                raise UserError(f"recipe {recipe}: a model given as qat goes on by its own; change it by its settings")
            chosen = resolve_qat(trained, str(start.absolute()), settings, width=width, **sides)
        else:
            chosen = resolve(task, recipe or "transfer", settings, width=width, **sides)
        run = runs.Run(
            task=task,
            data=str(Path(data).absolute()),
            name=name or (trained.name if trained else Path(data).stem),
            skip_bad=skip_bad,
            weights=str(Path(weights).absolute()) if weights else None,
            recipe=chosen,
        )
        folder = runs.start_run(run, Path(out) if out else runs.next_folder(Path("runs"), task))
    runs.carry_out(folder)
    return folder


def evaluate(
    model: str | PathLike[str],
    data: str | PathLike[str],
    *,
    split: str | None = None,
    engine: str | None = None,
    threads: int | None = None,
    skip_bad: bool = False,
) -> AnyEvaluation:
    """Measure a model on labelled pictures, through the runtime that `predict` uses.

    model, engine, threads: as `load` takes them.
    split: by default `val`, or the only split there is. Raises UserError.
    """
    from mobilenetv2.evaluation import evaluate as measure

    return measure(load(model, engine=engine, threads=threads), Path(data), split=split, skip_bad=skip_bad)


def export(
    model: str | PathLike[str],
    *,
    to: str = "onnx",
    out: str | PathLike[str] | None = None,
    int8: bool = False,
    calibrate: str | PathLike[str] | None = None,
    by_layer: bool = False,
    raw: bool = False,
    batch: int | None = None,
    size_hw: tuple[int, int] | None = None,
    bgr: bool = False,
    pictures: Sequence[Any] | None = None,
) -> ExportReport:
    """Write a model for another runtime, and prove that it answers as this one does.

    to: a name of `exports.target.TARGETS`. out: by default the model's name with the target's, in the current folder.
    int8: in 8 bits. calibrate: for that, a folder or `.zip` of pictures like those that the model is for, best its
    training data. by_layer: whether the report tells what each layer lost. raw, batch, size_hw, bgr: of an ONNX graph,
    see `runtime.graph_form.GraphForm`. pictures: paths, folders or globs to prove it with.
    Raises UserError, and leaves no file, if the two disagree.
    """
    from mobilenetv2.exports.calibration import calibration_images, calibration_pictures
    from mobilenetv2.exports.export import export_model
    from mobilenetv2.exports.target import find_target
    from mobilenetv2.runtime.graph_form import GraphForm

    target, path = find_target(to), find_model(model)
    if calibrate is not None and not int8:
        raise UserError(f"calibrate {calibrate}: is for 8 bits; add --int8, or leave it out")
    if by_layer and calibrate is None:
        raise UserError("what each layer loses in 8 bits shows on pictures; give some by --calibrate DIR")
    loaded = load_model_file(path)
    proof: list[Any] | None = list(expand_sources([str(picture) for picture in pictures])) if pictures else None
    images = None
    if calibrate is not None:
        tree, names = calibration_pictures(Path(calibrate), loaded.card)
        images = calibration_images(tree, names, loaded.card)
        if not target.not_run:
            # Drawn pictures say little about 8 bits.
            proof = proof or [tree.read(name) for name in names[:PROOF_PICTURES]]
    precision = "int8" if int8 else "float32"
    place = Path(out) if out else target.path(path.stem, precision)
    return export_model(
        loaded,
        target,
        place,
        int8=int8,
        calibration=images,
        by_layer=by_layer,
        form=GraphForm(raw=raw, batch=batch, size_hw=size_hw, bgr=bgr),
        pictures=proof,
    )


def benchmark(
    *models: str | PathLike[str],
    threads: Sequence[int] | None = None,
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32),
    rounds: int = 30,
    data: str | PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchmarkReport:
    """Time models against each other, in turns: latency, throughput, memory, start, size, and accuracy on `data`.

    models: whatever `load` takes. threads: numbers of them to try; 1 and all if None. batches: numbers of pictures at
    once. rounds: turns of each. progress: is told what is being done. Raises UserError.
    """
    from mobilenetv2.benchmarking.measure import benchmark as measure

    return measure(
        [str(model) for model in models],
        threads=threads,
        batches=batches,
        rounds=rounds,
        data=Path(data) if data else None,
        progress=progress,
    )


def convert(
    checkpoint: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    settings: Iterable[str] = (),
    name: str | None = None,
    labels: str | PathLike[str] | None = None,
    resolution: int | tuple[int, int] | None = None,
    licence: str = "unknown",
    proof: bool = True,
    pictures: Sequence[Any] | None = None,
) -> Conversion:
    """Make a model file of another library's checkpoint, and prove that it answers as the original does.

    checkpoint: a file of any kind that `weights.checkpoint` knows, or a folder with one. out: by default the
    checkpoint's name with `.safetensors`, in the current folder.
    settings: `name=value` of `weights.conventions.Conventions`.
    labels: a file with a class a line. resolution: side of the input, or height and width, in pixels.
    proof: whether the library that the checkpoint is of, if it is installed, answers `pictures` (paths, folders or
    globs; drawn ones if None) too.
    Raises UserError, in one line, if the checkpoint is not known or damaged, the options do not fit it, or the two
    disagree, and then leaves no file.
    """
    from mobilenetv2.weights.conversion import convert as convert_file

    path = Path(checkpoint)
    sides = (resolution, resolution) if isinstance(resolution, int) else resolution
    return convert_file(
        path,
        Path(out) if out else None,
        settings=settings,
        name=name,
        labels=Path(labels) if labels else None,
        size_hw=sides,
        licence=licence,
        proof=proof,
        pictures=list(expand_sources([str(picture) for picture in pictures])) if pictures else None,
    )


def check(data: str | PathLike[str], *, task: str | None = None) -> Diagnosis:
    """Everything that is wrong, or odd, with a data set.

    task: what it is for, "classify", "detect" or "segment"; found by looking if None, boxes before masks.
    Raises UserError only if no files can be listed, or there is nothing for that task.
    """
    from mobilenetv2.data.doctor import check as diagnose

    return diagnose(Path(data), task=task)


def describe(
    name: str,
    *,
    width: float | None = None,
    resolution: int | None = None,
    output_stride: int | None = None,
) -> Description:
    """Count a network of the paper, or that of a model, layer by layer; see `mobilenetv2.description`."""
    try:
        from mobilenetv2.description import describe as count
    except ModuleNotFoundError as error:
        raise MissingExtraError("describing a network", "train") from error
    return count(name, width=width, resolution=resolution, output_stride=output_stride)


def paper(name: str) -> Exhibit:
    """A table or figure of the paper, ours beside theirs; `mobilenetv2.paper.page.EXHIBITS` has the names."""
    try:
        from mobilenetv2.paper.page import show
    except ModuleNotFoundError as error:
        raise MissingExtraError("the paper's networks", "train") from error
    return show(name)


def write_paper(folder: str | PathLike[str], *, progress: Callable[[str], None] = lambda _: None) -> Path:
    """All of them on one Markdown page with its pictures; returns its path. progress: is told the name of each."""
    try:
        from mobilenetv2.paper.page import write_page
    except ModuleNotFoundError as error:
        raise MissingExtraError("the paper's networks", "train") from error
    return write_page(Path(folder), progress=progress)


def models() -> list[ModelRow]:
    """The models in the box, and the published weights that training can start from."""
    from mobilenetv2.weights.catalogue import list_models

    return list_models()
