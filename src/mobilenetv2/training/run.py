"""A run: a folder that holds one training, from the first check of the data to the model file."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from mobilenetv2.data.boxed import BoxData, read_boxes
from mobilenetv2.data.folder import ImageFolder, read_image_folder
from mobilenetv2.data.masked import MaskData, read_masks
from mobilenetv2.data.pictures import find_bad
from mobilenetv2.errors import DataError, UserError
from mobilenetv2.evaluation import evaluate
from mobilenetv2.files import reason, write_aside
from mobilenetv2.modelfile import load_model_file
from mobilenetv2.runtime.predictor import load
from mobilenetv2.tasks.classify import Classify
from mobilenetv2.tasks.detect import Detect
from mobilenetv2.tasks.segment import Segment
from mobilenetv2.training.loop import MODEL, STATE, Interrupted, train
from mobilenetv2.training.progress import PlainListener, RichListener, TrainingListener
from mobilenetv2.training.recipe import Recipe
from mobilenetv2.training.recipes import RECIPE_KINDS
from mobilenetv2.training.report import write_report

RUN = "run.json"
Data: TypeAlias = ImageFolder | BoxData | MaskData
TASKS: dict[str, Any] = {"classify": Classify, "detect": Detect, "segment": Segment}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run was started with; `run.json` in its folder.

    skip_bad: go on without pictures that cannot be decoded. weights: a file of pretrained weights, or None.
    """

    task: str
    data: str
    name: str
    skip_bad: bool
    weights: str | None
    recipe: Recipe


def start_run(run: Run, folder: Path) -> Path:
    """Make the folder of a new run and write down what it was started with.

    Raises UserError if there is a run already, or the folder cannot be made.
    """
    if (folder / RUN).exists():
        raise UserError(f"{folder}: holds a run already; go on with it by --resume {folder}, or choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {reason(error)}") from error
    write_aside(folder / RUN, (json.dumps(asdict(run), indent=2) + "\n").encode())
    return folder


def load_run(folder: Path) -> Run:
    """Read what a run was started with. Raises UserError if the folder holds none."""
    try:
        values = json.loads((folder / RUN).read_bytes())
        return Run(**{**values, "recipe": RECIPE_KINDS[values["task"]](**values["recipe"])})
    except OSError as error:
        raise UserError(f"{folder}: holds no run ({RUN}: {reason(error)})") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / RUN}: is damaged ({error})") from error


def next_folder(parent: Path, name: str) -> Path:
    """`parent/name-N`, with the smallest N that is free."""
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"


def carry_out(folder: Path) -> None:
    """Train what `folder` describes, from its beginning or from where it was stopped, then measure and report.

    Raises DataError for pictures that cannot be decoded (unless the run skips them), UserError when
    interrupted, saying how to go on.
    """
    run = load_run(folder)
    listener: TrainingListener = RichListener() if sys.stderr.isatty() else PlainListener()
    with listener:
        data = _without_bad(_read(run, listener), run, listener)
        weights = Path(run.weights) if run.weights else None
        # From here on: the network's first weights, dropout, mixup.
        torch.manual_seed(run.recipe.seed)
        task = TASKS[run.task](data, run.recipe, name=run.name, weights=weights)
        listener.begins(data, resuming=(folder / STATE).exists())
        try:
            train(task, run.recipe, folder, listener)
        except Interrupted:
            raise UserError(
                f"stopped; everything is saved. Go on with: mobilenetv2 train {run.task} --resume {folder}"
            ) from None
        listener.say("measuring the model file through the runtime")
        finish(folder, run)


def finish(folder: Path, run: Run) -> None:
    """Measure the run's model file through the runtime, put that into its card, and write the report."""
    path = folder / MODEL
    model = load_model_file(path)
    evaluation = evaluate(load(path), Path(run.data), skip_bad=run.skip_bad)
    replace(model, card=evaluation.completed(model.card)).save(path)
    write_aside(folder / "evaluation.json", (json.dumps(evaluation.to_dict(), indent=2) + "\n").encode())
    write_report(folder, run.recipe, evaluation, model.card.preprocessing.size_hw)


def _read(run: Run, listener: TrainingListener) -> Data:
    path, fraction, seed = Path(run.data), run.recipe.val_fraction, run.recipe.seed
    if run.task == "classify":
        return read_image_folder(path, val_fraction=fraction, seed=seed)
    read, noun = (read_boxes, "annotations") if run.task == "detect" else (read_masks, "masks")
    data: BoxData | MaskData = read(path, val_fraction=fraction, seed=seed, skip_bad=run.skip_bad)
    if data.problems:
        listener.say(f"{run.data}: left out {len(data.problems)} bad {noun} (first: {data.problems[0]})")
    return data


def _without_bad(data: Data, run: Run, listener: TrainingListener) -> Data:
    """Decode everything once before hours are spent on it."""
    names = [item.name for split in ("train", "val") for item in data.splits[split]]
    with listener.checking(len(names)) as tick:
        bad = find_bad(data.tree, names, tick)
    if not bad:
        return data
    problem = next(iter(bad.values()))
    summary = f"{run.data}: {len(bad)} of {len(names)} images cannot be decoded (first: {problem})"
    if not run.skip_bad:
        raise DataError(f"{summary}. Run 'mobilenetv2 check {run.data}' for all, or go on without them by --skip-bad")
    listener.say(f"{summary}; going on without them")
    kept = data.without(set(bad))
    for name, count in kept.counts("train").items():
        if not count:
            raise DataError(f"{run.data}: no picture of class {name!r} can be decoded")
    return kept
