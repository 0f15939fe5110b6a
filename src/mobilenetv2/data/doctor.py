"""What is wrong, or odd, with a data set, before it is trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mobilenetv2.data.boxed import recognise
from mobilenetv2.data.diagnosis import Diagnosis
from mobilenetv2.data.doctor_boxes import check_boxes
from mobilenetv2.data.doctor_folder import check_folder
from mobilenetv2.data.doctor_masks import check_masks
from mobilenetv2.data.masked import recognise_masks
from mobilenetv2.data.tree import Tree, open_tree
from mobilenetv2.errors import UserError, did_you_mean

_CHECKS: dict[str, Callable[[Tree], Diagnosis]] = {
    "classify": check_folder,
    "detect": check_boxes,
    "segment": check_masks,
}


def check(path: Path, *, task: str | None = None) -> Diagnosis:
    """Read every file of a folder or `.zip` once and say what is wrong with it. Needs no torch.

    task: what it is for; where it is None, it is recognised by looking: boxes in COCO, Pascal VOC or YOLO form, masks,
    or a folder for each class.
    Raises UserError for an unknown task. Raises DataError only if there are no files at `path`, they cannot be listed,
    boxes come in two formats, the file by which a format is recognised cannot be read, nothing names the classes of
    masks or of YOLO's boxes, or there is nothing for the task; all else is a finding.
    """
    tree = open_tree(path)
    if task is None:
        task = "detect" if recognise(tree) else "segment" if recognise_masks(tree) else "classify"
    if task not in _CHECKS:
        raise UserError(f"task {task!r} is not known{did_you_mean(task, _CHECKS)}; it can be {', '.join(_CHECKS)}")
    return _CHECKS[task](tree)
