"""What a model answers, as other programs take it."""

from __future__ import annotations

import json

import numpy as np

from mobilenetv2.predictions import Detections, Timing

FOUND = Detections(
    boxes_xyxy=np.array([[1.004, 2, 11.5, 22], [0, 0, 5, 5], [3, 3, 3, 9]], np.float32),
    scores=np.array([0.9, 0.5, 0.3], np.float32),
    labels=np.array([1, 0, 1]),
    names=("ant", "bee"),
    size_hw=(30, 20),
    source="a.png",
    model="m",
    ms=Timing(decode=1, preprocess=2, network=3.14159, postprocess=0),
)


def test_detections_as_json() -> None:
    values = json.loads(json.dumps(FOUND.to_dict()))
    assert list(values) == ["source", "task", "model", "size_hw", "ms", "detections"]
    assert values["task"] == "detect"
    assert values["ms"]["network"] == 3.14
    assert values["detections"][0] == {"name": "bee", "index": 1, "score": 0.9, "box_xyxy": [1.0, 2.0, 11.5, 22.0]}
    assert len(FOUND) == len(values["detections"]) == 3


def test_only_the_surer_boxes() -> None:
    surer = FOUND.above(0.5)
    assert surer.labels.tolist() == [1]
    assert surer.boxes_xyxy.shape == (1, 4)
    assert (surer.names, surer.source, surer.size_hw) == (FOUND.names, FOUND.source, FOUND.size_hw)
    assert len(FOUND.above(0.0)) == 3
    assert FOUND.above(1.0).boxes_xyxy.shape == (0, 4)


def test_coco_results() -> None:
    entries = json.loads(json.dumps(FOUND.to_coco(7)))
    assert entries[0] == {"image_id": 7, "category_id": 2, "bbox": [1.0, 2.0, 10.5, 20.0], "score": 0.9}
    assert [entry["category_id"] for entry in entries] == [2, 1, 2]
    # COCO's numbers have gaps.
    assert [entry["category_id"] for entry in FOUND.to_coco(7, [18, 90])] == [90, 18, 90]
    assert FOUND.above(1.0).to_coco(7) == []
