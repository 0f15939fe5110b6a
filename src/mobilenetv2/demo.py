"""Everything once: hand-written digits are classified, generated shapes are detected and segmented.

Check, train, evaluate, export, predict, look. The 1,797 digits are real and come with scikit-learn (E. Alpaydin,
C. Kaynak: Optical Recognition of Handwritten Digits, 1998; 8 x 8 pixels). All trainings start from the models in
the box, so nothing is downloaded.
"""

from __future__ import annotations

import io
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mobilenetv2 import api
from mobilenetv2.data.shapes import write_shapes
from mobilenetv2.errors import ImageError, MissingExtraError, UserError
from mobilenetv2.evaluation import DetectionEvaluation, Evaluation, SegmentationEvaluation
from mobilenetv2.predictions import Classification, Detections, Segmentation
from mobilenetv2.runtime.draw import save_drawing

MARK = "demo.txt"
DIGITS = (
    "pretrained=cifar10",
    "resolution=64",
    "epochs=3",
    "batch_size=32",
    "learning_rate=0.002",
    "head_learning_rate=0.002",
    "ema_decay=0.95",
    "flip=0",  # a mirrored 2 is no 2
    "label_smoothing=0",
    "dropout=0.1",
)
SHAPES = (
    "pretrained=cifar10",
    "resolution=160",
    "freeze_stages=3",
    "epochs=8",
    "measure_every=4",
    "warmup_epochs=0.5",
    "batch_size=8",
    "learning_rate=0.001",
    "head_learning_rate=0.003",
    "ema_decay=0.97",
    "class_loss=quality",
    "anchors=fit",
    "anchors_per_box=4",
    "flip_vertical=0.5",  # shapes have no up and down
    "photometric=0",
)
MASKS = (
    "pretrained=camvid",
    "resolution=161",
    "freeze_stages=3",
    "epochs=6",
    "measure_every=3",
    "warmup_epochs=0.5",
    "batch_size=8",
    "learning_rate=0.002",
    "head_learning_rate=0.005",
    "ema_decay=0.95",
    "scale_min=0.8",
    "scale_max=1.25",
    "photometric=0",
)
SHAPES_TO_TRAIN, SHAPES_TO_VALIDATE = 200, 40


def run_demo(out: Path) -> None:
    """Leave pictures, runs, models, ONNX files, drawings and report pages below `out`; says what it does on stderr.

    Raises UserError if `out` holds something that no demo has made.
    """
    began = time.monotonic()
    _make_room(out)
    pages = [_classify(out), _detect(out), _segment(out)]
    _say(f"\ndone in {time.monotonic() - began:.0f} s; look at")
    for page in pages:
        print(page)


def _classify(out: Path) -> Path:
    """Digits, from pictures to a page; returns its path."""
    digits = out / "digits"
    _step("1/14", f"write scikit-learn's hand-written digits to {digits}")
    count = _write_digits(digits)
    diagnosis = api.check(digits)
    _say(f"       {count} pictures; check finds {len(diagnosis.findings)} things to mention")

    _step("2/14", "train a classifier on nine tenths of them, from the model in the box")
    run = api.train("classify", data=digits, out=out / "digits-run", name="digits", recipe="small", settings=DIGITS)
    model = run / "model.safetensors"

    _step("3/14", "evaluate the model file on the pictures it was not trained on")
    evaluation = api.evaluate(model, digits)
    assert isinstance(evaluation, Evaluation)
    _say(f"       top-1 {evaluation.top1:.2%} of {evaluation.images} pictures")

    _step("4/14", "export it to ONNX, and prove that it answers the same")
    report = api.export(model, to="onnx", out=out / "digits.onnx", pictures=[digits / "7"])
    _say(f"       {report.to_text()}")

    _step("5/14", "predict one picture of each class with the exported file")
    for answer in api.predict(*(sorted((digits / str(digit)).iterdir())[0] for digit in range(10)), model=report.path):
        if isinstance(answer, ImageError):
            raise answer
        assert isinstance(answer, Classification)
        place = Path(answer.source)
        _say(f"       {place.parent.name}/{place.name}: {answer.best.name} {answer.best.score:.1%}")
    return run / "report.html"


def _detect(out: Path) -> Path:
    """Shapes, from pictures to a page; returns its path."""
    shapes = out / "shapes"
    _step("6/14", f"draw coloured shapes on textured grounds, with their boxes, to {shapes}")
    write_shapes(shapes, train=SHAPES_TO_TRAIN, val=SHAPES_TO_VALIDATE)
    diagnosis = api.check(shapes)
    assert diagnosis.boxes is not None
    _say(f"       {diagnosis.images} pictures, {sum(diagnosis.boxes.values())} boxes")

    _step("7/14", "train a detector on them, from the backbone of the model in the box")
    run = api.train("detect", data=shapes, out=out / "shapes-run", name="shapes", settings=SHAPES)
    model = run / "model.safetensors"

    _step("8/14", "evaluate the model file on the pictures it was not trained on")
    evaluation = api.evaluate(model, shapes)
    assert isinstance(evaluation, DetectionEvaluation)
    metrics = evaluation.metrics
    _say(f"       AP {metrics.AP:.1%}, AP50 {metrics.AP50:.1%} of {evaluation.boxes} boxes")

    _step("9/14", "export it to ONNX with its suppression, and prove that it finds the same")
    pictures = sorted((shapes / "images/val").iterdir())[:8]
    report = api.export(model, to="onnx", out=out / "shapes.onnx", pictures=pictures)
    _say(f"       {report.to_text()}")

    _step("10/14", f"draw what the exported file finds, to {out / 'shapes-found'}")
    taken = set[str]()
    for answer in api.predict(*pictures, model=report.path):
        if isinstance(answer, ImageError):
            raise answer
        assert isinstance(answer, Detections)
        save_drawing(answer.source, answer, out / "shapes-found", taken)
        _say(f"       {Path(answer.source).name}: {', '.join(box.name for box in answer.boxes) or 'nothing'}")
    return run / "report.html"


def _segment(out: Path) -> Path:
    """The same shapes by their masks; returns the page's path."""
    shapes = out / "shapes"
    _step("11/14", f"check the masks of the same shapes, in {shapes}")
    diagnosis = api.check(shapes, task="segment")
    assert diagnosis.pixels is not None
    _say(f"       {diagnosis.images} masks of {len(diagnosis.classes)} classes")

    _step("12/14", "train a segmenter on them, from the one in the box")
    run = api.train("segment", data=shapes, out=out / "masks-run", name="masks", settings=MASKS)
    model = run / "model.safetensors"

    _step("13/14", "evaluate the model file on the pictures it was not trained on")
    evaluation = api.evaluate(model, shapes)
    assert isinstance(evaluation, SegmentationEvaluation)
    _say(f"       mean IoU {evaluation.metrics.miou:.1%}, {evaluation.metrics.pixel_accuracy:.1%} of all pixels right")

    _step("14/14", f"export it to ONNX, prove it, and draw what the exported file sees, to {out / 'masks-found'}")
    pictures = sorted((shapes / "images/val").iterdir())[:8]
    report = api.export(model, to="onnx", out=out / "masks.onnx", pictures=pictures)
    _say(f"       {report.to_text()}")
    taken = set[str]()
    for answer in api.predict(*pictures, model=report.path):
        if isinstance(answer, ImageError):
            raise answer
        assert isinstance(answer, Segmentation)
        save_drawing(answer.source, answer, out / "masks-found", taken)
        _say(f"       {Path(answer.source).name}: {', '.join(one.name for one in answer.segments)}")
    return run / "report.html"


def _make_room(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / MARK).exists():
            raise UserError(f"{out}: is not empty, and no demo made it; choose another folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text("Made by 'mobilenetv2 demo'; the next demo replaces it.\n")


def _write_digits(folder: Path) -> int:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingExtraError("the demo", "demo") from error
    digits = load_digits()
    for index, (levels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        # Ink from 0 to 16, to white on black.
        picture = Image.fromarray(np.round(levels * 255 / 16).astype(np.uint8))
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        picture.save(stream, "png")
        (place / f"{index:04d}.png").write_bytes(stream.getvalue())
    return len(digits.images)


def _step(number: str, what: str) -> None:
    _say(f"[{number}] {what}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
