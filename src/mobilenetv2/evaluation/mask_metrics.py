"""How good masks are: intersection over union, pixel accuracy, and how near their boundaries lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.masks import IGNORED

# Of the diagonal; Csurka et al., who follow what is used for contours of natural pictures.
BOUNDARY_TOLERANCE = 0.0075
_VALUES = 256
_CHUNK_PIXELS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ClassMask:
    """One class. Shares 0..1; None where there is nothing to divide by.

    pixels: true ones. iou: true and found over true or found. precision: found pixels that are true.
    recall: true pixels that are found. boundary_f: the mean over pictures where the class has a boundary.
    """

    name: str
    pixels: int
    iou: float | None
    precision: float | None
    recall: float | None
    boundary_f: float | None


@dataclass(frozen=True, kw_only=True)
class MaskMetrics:
    """What masks reach. Shares 0..1; None where there is nothing to divide by. Ignored pixels count nowhere.

    miou: the mean IoU over the classes that are there or were found. pixel_accuracy: right pixels.
    mean_accuracy: the mean recall over the classes that are there. fw_iou: the mean IoU, weighted by true pixels.
    boundary_f: the mean over pictures of the mean over their classes; see `boundary_counts`.
    """

    miou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    fw_iou: float | None
    boundary_f: float | None
    per_class: tuple[ClassMask, ...]


def mask_metrics(
    confusion: NDArray[np.int64], boundary_f: NDArray[np.float64], classes: tuple[str, ...]
) -> MaskMetrics:
    """confusion: of all pictures together, see `confusion`. boundary_f: (pictures, classes), see `boundary_f`."""
    hits, true, found = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    ious, recalls = class_ious(confusion), _shares(hits, true)
    of_pictures = _shares(np.nansum(boundary_f, axis=1), (~np.isnan(boundary_f)).sum(axis=1))
    columns = zip(ious, _shares(hits, found), recalls, boundary_f.T, strict=True)
    return MaskMetrics(
        miou=_mean(ious),
        pixel_accuracy=pixel_accuracy(confusion),
        mean_accuracy=_mean(recalls),
        fw_iou=_mean(ious, true),
        boundary_f=_mean(of_pictures),
        per_class=tuple(
            ClassMask(
                name=name,
                pixels=int(pixels),
                iou=_defined(iou),
                precision=_defined(precision),
                recall=_defined(recall),
                boundary_f=_mean(boundary),
            )
            for name, pixels, (iou, precision, recall, boundary) in zip(classes, true, columns, strict=True)
        ),
    )


def mean_iou(confusion: NDArray[np.int64]) -> float | None:
    """The mean over the classes that have true or found pixels; None where none has."""
    return _mean(class_ious(confusion))


def class_ious(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """(num_classes,) true and found over true or found; NaN where a class is in neither."""
    hits = np.diag(confusion)
    return _shares(hits, confusion.sum(0) + confusion.sum(1) - hits)


def pixel_accuracy(confusion: NDArray[np.int64]) -> float | None:
    """The share of pixels whose class was found; None where none counts."""
    pixels = int(confusion.sum())
    return int(np.trace(confusion)) / pixels if pixels else None


def confusion(true: NDArray[np.uint8], found: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """(num_classes, num_classes) pixels; rows are what they are, columns what was found. Ignored ones do not count.

    true, found: (H, W) places of classes; of `true` also `IGNORED`. Raises ValueError for masks of different size
    and for values that are no class.
    """
    if true.shape != found.shape:
        raise ValueError(f"masks of different size: {true.shape} and {found.shape}")
    pairs = np.zeros(_VALUES * _VALUES, np.int64)
    flat_true, flat_found = true.reshape(-1), found.reshape(-1)
    # A part at a time, as counting takes eight bytes a pixel.
    for start in range(0, true.size, _CHUNK_PIXELS):
        part = slice(start, start + _CHUNK_PIXELS)
        both = flat_true[part].astype(np.uint16) * np.uint16(_VALUES) + flat_found[part]
        pairs += np.bincount(both, minlength=len(pairs))
    table = pairs.reshape(_VALUES, _VALUES)
    counted = table[:num_classes, :num_classes]
    if counted.sum() != table[:IGNORED].sum():
        raise ValueError(f"a mask holds values that are none of {num_classes} classes")
    return counted.copy()


# ---- Boundaries


def boundary_tolerance(size_hw: tuple[int, int]) -> int:
    """How far, in pixels, a boundary may lie from where it should be: .75 % of the diagonal, rounded up."""
    return math.ceil(BOUNDARY_TOLERANCE * math.hypot(*size_hw))


def boundary_f(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(num_classes, 4) of `boundary_counts` -> (num_classes,) F-scores; NaN where a class has no boundary in either.

    Precision is the share of found boundary pixels that are near true ones, recall that of true ones near found
    ones; F is their harmonic mean, and 0 where the class has a boundary in one of the two only.
    """
    near_true, found, near_found, true = counts.T
    precision, recall = np.nan_to_num(_shares(near_true, found)), np.nan_to_num(_shares(near_found, true))
    score = np.nan_to_num(_shares(2 * precision * recall, precision + recall))
    return np.where(found + true > 0, score, np.nan)


def boundary_counts(
    true: NDArray[np.uint8], found: NDArray[np.uint8], num_classes: int, tolerance_px: int | None = None
) -> NDArray[np.int64]:
    """(num_classes, 4) boundary pixels: found ones near true ones, found ones, true ones near found ones, true ones.

    A pixel is of its class's boundary where one of its four neighbours is of another class; the picture's edge
    makes no boundary. Near is a boundary pixel of the same class at a Euclidean distance of `tolerance_px` or less;
    None is `boundary_tolerance`. Ignored pixels are of no class, and a boundary pixel as near as that to one of them
    does not count, as its counterpart may lie where nobody knows; others may still be near it.
    Source: Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013,
    which leaves boundary pixels and ignored ones open.
    """
    height, width = true.shape
    reach = boundary_tolerance((height, width)) if tolerance_px is None else tolerance_px
    is_ignored = true == IGNORED
    # Room around the picture, so that no row reaches into the next one, and no class into the next one.
    shape = (num_classes, height + 2 * reach, width + 2 * reach)

    def places(mask: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.int64]:
        rows, columns = np.nonzero(where)
        return np.sort(np.ravel_multi_index((mask[rows, columns], rows + reach, columns + reach), shape))

    # Only the rim of what is ignored can be nearest to something outside.
    unknown = places(np.zeros_like(true), _rims(is_ignored.astype(np.uint8)) & is_ignored)
    area, span = shape[1] * shape[2], shape[2]
    sides = [places(mask, _rims(mask)) for mask in (np.where(is_ignored, np.uint8(IGNORED), found), true)]
    counts = np.zeros((num_classes, 4), np.int64)
    for number, (own, other) in enumerate((sides, sides[::-1])):
        counting = own[~_are_near(own % area, unknown, span, reach)] if len(unknown) else own
        near = counting[_are_near(counting, other, span, reach)]
        for column, some in enumerate((near, counting)):
            counts[:, 2 * number + column] = np.bincount(some // area, minlength=num_classes)
    return counts


def _rims(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W) the pixels beside which, in the same row or column, is another class; ignored ones are none."""
    rims = np.zeros(mask.shape, np.bool_)
    for rim, values in ((rims, mask), (rims.T, mask.T)):
        differ = (values[1:] != values[:-1]) & (values[1:] != IGNORED) & (values[:-1] != IGNORED)
        rim[1:] |= differ
        rim[:-1] |= differ
    return rims


def _are_near(places: NDArray[np.int64], others: NDArray[np.int64], span: int, reach: int) -> NDArray[np.bool_]:
    """Whether there is one of `others` within `reach` of each of `places`; both sorted, in rows of `span` places."""
    near = np.zeros(len(places), np.bool_)
    waiting = np.arange(len(places))
    others = np.append(others, np.iinfo(np.int64).max)
    # Row by row of the disc, the nearest first, as most have a near one there.
    for row in sorted(range(-reach, reach + 1), key=abs):
        half = math.isqrt(reach * reach - row * row)
        first = places[waiting] + (row * span - half)
        is_near = others[np.searchsorted(others, first)] <= first + 2 * half
        near[waiting[is_near]] = True
        waiting = waiting[~is_near]
    return near


# ---- Shares


def _shares(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """NaN where there is nothing to divide by."""
    shares: NDArray[np.float64] = np.full(len(whole), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def _mean(values: NDArray[np.float64], weights: NDArray[np.int64] | None = None) -> float | None:
    """Of those that are defined; None where none is."""
    defined = ~np.isnan(values)
    if weights is not None:
        defined &= weights > 0
    if not defined.any():
        return None
    return float(np.average(values[defined], weights=None if weights is None else weights[defined]))


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
