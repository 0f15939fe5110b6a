"""`detect.decode` as ONNX nodes: scores, boxes, suppression and the order, for a whole batch.

Exponentials are worked out in float64 and rounded once. In float32 each library is off in the last bit in a way of
its own, and that bit can decide which of two overlapping boxes is kept.
"""

from __future__ import annotations

import numpy as np

from mobilenetv2.anchors import CODE_SCALES_XYWH, MAX_LOG_SCALE
from mobilenetv2.boxes import Boxes, round_down, to_centers
from mobilenetv2.postprocessing import Postprocessing, Scores
from mobilenetv2.runtime.onnx_wire import FLOAT32, FLOAT64, GraphBuilder

SCORE_THRESHOLD, IOU_THRESHOLD = "score_threshold", "iou_threshold"


def add_detection(
    graph: GraphBuilder,
    class_logits: str,
    box_codes: str,
    pictures: str,
    *,
    anchors_xyxy: Boxes,
    num_classes: int,
    postprocessing: Postprocessing,
) -> None:
    """From raw outputs to a detector's outputs, as `graph.picture_graph` describes them.

    class_logits: (batch, anchors, num_classes + 1), the background first. box_codes: (batch, anchors, 4).
    pictures: (batch, height, width, 3), of which only the size counts. anchors_xyxy: (anchors, 4) in shares.
    The graph gains two float32 scalars as inputs that may be left out, and are then those of `postprocessing`:
    a box is a candidate if its score is above `score_threshold`; it is suppressed if it overlaps a better one
    of its class by more than `iou_threshold`.
    """
    for name, value in (
        (SCORE_THRESHOLD, postprocessing.score_threshold),
        # Rounded down, an overlap is above it just where it is above the share itself.
        (IOU_THRESHOLD, round_down(postprocessing.iou_threshold)),
    ):
        # An initializer that is an input too is a default.
        graph.input(name, np.float32, ())
        graph.constant(np.float32(value), name)
    scores = add_scores(graph, class_logits, postprocessing.scores)
    boxes = add_boxes(graph, box_codes, anchors_xyxy)
    limit = min(postprocessing.max_detections, len(anchors_xyxy) * num_classes)
    add_suppression(graph, scores, boxes, pictures, num_classes=num_classes, limit=limit)


def add_scores(graph: GraphBuilder, class_logits: str, kind: Scores) -> str:
    """(batch, anchors, classes + 1) logits -> (batch, anchors, classes) float32, 0..1, without the background."""

    def without_background(values: str) -> str:
        return graph.node("Slice", values, *(graph.constant(np.array([n], np.int64)) for n in (1, 2**31 - 1, 2)))

    if kind == "sigmoid":
        # Not the operator Sigmoid: onnxruntime's loses the small ones to a difference from 1.
        logits = graph.node("Cast", without_background(class_logits), to=FLOAT64)
        powers, one = graph.node("Exp", graph.node("Neg", logits)), graph.constant(np.float64(1))
        return graph.node("Cast", graph.node("Div", one, graph.node("Add", powers, one)), to=FLOAT32)
    scores = graph.node("Softmax", graph.node("Cast", class_logits, to=FLOAT64), axis=2)
    return graph.node("Cast", without_background(scores), to=FLOAT32)


def add_boxes(graph: GraphBuilder, box_codes: str, anchors_xyxy: Boxes) -> str:
    """(batch, anchors, 4) codes -> (batch, anchors, 4) xyxy in shares of the picture: the steps of `anchors.decode`."""

    def half_of(values: str, half: int) -> str:
        """The first two columns, or the last two."""
        return graph.node("Gather", values, graph.constant(np.array([2 * half, 2 * half + 1], np.int64)), axis=2)

    anchors = to_centers(anchors_xyxy)
    center_xy, side_wh = graph.constant(anchors[:, :2]), graph.constant(anchors[:, 2:])
    offsets = graph.node("Div", box_codes, graph.constant(CODE_SCALES_XYWH))
    centers = graph.node("Add", graph.node("Mul", half_of(offsets, 0), side_wh), center_xy)
    scales = graph.node("Min", half_of(offsets, 1), graph.constant(np.float32(MAX_LOG_SCALE)))
    factors = graph.node("Cast", graph.node("Exp", graph.node("Cast", scales, to=FLOAT64)), to=FLOAT32)
    half = graph.node("Div", graph.node("Mul", factors, side_wh), graph.constant(np.float32(2)))
    return graph.node("Concat", graph.node("Sub", centers, half), graph.node("Add", centers, half), axis=2)


def add_suppression(
    graph: GraphBuilder, scores: str, boxes: str, pictures: str, *, num_classes: int, limit: int
) -> None:
    """`boxes.batched_nms` of every picture, then boxes in pixels, clipped: the outputs of the graph.

    scores: (batch, anchors, num_classes). boxes: (batch, anchors, 4) xyxy in shares of the picture.
    limit: boxes of one picture at most.
    """

    def integers(*values: int) -> str:
        return graph.constant(np.array(values, np.int64))

    # The operator calls the corners y1, x1, y2, x2; an overlap stays the same with x and y exchanged.
    kept = graph.node(
        "NonMaxSuppression",
        boxes,
        graph.node("Transpose", scores, perm=(0, 2, 1)),
        integers(limit),
        IOU_THRESHOLD,
        SCORE_THRESHOLD,
    )
    kept = graph.node("Gather", kept, integers(0, 2, 1), axis=1)  # picture, anchor, class
    # All scores again, and 0 for those that are not kept, which no kept one is: each is above its threshold.
    # By anchor and then class, as TopK puts the earlier of equal scores first.
    spread = graph.node("ConstantOfShape", graph.node("Shape", scores))
    spread = graph.node("ScatterND", spread, kept, graph.node("GatherND", scores, kept))
    spread = graph.node("Reshape", spread, integers(0, -1))
    places = "places"
    best = graph.node("TopK", spread, integers(limit), further=(places,), axis=1)
    found = graph.node("NonZero", best)  # picture and rank, by picture, then rank
    picture = graph.node("Gather", found, graph.constant(np.int64(0)), name="picture")
    found = graph.node("Transpose", found, perm=(1, 0))
    graph.node("GatherND", best, found, name="scores")
    place, classes = graph.node("GatherND", places, found), graph.constant(np.int64(num_classes))
    graph.node("Mod", place, classes, name="labels")
    columns = [graph.node("Unsqueeze", part, integers(1)) for part in (picture, graph.node("Div", place, classes))]
    shares = graph.node("GatherND", boxes, graph.node("Concat", *columns, axis=1))
    shares = graph.node("Clip", shares, graph.constant(np.float32(0)), graph.constant(np.float32(1)))
    size_whwh = graph.node("Gather", graph.node("Shape", pictures), integers(2, 1, 2, 1))
    graph.node("Mul", shares, graph.node("Cast", size_whwh, to=FLOAT32), name="boxes_xyxy")
    graph.output("boxes_xyxy", np.float32, ("detections", 4))
    graph.output("scores", np.float32, ("detections",))
    graph.output("labels", np.int64, ("detections",))
    graph.output("picture", np.int64, ("detections",))
