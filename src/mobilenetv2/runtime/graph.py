"""From a model file to ONNX graphs, without torch: for the runtime's engine and for export."""

from __future__ import annotations

import numpy as np

from mobilenetv2 import __version__
from mobilenetv2.anchors import anchor_grid
from mobilenetv2.boxes import Boxes
from mobilenetv2.modelfile import CARD_KEY, ModelFile
from mobilenetv2.runtime.graph_detect import add_detection
from mobilenetv2.runtime.graph_network import add_network, add_size_hw, add_upsampling
from mobilenetv2.runtime.graph_preprocess import add_preprocessing
from mobilenetv2.runtime.onnx_wire import UINT8, GraphBuilder, write_model
from mobilenetv2.segmenter import size_at_stride


def network_graph(model: ModelFile) -> bytes:
    """ONNX: `images` float32 (batch, 3, H, W), preprocessed -> the raw outputs of the task, float32.

    classify: `logits` (batch, classes). detect: `class_logits` (batch, anchors, classes + 1), the background
    first, and `box_codes` (batch, anchors, 4). segment: `logits` (batch, classes, H/s, W/s), rounded up, at the
    network's stride s. H and W are those of the card; the batch is free.
    """
    graph, card = GraphBuilder(), model.card
    graph.input("images", np.float32, ("batch", 3, *card.preprocessing.size_hw))
    classes = len(card.labels)
    shapes: list[tuple[int, ...]] = [(classes,)]
    if card.task == "detect":
        anchors = len(_anchors(model))
        shapes = [(anchors, classes + 1), (anchors, 4)]
    elif card.task == "segment":
        shapes = [(classes, *size_at_stride(card.preprocessing.size_hw, card.segmenter.logits_stride))]
    for name, shape in zip(add_network(graph, "images", model), shapes, strict=True):
        graph.output(name, np.float32, ("batch", *shape))
    return _write(graph, model)


def picture_graph(model: ModelFile) -> bytes:
    """ONNX: `images` uint8 RGB (batch, height, width, 3), of any size -> answers.

    classify: `probabilities` float32 (batch, classes). detect, of all pictures together: `boxes_xyxy` float32
    (detections, 4) in pixels of the given pictures, clipped to them; `scores` float32 (detections,), 0..1;
    `labels` int64 (detections,), the places of their classes; `picture` int64 (detections,), the place in the
    batch. By picture, best first. A detector's inputs `score_threshold` and `iou_threshold` may be left out.
    segment: `mask` uint8 (batch, height, width), the place of each pixel's class, in pixels of the given pictures.
    Resize, crop and normalisation are inside, exact to the bit against `preprocessing.preprocess`. The
    card is in the metadata under `mobilenetv2_card`.
    """
    graph, card = GraphBuilder(), model.card
    graph.input("images", np.uint8, ("batch", "height", "width", 3))
    raw = add_network(graph, add_preprocessing(graph, "images", card.preprocessing), model)
    if card.task == "detect":
        class_logits, box_codes = raw
        detector, postprocessing = card.detection
        add_detection(
            graph,
            class_logits,
            box_codes,
            "images",
            anchors_xyxy=_anchors(model),
            num_classes=detector.num_classes,
            postprocessing=postprocessing,
        )
    elif card.task == "segment":
        (logits,) = raw
        enlarged = add_upsampling(graph, logits, add_size_hw(graph, "images", first=1))
        classes = graph.node("ArgMax", enlarged, axis=1, keepdims=0)
        graph.node("Cast", classes, name="mask", to=UINT8)
        graph.output("mask", np.uint8, ("batch", "height", "width"))
    else:
        (logits,) = raw
        graph.node("Softmax", logits, name="probabilities", axis=1)
        graph.output("probabilities", np.float32, ("batch", len(card.labels)))
    return _write(graph, model)


def _anchors(model: ModelFile) -> Boxes:
    detector, _ = model.card.detection
    return anchor_grid(model.card.preprocessing.size_hw, detector.anchors)


def _write(graph: GraphBuilder, model: ModelFile) -> bytes:
    content = graph.graph(model.card.name)
    return write_model(content, producer_version=__version__, metadata={CARD_KEY: model.card.to_json()})
