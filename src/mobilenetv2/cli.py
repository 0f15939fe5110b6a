"""The command line: one thin function for each verb. stdout is data, stderr is for people.

`from __future__ import annotations` is missing, as Typer reads the annotations of all verbs at every start, and text
takes it three times as long.
"""

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from mobilenetv2.errors import ImageError, UserError

if TYPE_CHECKING:
    from mobilenetv2.predictions import Prediction

app = typer.Typer(
    name="mobilenetv2",
    help="MobileNetV2 as a complete light-weight vision system: check, train, evaluate, export, predict, describe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Data = Annotated[Path, typer.Option("--data", help="A folder, or a .zip of one: class folders, boxes or masks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
Engine = Annotated[
    str | None,
    typer.Option(help="native, onnxruntime, openvino, litert, executorch or ncnn; the fastest that fits by default."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the network; all processors by default.")]


def main() -> NoReturn:
    """Run the command line. Exit codes: 0 done, 1 a fault of ours, 2 the user's input, 130 stopped by Ctrl-C."""
    # Pillow logs what it also raises; an error of the user is one line.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    try:
        app()
    except UserError as error:
        if _debug:
            raise
        print(f"mobilenetv2: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


_debug = False


def _version(wanted: bool) -> None:
    if wanted:
        from mobilenetv2 import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error in the input.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    global _debug
    _debug = debug


@app.command()
def predict(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Picture, folder, glob, URL, or - (stdin).")
    ],
    model: Annotated[str, typer.Option(help="A model file, an export, or the name of a model in the box.")] = "cifar10",
    as_json: AsJson = False,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each picture with its answer here; masks too.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes a classifier names.")] = 5,
    threshold: Annotated[
        float | None, typer.Option(help="Show boxes from this score on, 0 to 1; the model's own by default.")
    ] = None,
    coco: Annotated[Path | None, typer.Option(metavar="FILE", help="Write boxes as COCO results to this file.")] = None,
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Segment large pictures piece by piece, at their own resolution.")
    ] = False,
    polygons: Annotated[bool, typer.Option("--polygons", help="With --json, outlines of segments too.")] = False,
    engine: Engine = None,
    threads: Threads = None,
) -> None:
    """Say what pictures show, and where."""
    # Read when NumPy loads. Its threads would spin for a while after that, beside all that follows, and gain nothing.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from dataclasses import replace

    from mobilenetv2.predictions import Detections
    from mobilenetv2.runtime.images import STDIN, Source, expand_sources, read_stdin
    from mobilenetv2.runtime.predictor import load

    predictor = load(model, engine=engine, threads=threads, score_threshold=threshold, tiles=tiles)
    if predictor.engine_note:
        _say(predictor.engine_note)
    if coco is not None and predictor.card.task != "detect":
        raise UserError(f"--coco {coco}: {model} finds no boxes; give a detector by --model")
    failed, taken = False, set[str]()
    results: list[dict[str, object]] = []
    for number, source in enumerate(expand_sources(sources), 1):
        try:
            # What comes from a pipe can be read only once.
            picture: Source = read_stdin() if source == STDIN else source
            answer = replace(predictor.predict(picture), source=source)
        except ImageError as error:
            print(f"mobilenetv2: {error}", file=sys.stderr)
            failed = True
            continue
        if isinstance(answer, Detections):
            # In the order of the pictures, from 1; the name tells which.
            results += [{**result, "file_name": source} for result in answer.to_coco(number)]
        if as_json:
            print(json.dumps(_values(answer, top, polygons), ensure_ascii=False), flush=True)
        else:
            print(f"{answer.source}: {_in_words(answer, top)}", flush=True)
        if save is not None:
            from mobilenetv2.runtime.draw import save_drawing

            save_drawing(picture, answer, save, taken)
    if coco is not None:
        from mobilenetv2.files import write_aside

        write_aside(coco, (json.dumps(results, ensure_ascii=False) + "\n").encode())
    if failed:
        raise typer.Exit(2)


def _values(answer: "Prediction", top: int, polygons: bool) -> dict[str, Any]:
    from mobilenetv2.predictions import Classification, Detections

    if isinstance(answer, Classification):
        return answer.to_dict(top)
    return answer.to_dict() if isinstance(answer, Detections) else answer.to_dict(polygons=polygons)


def _in_words(answer: "Prediction", top: int) -> str:
    from mobilenetv2.predictions import Classification, Segmentation

    if isinstance(answer, Classification):
        return ", ".join(f"{label.name} {label.score:.1%}" for label in answer.top(top))
    if isinstance(answer, Segmentation):
        return ", ".join(f"{one.name} {one.pixels / answer.mask.size:.1%}" for one in answer.segments)
    boxes = [
        f"{box.name} {box.score:.1%} at {', '.join(f'{edge:.0f}' for edge in box.box_xyxy)}" for box in answer.boxes
    ]
    return "; ".join(boxes) or "nothing"


@app.command()
def train(
    task: Annotated[str | None, typer.Argument(help="classify, detect or segment; classify by default.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder, or a .zip of one: class folders to classify; COCO, VOC or YOLO to detect; masks to segment."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Folder of the run; runs/TASK-N by default.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; the data's by default.")] = None,
    recipe: Annotated[str | None, typer.Option(help="transfer, by default, or paper; to classify, small too.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change one option.")
    ] = None,
    width: Annotated[float | None, typer.Option(help="Width multiplier.")] = None,
    resolution: Annotated[
        str | None, typer.Option(help="Input size in pixels: 224, or 369x481, height first, to segment.")
    ] = None,
    anchors: Annotated[
        str | None, typer.Option(help="Of a detector: tf, or fit for sizes fitted to the training boxes.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Pretrained weights, instead of fetching them.")
    ] = None,
    qat: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Go on from this model, by its own recipe, for 8 bits.")
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Go on without pictures that cannot be read and boxes that cannot be right."),
    ] = False,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a stopped run.")] = None,
) -> None:
    """Train on your own pictures."""
    from mobilenetv2 import api

    folder = api.train(
        task,
        data=data,
        out=out,
        name=name,
        recipe=recipe,
        settings=[*(settings or []), *([f"anchors={anchors}"] if anchors else [])],
        width=width,
        resolution=_sides(resolution) if resolution else None,
        weights=weights,
        qat=qat,
        skip_bad=skip_bad,
        resume=resume,
    )
    print(folder / "model.safetensors")
    _say(f"report: {folder / 'report.html'}")


def _sides(text: str, option: str = "--resolution") -> int | tuple[int, int]:
    """'224' or '369x481'."""
    sides = text.lower().split("x")
    if not all(side.isascii() and side.isdigit() for side in sides) or len(sides) > 2:
        raise UserError(f"{option} {text}: give pixels, as 224, or height and width, as 369x481")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A model file, an export, or the name of a model in the box.")],
    data: Data,
    split: Annotated[str | None, typer.Option(help="train, val or test; val, or the only one, by default.")] = None,
    as_json: AsJson = False,
    save: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write evaluation.json and plots here; of a detector COCO results too."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without pictures that cannot be read.")] = False,
    engine: Engine = None,
    threads: Threads = None,
) -> None:
    """Measure a model on labelled pictures."""
    from mobilenetv2 import api

    began = time.monotonic()
    evaluation = api.evaluate(model, data, split=split, engine=engine, threads=threads, skip_bad=skip_bad)
    print(json.dumps(evaluation.to_dict(), ensure_ascii=False) if as_json else evaluation.to_text())
    if save is not None:
        from mobilenetv2.evaluation import DetectionEvaluation
        from mobilenetv2.files import write_aside
        from mobilenetv2.plots import confusion_png, pr_curves_png

        save.mkdir(parents=True, exist_ok=True)
        write_aside(save / "evaluation.json", (json.dumps(evaluation.to_dict(), indent=2) + "\n").encode())
        if isinstance(evaluation, DetectionEvaluation):
            write_aside(save / "curves.png", pr_curves_png(evaluation))
            results = json.dumps(evaluation.to_coco_results(), ensure_ascii=False)
            write_aside(save / "detections.json", (results + "\n").encode())
        else:
            write_aside(save / "confusion.png", confusion_png(evaluation))
    _say(f"{evaluation.images} pictures in {time.monotonic() - began:.1f} s")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A model file, or the name of a model in the box.")],
    to: Annotated[str, typer.Option(help="onnx, native, openvino, litert, executorch, ncnn or coreml.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="By default the model's name, in this folder.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="In 8 bits.")] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For 8 bits: a folder or .zip of pictures, best the training data."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what 8 bits cost each layer, as JSON, here.")
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="ONNX: the network's own outputs, such as boxes before suppression."),
    ] = False,
    batch: Annotated[int | None, typer.Option(help="ONNX: so many pictures at once; any number by default.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="ONNX: pictures of this size alone; of any size by default.")
    ] = None,
    bgr: Annotated[bool, typer.Option("--bgr", help="ONNX: pictures with blue first, as OpenCV has them.")] = False,
    pictures: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE", help="Pictures, folders or globs to prove the export with.")
    ] = None,
) -> None:
    """Write a model for another runtime, and prove that it answers the same."""
    from mobilenetv2 import api

    sides = _sides(size, "--size") if size else None
    found = api.export(
        model,
        to=to,
        out=out,
        int8=int8,
        calibrate=calibrate,
        by_layer=report is not None,
        raw=raw,
        batch=batch,
        size_hw=(sides, sides) if isinstance(sides, int) else sides,
        bgr=bgr,
        pictures=pictures,
    )
    print(found.path)
    _say(found.to_text())
    if report is not None and found.layers is not None:
        from mobilenetv2.files import write_aside

        write_aside(report, (json.dumps(found.layers.to_dict(), indent=1) + "\n").encode())
        _say(found.layers.to_text())


@app.command()
def convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint of torchvision, timm, Keras, TF-Slim, TFLite, transformers or others.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="By default its name, in this folder."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the model is to be called.")] = None,
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help="Names of the classes, one a line.")] = None,
    resolution: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Side of the input in pixels, or its height and width.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Under which the weights were published.")] = "unknown",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A convention, such as padding=same or eps=0.001."),
    ] = None,
    proof: Annotated[bool, typer.Option("--proof/--no-proof", help="Whether the original is asked too.")] = True,
    pictures: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE", help="Pictures, folders or globs to prove it with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a model file of another library's checkpoint, and prove that it answers the same."""
    from mobilenetv2 import api

    conversion = api.convert(
        checkpoint,
        out,
        settings=settings or (),
        name=name,
        labels=labels,
        resolution=_sides(resolution) if resolution else None,
        licence=licence,
        proof=proof,
        pictures=pictures,
    )
    if as_json:
        print(json.dumps(conversion.to_dict(), ensure_ascii=False))
        return
    for line in conversion.to_text().splitlines():
        _say(line)
    print(conversion.path)


@app.command()
def check(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of pictures, or a .zip of one.")],
    task: Annotated[
        str | None, typer.Option(help="classify, detect or segment, where the data is for more than one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a data set, before it is trained on."""
    from mobilenetv2 import api

    diagnosis = api.check(data, task=task)
    print(json.dumps(diagnosis.to_dict(), ensure_ascii=False) if as_json else diagnosis.to_text())
    if diagnosis.has_errors:
        raise typer.Exit(2)


@app.command()
def benchmark(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Model files, exports, or names in the box.")],
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="How many threads, once or more often; 1 and all by default.")
    ] = None,
    batches: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="Pictures at once; 1, 2, 4 to 32 by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 30,
    data: Annotated[Path | None, typer.Option(help="Labelled pictures to measure accuracy on.")] = None,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the picture of it, a PNG, here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time models against each other on this machine, in turns."""
    from mobilenetv2 import api

    chosen = {"batches": batches} if batches else {}
    report = api.benchmark(*models, threads=threads, rounds=rounds, data=data, progress=_say, **chosen)
    print(report.to_json_lines() if as_json else report.to_text())
    if save is not None:
        from mobilenetv2.files import write_aside

        write_aside(save, report.picture())
        _say(f"picture: {save}")


@app.command()
def models(as_json: AsJson = False) -> None:
    """List what can be had: models in the box, and pretrained weights."""
    from dataclasses import asdict

    from mobilenetv2 import api

    rows = api.models()
    if as_json:
        for row in rows:
            print(json.dumps(asdict(row), ensure_ascii=False))
        return
    cells = [("name", "top-1, AP or mIOU", "measured on", "parameters", "MB", "licence", "from")]
    cells += [
        (
            row.name,
            next((f"{share:.2%}" for share in (row.top1, row.AP, row.miou) if share is not None), "-"),
            row.measured_on,
            f"{row.parameters:,}",
            f"{row.size_mb:.1f}",
            row.licence,
            row.origin,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]) - 1)]
    for line in cells:
        print("  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[-1]]))


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="A network of the paper, a model file, or a model in the box.")],
    width: Annotated[float | None, typer.Option(help="Width multiplier.")] = None,
    resolution: Annotated[int | None, typer.Option(help="Side of the input in pixels.")] = None,
    output_stride: Annotated[int | None, typer.Option(help="32, 16 or 8.")] = None,
    every_layer: Annotated[bool, typer.Option("--layers", help="Every operator, not only blocks of them.")] = False,
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Count a network layer by layer: shapes, parameters, multiply-adds, memory."""
    from mobilenetv2 import api

    found = api.describe(name, width=width, resolution=resolution, output_stride=output_stride)
    if as_json:
        print(found.to_json())
    else:
        print((found.to_markdown if markdown else found.to_text)(every_layer=every_layer))


@app.command()
def paper(
    name: Annotated[
        str,
        typer.Argument(
            help="table1 to table7, figure1, figure5, figure5-latency, latency, memory, appendix-a, or all."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where pictures and the page go; this folder, or paper/ for all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The paper's tables and figures from the live networks, beside what the paper prints."""
    from mobilenetv2 import api

    if name == "all":
        print(api.write_paper(out or Path("paper"), progress=_say))
        return
    exhibit = api.paper(name)
    print(json.dumps(exhibit.table.to_dict(), ensure_ascii=False) if as_json else exhibit.table.to_text())
    from mobilenetv2.paper.page import write_pictures

    for path in write_pictures(exhibit, out or Path()):
        _say(f"picture: {path}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes.")] = Path("demo"),
) -> None:
    """Everything once, on hand-written digits, in a few minutes: check, train, evaluate, export, predict."""
    from mobilenetv2.demo import run_demo

    run_demo(out)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
