"""Pictures that show what a network's activations are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.data.boxed import read_boxes_of_split, recognise
from mobilenetv2.data.folder import Named, read_labelled
from mobilenetv2.data.masked import read_masks_of_split, recognise_masks
from mobilenetv2.data.tree import Tree, decode, fingerprint, open_tree
from mobilenetv2.errors import DataError
from mobilenetv2.modelfile import Card
from mobilenetv2.preprocessing import preprocess
from mobilenetv2.runtime.images import PICTURE_SUFFIXES

PICTURES = 128
_SEED = 0


def calibration_pictures(path: Path, card: Card, *, count: int = PICTURES) -> tuple[Tree, list[str]]:
    """Up to `count` pictures of a folder or `.zip`, drawn by seed.

    Of data that is labelled for the model's task those of its `train` split, so that none of those that the model is
    measured on; else any. Raises DataError if there are none, or the data is not right.
    """
    tree = open_tree(path)
    labelled = _training_pictures(tree, path, card)
    names = [picture.name for picture in labelled] or [name for name in tree.names if _is_picture(name)]
    if not names:
        raise DataError(f"{path}: has no pictures to calibrate with")
    drawn = np.random.default_rng(_SEED).permutation(len(names))[:count]
    return tree, [names[place] for place in sorted(drawn)]


def calibration_images(tree: Tree, names: Sequence[str], card: Card) -> NDArray[np.float32]:
    """The same, decoded one at a time and preprocessed: (N, 3, H, W). Raises ImageError for one that cannot be read."""
    return np.stack([preprocess(decode(tree, name), card.preprocessing) for name in names])


def _training_pictures(tree: Tree, path: Path, card: Card) -> Sequence[Named]:
    """Of data that is labelled for the model's task and has a `train` split; nothing of any other."""
    trained_on = card.training.get("data") or {}
    parts = {part for name in tree.names for part in PurePosixPath(name).with_suffix("").parts}
    # Where nothing is called so, the model's own data was split by seed.
    if "train" not in parts and fingerprint(tree) != trained_on.get("fingerprint"):
        return ()
    if card.task == "detect" and recognise(tree) is not None:
        return read_boxes_of_split(path, card.labels, "train", trained_on=trained_on, skip_bad=True)[2]
    if card.task == "segment" and recognise_masks(tree) is not None:
        return read_masks_of_split(path, card.labels, "train", trained_on=trained_on, skip_bad=True)[2]
    if card.task == "classify" and parts.intersection(card.labels):
        return read_labelled(path, card.labels, "train", trained_on=trained_on)[2]
    return ()


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES
