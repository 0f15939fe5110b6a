"""Google's own quantised files: what LiteRT answers with them, the model files made of them answer too."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mobilenetv2.architecture import Architecture
from mobilenetv2.preprocessing import Preprocessing, resize
from mobilenetv2.runtime.predictor import predictor_of
from mobilenetv2.segmenter import Segmenter
from mobilenetv2.weights.checkpoint import read_checkpoint
from mobilenetv2.weights.conventions import Converted, convert_checkpoint, with_input_as_it_is
from mobilenetv2.weights.proof import prove
from mobilenetv2.weights.references import Reference, find_reference

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.slow

CLASSIFIER = "mobilenet_v1_0.25_128_quant.tflite"
SEGMENTER = "deeplabv3_mnv2_dm05_pascal_quant.tflite"


@pytest.fixture(scope="module")
def sample(shared_data: Path) -> dict[str, bytes]:
    """200 photographs by name, which begins with the number of the class."""
    with zipfile.ZipFile(shared_data / "imagenet-sample-200.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        return {Path(name).name: archive.read(name) for name in sorted(names)}


def converted(path: Path) -> tuple[Converted, Reference]:
    checkpoint = read_checkpoint(path)
    found = convert_checkpoint(checkpoint)
    reference = find_reference(checkpoint, found.model, found.library, quantized=found.quantized)
    assert isinstance(reference, Reference)
    return found, reference


def test_the_classifier_answers_as_the_original(shared_data: Path, sample: dict[str, bytes]) -> None:
    found, reference = converted(shared_data / CLASSIFIER)
    card = found.model.card
    assert card.architecture == Architecture(name="mobilenet_v1", width=0.25, num_classes=1001, numerics="tf")
    assert (found.recognised["label_offset"], card.labels[0]) == (1, "background")
    proof = prove(found.model, reference, sample.values())
    assert proof.agreement >= 0.95
    predictor = predictor_of(with_input_as_it_is(found.model))
    ours = theirs = 0
    for name, content in sample.items():
        true = int(name.split("_")[0]) + 1
        picture = pixels(content, card.preprocessing)
        ours += int(predictor.predict(picture).best.index == true)  # type: ignore[union-attr]
        theirs += int(reference.answer(picture).argmax() == true)
    print(f"{proof.to_text()}; right: ours {ours}, the original {theirs} of {len(sample)}")
    assert ours >= theirs


def pixels(content: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return np.asarray(resize(Image.open(io.BytesIO(content)).convert("RGB"), preprocessing))


def test_the_segmenter_answers_as_the_original(shared_data: Path, sample: dict[str, bytes]) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    found, reference = converted(shared_data / SEGMENTER)
    assert found.model.card.architecture == Segmenter(
        width=0.5, num_classes=21, numerics="tf", output_stride=16, rounding="int"
    )
    photographs = [*datasets.load_sample_images().images, *list(sample.values())[::10]]
    proof = prove(found.model, reference, photographs)
    print(proof.to_text())
    assert proof.agreement >= 0.97
