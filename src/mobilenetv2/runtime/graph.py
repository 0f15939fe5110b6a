"""From a model file to ONNX graphs, without torch: for the runtime's engine and for export."""

from __future__ import annotations

import numpy as np

from mobilenetv2 import __version__
from mobilenetv2.anchors import anchor_grid
from mobilenetv2.boxes import Boxes
from mobilenetv2.modelfile import CARD_KEY, Card, ModelFile
from mobilenetv2.runtime.graph_detect import add_detection
from mobilenetv2.runtime.graph_form import ANY_PICTURES, GraphForm
from mobilenetv2.runtime.graph_network import Trace, add_network, add_size_hw, add_upsampling
from mobilenetv2.runtime.graph_preprocess import add_preprocessing
from mobilenetv2.runtime.onnx_wire import UINT8, GraphBuilder, write_model
from mobilenetv2.segmenter import size_at_stride

TAP = "tap/"
PREPROCESSED = f"{TAP}preprocessed"
PRECISION_KEY, FORM_KEY = "mobilenetv2_precision", "mobilenetv2_form"


def network_graph(model: ModelFile, *, int8: bool = False, taps: bool = False) -> bytes:
    """ONNX: `images` float32 (batch, 3, H, W), preprocessed -> the raw outputs of the task, float32.

    classify: `logits` (batch, classes). detect: `class_logits` (batch, anchors, classes + 1), the background
    first, and `box_codes` (batch, anchors, 4). segment: `logits` (batch, classes, H/s, W/s), rounded up, at the
    network's stride s. H and W are those of the card; the batch is free.
    int8: in 8 bits inside, by the card's `activation_ranges`.
    taps: the result of every layer follows, in the order of computation, under its name after `TAP`.
    """
    graph, trace = GraphBuilder(), Trace()
    graph.input("images", np.float32, ("batch", 3, *model.card.preprocessing.size_hw))
    add_network(graph, "images", model, int8=int8, trace=trace)
    _add_raw_outputs(graph, model.card)
    if taps:
        _add_taps(graph, trace)
    return _write(graph, model, int8=int8)


def observing_graph(model: ModelFile) -> bytes:
    """ONNX: `images` as `network_graph` takes them -> what 8 bits must know of them, (batch, channels) each.

    Of each layer `NAME.least` and `NAME.most` of its results before the activation, and `NAME.read`, the mean of what
    it reads (padding is left out); of each value that 8 bits would round `NAME.low` and `NAME.high`.
    """
    graph, trace = GraphBuilder(), Trace()
    graph.input("images", np.float32, ("batch", 3, *model.card.preprocessing.size_hw))
    add_network(graph, "images", model, trace=trace)
    by_channel = graph.constant(np.array([0, 0, -1], np.int64))
    pixels = graph.constant(np.array([2], np.int64))

    def summarise(kind: str, value: str, name: str) -> None:
        # A dense layer has no pixels; as one it is (batch, channels, 1) too.
        flat = graph.node("Reshape", value, by_channel)
        graph.output(graph.node(kind, flat, pixels, name=name, keepdims=0), np.float32, None)

    for name, layer in trace.layers.items():
        summarise("ReduceMin", layer.raw, f"{name}.least")
        summarise("ReduceMax", layer.raw, f"{name}.most")
        summarise("ReduceMean", layer.read, f"{name}.read")
    for name, value in trace.points.items():
        summarise("ReduceMin", value, f"{name}.low")
        summarise("ReduceMax", value, f"{name}.high")
    return _write(graph, model)


def picture_graph(model: ModelFile, *, int8: bool = False, taps: bool = False, form: GraphForm = ANY_PICTURES) -> bytes:
    """ONNX: `images` uint8 RGB (batch, height, width, 3), of any size -> answers.

    classify: `probabilities` float32 (batch, classes). detect, of all pictures together: `boxes_xyxy` float32
    (detections, 4) in pixels of the given pictures, clipped to them; `scores` float32 (detections,), 0..1;
    `labels` int64 (detections,), the places of their classes; `picture` int64 (detections,), the place in the
    batch. By picture, best first. A detector's inputs `score_threshold` and `iou_threshold` may be left out.
    segment: `mask` uint8 (batch, height, width), the place of each pixel's class, in pixels of the given pictures.
    Resize, crop and normalisation are inside, exact to the bit against `preprocessing.preprocess`. The
    card is in the metadata under `mobilenetv2_card`. int8: as in `network_graph`. form: of what it takes and gives.
    taps: what the network sees follows as `PREPROCESSED`, then the result of every layer as in `network_graph`.
    """
    graph, card, trace = GraphBuilder(), model.card, Trace()
    graph.input("images", np.uint8, form.pictures)
    pictures = "images"
    if form.bgr:
        pictures = graph.node("Gather", pictures, graph.constant(np.array([2, 1, 0], np.int64)), axis=3)
    preprocessed = add_preprocessing(graph, pictures, card.preprocessing)
    raw = add_network(graph, preprocessed, model, int8=int8, trace=trace)
    if form.raw:
        _add_raw_outputs(graph, card, form.batch)
    elif card.task == "detect":
        class_logits, box_codes = raw
        detector, postprocessing = card.detection
        add_detection(
            graph,
            class_logits,
            box_codes,
            "images",
            anchors_xyxy=_anchors(card),
            num_classes=detector.num_classes,
            postprocessing=postprocessing,
        )
    elif card.task == "segment":
        (logits,) = raw
        enlarged = add_upsampling(graph, logits, add_size_hw(graph, "images", first=1))
        classes = graph.node("ArgMax", enlarged, axis=1, keepdims=0)
        graph.node("Cast", classes, name="mask", to=UINT8)
        graph.output("mask", np.uint8, form.pictures[:3])
    else:
        (logits,) = raw
        graph.node("Softmax", logits, name="probabilities", axis=1)
        graph.output("probabilities", np.float32, (form.batch or "batch", len(card.labels)))
    if taps:
        graph.output(graph.node("Identity", preprocessed, name=PREPROCESSED), np.float32, None)
        _add_taps(graph, trace)
    return _write(graph, model, int8=int8, form=form)


def raw_outputs(card: Card) -> dict[str, tuple[int, ...]]:
    """Names and shapes, without the batch, of the outputs of `network_graph`, in their order."""
    classes = len(card.labels)
    if card.task == "detect":
        anchors = len(_anchors(card))
        return {"class_logits": (anchors, classes + 1), "box_codes": (anchors, 4)}
    if card.task == "segment":
        return {"logits": (classes, *size_at_stride(card.preprocessing.size_hw, card.segmenter.logits_stride))}
    return {"logits": (classes,)}


def layer_names(model: ModelFile) -> list[str]:
    """Of every layer, in the order of computation, which is that of the taps."""
    trace = Trace()
    add_network(GraphBuilder(), "images", model, trace=trace)
    return list(trace.layers)


def _add_taps(graph: GraphBuilder, trace: Trace) -> None:
    # Times 1, as pnnx stumbles over many copies.
    one = graph.constant(np.float32(1))
    for name, layer in trace.layers.items():
        graph.output(graph.node("Mul", layer.result, one, name=f"{TAP}{name}"), np.float32, None)


def _anchors(card: Card) -> Boxes:
    detector, _ = card.detection
    return anchor_grid(card.preprocessing.size_hw, detector.anchors)


def _add_raw_outputs(graph: GraphBuilder, card: Card, batch: int | None = None) -> None:
    for name, shape in raw_outputs(card).items():
        graph.output(name, np.float32, (batch or "batch", *shape))


def _write(graph: GraphBuilder, model: ModelFile, *, int8: bool = False, form: GraphForm = ANY_PICTURES) -> bytes:
    metadata = {CARD_KEY: model.card.to_json(), PRECISION_KEY: "int8" if int8 else "float32"}
    if form != ANY_PICTURES:
        metadata[FORM_KEY] = form.to_json()
    return write_model(graph.graph(model.card.name), producer_version=__version__, metadata=metadata)
