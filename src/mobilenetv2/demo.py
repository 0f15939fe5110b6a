"""Everything once, on 1,797 real hand-written digits: check, train, evaluate, export, predict, look.

The pictures come with scikit-learn (E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits,
1998; 8 x 8 pixels), and the training starts from the model in the box, so nothing is downloaded.
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
from mobilenetv2.errors import ImageError, MissingExtraError, UserError

MARK = "demo.txt"
SETTINGS = (
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


def run_demo(out: Path) -> None:
    """Leave pictures, a run, a model, an ONNX file and a report page below `out`; says what it does on stderr.

    Raises UserError if `out` holds something that no demo has made.
    """
    began = time.monotonic()
    _make_room(out)
    digits = out / "digits"
    _step("1/5", f"write scikit-learn's hand-written digits to {digits}")
    count = _write_digits(digits)
    diagnosis = api.check(digits)
    _say(f"      {count} pictures; check finds {len(diagnosis.findings)} things to mention")

    _step("2/5", "train on nine tenths of them, from the model in the box")
    run = api.train("classify", data=digits, out=out / "run", name="digits", recipe="small", settings=SETTINGS)
    model = run / "model.safetensors"

    _step("3/5", "evaluate the model file on the pictures it was not trained on")
    evaluation = api.evaluate(model, digits)
    _say(f"      top-1 {evaluation.top1:.2%} of {evaluation.images} pictures")

    _step("4/5", "export it to ONNX, and prove that it answers the same")
    report = api.export(model, to="onnx", out=out / "digits.onnx", pictures=[digits / "7"])
    _say(f"      {report.to_text()}")

    _step("5/5", "predict one picture of each class with the exported file")
    for answer in api.predict(*(sorted((digits / str(digit)).iterdir())[0] for digit in range(10)), model=report.path):
        if isinstance(answer, ImageError):
            raise answer
        place = Path(answer.source)
        _say(f"      {place.parent.name}/{place.name}: {answer.best.name} {answer.best.score:.1%}")
    _say(f"\ndone in {time.monotonic() - began:.0f} s; look at {run / 'report.html'}")
    print(run / "report.html")


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
