"""Export to ONNX: a picture in, probabilities out, checked on real pictures before it is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import ExportError, UserError
from mobilenetv2.files import write_aside
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.runtime.engine import OnnxRuntimeEngine, PictureEngine
from mobilenetv2.runtime.graph import picture_graph
from mobilenetv2.runtime.images import Source, name_of
from mobilenetv2.runtime.predictor import GraphScorer, PillowScorer, Predictor

MAX_DIFFERENCE = 1e-3

# (height, width): tiny, long, odd, small and photographs' sizes.
_DRAWN_SIZES_HW = ((1, 1), (1, 50), (300, 7), (32, 32), (97, 225), (375, 500), (640, 480), (224, 224), (1200, 1600))


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, and how it was checked.

    pictures: how many were answered by both sides.
    largest_difference: of any probability of any picture, 0..1.
    """

    path: Path
    pictures: int
    largest_difference: float
    file_bytes: int

    def to_text(self) -> str:
        """One line: how many pictures, how near, and the size of the file."""
        noun = "picture" if self.pictures == 1 else "pictures"
        return (
            f"{self.pictures} {noun} answered alike, largest difference of a probability "
            f"{self.largest_difference:.1e}, {self.file_bytes / 1e6:.1f} MB"
        )


def export_onnx(model: ModelFile, path: Path, *, pictures: Iterable[Source] | None = None) -> ExportReport:
    """Write `model` as an `.onnx` file that holds its preprocessing and its card.

    The file is in memory first and answers `pictures` (nine drawn ones if None) in onnxruntime; the
    runtime answers the same from the model file with Pillow's preprocessing. Only where the best class is
    the same and all probabilities are within .001 is anything written.
    Raises ExportError, which names the picture, where they differ; ImageError for a picture that cannot be
    read; UserError if there is none, or the file cannot be written.
    """
    content = picture_graph(model)
    exported = PictureEngine(content, source=str(path))
    ours = Predictor(model.card, PillowScorer(OnnxRuntimeEngine(model), model.card.preprocessing))
    theirs = Predictor(exported.card, GraphScorer(exported))
    count, largest = 0, 0.0
    for source in draw_pictures() if pictures is None else pictures:
        name = name_of(source) or f"picture {count + 1}"
        expected, found = ours.predict(source), theirs.predict(source)
        difference = float(np.abs(found.scores - expected.scores).max())
        # Written so that NaN fails too.
        if not difference <= MAX_DIFFERENCE or found.best.index != expected.best.index:
            raise ExportError(
                f"{name}: the exported model answers {found.best.name!r} ({found.best.score:.4f}), the model file "
                f"{expected.best.name!r} ({expected.best.score:.4f}); largest difference {difference:.2g}, "
                f"allowed {MAX_DIFFERENCE:g}; {path} was not written"
            )
        count, largest = count + 1, max(largest, difference)
    if not count:
        raise UserError(f"no pictures to check the export with; give some, or leave them out; {path} was not written")
    write_aside(path, content)
    return ExportReport(path=path, pictures=count, largest_difference=largest, file_bytes=len(content))


def draw_pictures() -> list[NDArray[np.uint8]]:
    """Nine pictures of many sizes: colour gradients with discs and noise, the same on every machine."""
    random = np.random.default_rng(0)
    pictures = []
    for height, width in _DRAWN_SIZES_HW:
        y, x = np.mgrid[:height, :width].astype(np.float64) / max(height, width)
        levels = sum(random.uniform(-1, 1, 3) * wave[..., None] for wave in (x, y, np.sin(9 * x), np.cos(7 * y)))
        for _ in range(4):
            center_y, center_x, radius = random.uniform(0, 1, 3)
            inside = np.hypot(y - center_y, x - center_x) < radius / 3
            levels = np.where(inside[..., None], random.uniform(-1, 1, 3), levels)
        noisy = 128 + 90 * levels + random.normal(0, 12, (height, width, 3))
        pictures.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return pictures
