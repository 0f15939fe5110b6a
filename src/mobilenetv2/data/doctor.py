"""What is wrong, or odd, with a data set, before it is trained on."""

from __future__ import annotations

from pathlib import Path

from mobilenetv2.data.boxed import recognise
from mobilenetv2.data.diagnosis import Diagnosis
from mobilenetv2.data.doctor_boxes import check_boxes
from mobilenetv2.data.doctor_folder import check_folder
from mobilenetv2.data.tree import open_tree


def check(path: Path) -> Diagnosis:
    """Read every file of a folder or `.zip` once and say what is wrong with it. Needs no torch.

    What it is of is recognised by looking: boxes in COCO, Pascal VOC or YOLO form, or a folder for each class.
    Raises DataError only if there are no files at `path`, they cannot be listed, boxes come in two formats, the file
    by which a format is recognised cannot be read, or nothing names YOLO's classes; all else is a finding.
    """
    tree = open_tree(path)
    return check_boxes(tree) if recognise(tree) else check_folder(tree)
