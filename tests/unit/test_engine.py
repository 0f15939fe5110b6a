"""What computes a network: outputs in their order, and refusal of graphs that are not their card's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from conftest import RandomDetector, RandomModel, RandomSegmenter
from mobilenetv2.errors import ModelFileError
from mobilenetv2.modelfile import Card, ModelFile
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.runtime.engine import OnnxRuntimeEngine, PictureEngine
from mobilenetv2.runtime.graph import picture_graph

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def detector(random_detector: RandomDetector) -> ModelFile:
    return random_detector(preprocessing=Preprocessing(size_hw=(32, 32)))


def with_card(model: ModelFile, card: Card) -> bytes:
    """The export of a model, with another model's card."""
    proto = onnx.load_from_string(picture_graph(model))
    proto.metadata_props[0].value = card.to_json()
    return bytes(proto.SerializeToString())


def test_outputs_in_their_order(detector: ModelFile, random_model: RandomModel) -> None:
    images = np.zeros((2, 3, 32, 32), np.float32)
    # 3 anchors at 2 x 2 places, and 6 on each of five maps of one.
    class_logits, box_codes = OnnxRuntimeEngine(detector, threads=1).run(images)
    assert (class_logits.shape, box_codes.shape) == ((2, 42, 4), (2, 42, 4))
    classifier = random_model(preprocessing=detector.card.preprocessing, num_classes=5)
    (logits,) = OnnxRuntimeEngine(classifier, threads=1).run(images)
    assert logits.shape == (2, 5)


def test_the_threshold_of_the_card_unless_another_is_given(detector: ModelFile) -> None:
    engine = PictureEngine(picture_graph(detector), source="m", threads=1)
    assert engine.card == detector.card
    scores, more, none = (engine.run(PICTURES, score_threshold=value)[1] for value in (None, 0.1, 1.0))
    assert (scores > 0.3).all()
    assert len(more) > len(scores) > len(none) == 0
    assert len(engine.run(PICTURES, score_threshold=0.3)[1]) == len(scores)


def test_a_card_of_another_task_is_refused(detector: ModelFile, random_model: RandomModel) -> None:
    classifier = random_model(preprocessing=detector.card.preprocessing, num_classes=3)
    for model, card in ((detector, classifier.card), (classifier, detector.card)):
        with pytest.raises(ModelFileError, match="m: its inputs and outputs are not those of its model card; export"):
            PictureEngine(with_card(model, card), source="m", threads=1)


def test_a_mask_of_another_size_than_its_picture_is_damage(random_segmenter: RandomSegmenter) -> None:
    model = random_segmenter(preprocessing=Preprocessing(size_hw=(33, 33)))
    proto = onnx.load_from_string(picture_graph(model))
    # The last one; preprocessing asks for the size too.
    (*_, size) = (node for node in proto.graph.node if node.op_type == "Shape" and node.input[0] == "images")
    places = {attribute.name: attribute for attribute in size.attribute}
    places["start"].i, places["end"].i = 2, 4  # width and channels for height and width
    engine = PictureEngine(proto.SerializeToString(), source="m", threads=1)
    with pytest.raises(ModelFileError, match="m: is damaged"):
        engine.run(PICTURES)


def test_a_damaged_name_of_a_size_is_damage(random_segmenter: RandomSegmenter) -> None:
    """onnxruntime decodes such names only when it is asked for them."""
    content = picture_graph(random_segmenter(preprocessing=Preprocessing(size_hw=(33, 33))))
    end, name = content.rindex(b"height"), b"he\x94ght"
    with pytest.raises(ModelFileError, match="m: is damaged"):
        PictureEngine(content[:end] + name + content[end + len(name) :], source="m", threads=1)
