"""Generated pictures: coloured shapes on textured grounds, with boxes, masks and classes. For demos and tests.

The same seed gives the same pictures on every machine, but for the last level of a pixel, which Pillow's version
may decide.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from mobilenetv2.files import write_aside

CLASSES = ("disc", "ring", "square", "star", "triangle")
# Edges are smooth as they are drawn this many times larger.
_FINER = 4
_SHAPES = (3, 8)  # in a picture, at least and at most
_SIDE = (0.1, 0.42)  # of a shape, in shares of the picture's shorter side
# A shape of which less is seen could be anything.
_LEAST_SEEN = 0.6


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A picture and the truth about it.

    image: (H, W, 3) uint8 RGB. boxes_xyxy: (N, 4) float32 in pixels, around what is seen of each shape.
    labels: (N,) int64, indices of `CLASSES`. mask: (H, W) uint8, 0 for the ground, 1 + label for a shape.
    """

    image: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    mask: NDArray[np.uint8]


def draw_scene(seed: int, index: int, size_hw: tuple[int, int] = (192, 192)) -> Scene:
    """One picture; what is random depends on seed and index alone."""
    random = np.random.default_rng((seed, index))
    height, width = size_hw
    image = _ground(random, size_hw)
    owners = np.zeros(size_hw, np.int64)  # the number of the shape that is seen at each pixel, from 1
    areas, seen = np.zeros(0, np.int64), np.zeros(0, np.int64)  # pixels of each shape, and those not hidden
    labels: list[int] = []
    wanted = int(random.integers(_SHAPES[0], _SHAPES[1] + 1))
    for _ in range(4 * wanted):
        if len(labels) == wanted:
            break
        label = int(random.integers(len(CLASSES)))
        cover = _cover(random, label, size_hw)
        inside = cover >= 128
        left_over = seen - np.bincount(owners[inside], minlength=len(labels) + 1)[1:]
        if not inside.any() or (left_over < _LEAST_SEEN * areas).any():
            continue
        area = inside.sum()
        areas, seen = np.append(areas, area), np.append(left_over, area)
        labels.append(label)
        owners[inside] = len(labels)
        x1, y1, x2, y2 = _extent(cover > 0)
        share = (cover[y1:y2, x1:x2] / 255.0)[..., None]
        colour = _colour(random, image[inside].mean(axis=0))
        image[y1:y2, x1:x2] = image[y1:y2, x1:x2] * (1 - share) + colour * share
    blurred = Image.fromarray(image.clip(0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(float(random.uniform(0, 0.8)))
    )
    noisy = np.asarray(blurred, np.float64) + random.normal(0, random.uniform(1, 7), (height, width, 1))
    boxes = [_extent(owners == number) for number in range(1, len(labels) + 1)]
    of_owner = np.array([0, *(label + 1 for label in labels)], np.uint8)
    return Scene(
        image=noisy.clip(0, 255).astype(np.uint8),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        mask=of_owner[owners],
    )


def write_shapes(folder: Path, *, train: int, val: int, seed: int = 0, size_hw: tuple[int, int] = (192, 192)) -> None:
    """Write that many pictures to train and to validate on.

    `images/<split>/*.jpg` with boxes in `annotations/instances_<split>.json` (COCO), and `masks/<split>/*.png`, of
    which each pixel is 0 for the ground or 1 + the class; `classes.txt` names the classes.
    """
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    index = 0
    for split, count in (("train", train), ("val", val)):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for place in (folder / "images" / split, folder / "masks" / split, folder / "annotations"):
            place.mkdir(parents=True, exist_ok=True)
        for number in range(1, count + 1):
            scene = draw_scene(seed, index, size_hw)
            index += 1
            name = f"{number:05d}"
            stream = io.BytesIO()
            Image.fromarray(scene.image).save(stream, "jpeg", quality=92)
            (folder / "images" / split / f"{name}.jpg").write_bytes(stream.getvalue())
            Image.fromarray(scene.mask).save(folder / "masks" / split / f"{name}.png")
            images.append({"id": number, "file_name": f"{name}.jpg", "width": size_hw[1], "height": size_hw[0]})
            for (x1, y1, x2, y2), label in zip(scene.boxes_xyxy.tolist(), scene.labels.tolist(), strict=True):
                box = [x1, y1, x2 - x1, y2 - y1]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": label + 1,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        values = {"images": images, "annotations": annotations, "categories": categories}
        write_aside(folder / "annotations" / f"instances_{split}.json", json.dumps(values).encode())
    write_aside(folder / "classes.txt", ("\n".join(("ground", *CLASSES)) + "\n").encode())


def _ground(random: np.random.Generator, size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """(H, W, 3): a gradient, with stripes or clouds of another colour."""
    height, width = size_hw
    y, x = np.mgrid[:height, :width] / max(size_hw)
    turn = random.uniform(0, 2 * math.pi)
    ramp = (np.cos(turn) * x + np.sin(turn) * y + 1) / 2
    first, second, third = (random.uniform(40, 215, 3) for _ in range(3))
    ground = first + (second - first) * ramp[..., None]
    if random.random() < 0.5:
        waves = np.sin(2 * math.pi * random.uniform(3, 14) * (np.sin(turn) * x - np.cos(turn) * y))
        pattern = waves / 2 + 0.5
    else:
        cells = int(random.integers(3, 16))
        clouds = Image.fromarray(random.integers(0, 256, (cells, cells)).astype(np.uint8))
        pattern = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC), np.float64) / 255
    strength = random.uniform(0.1, 0.45)
    return np.asarray(ground + (third - ground) * strength * pattern[..., None])


def _colour(random: np.random.Generator, ground: NDArray[np.float64]) -> NDArray[np.float64]:
    """A strong colour that stands out from the ground."""
    while True:
        colour = random.uniform(0, 255, 3)
        if np.abs(colour - ground).sum() > 180 and colour.max() - colour.min() > 90:
            return np.asarray(colour)


def _cover(random: np.random.Generator, label: int, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W) how far each pixel is covered by a shape of random place, size and turn, 0..255."""
    height, width = size_hw
    # Small ones as often as large ones, by their logarithm.
    side = min(size_hw) * math.exp(random.uniform(math.log(_SIDE[0]), math.log(_SIDE[1])))
    radius = side / 2
    x, y = random.uniform(radius, width - radius), random.uniform(radius, height - radius)
    turn, name = random.uniform(0, 2 * math.pi), CLASSES[label]
    canvas = Image.new("L", (width * _FINER, height * _FINER))
    pen = ImageDraw.Draw(canvas)

    def corners(count: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
        turns = [turn + 2 * math.pi * corner / count for corner in range(count)]
        return [
            (
                (x + radii[corner % len(radii)] * math.cos(angle)) * _FINER,
                (y + radii[corner % len(radii)] * math.sin(angle)) * _FINER,
            )
            for corner, angle in enumerate(turns)
        ]

    def disc(size: float, level: int) -> None:
        edges = (x - size, y - size, x + size, y + size)
        pen.ellipse([edge * _FINER for edge in edges], fill=level)

    if name in ("disc", "ring"):
        disc(radius, 255)
        if name == "ring":
            disc(radius * 0.55, 0)
    elif name == "square":
        pen.polygon(corners(4, (radius,)), fill=255)
    elif name == "triangle":
        pen.polygon(corners(3, (radius,)), fill=255)
    else:
        pen.polygon(corners(10, (radius, radius * 0.42)), fill=255)
    return np.asarray(canvas.reduce(_FINER))


def _extent(inside: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The box around what is true."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
