"""Pascal VOC: an XML file for each picture.

`Annotations/*.xml` with `JPEGImages/*` and `ImageSets/Main/<split>.txt`, or an XML file beside each picture.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np

from mobilenetv2.data.annotations import Annotations, BoxedPicture, Problem, checked_boxes
from mobilenetv2.data.folder import SPLIT_NAMES
from mobilenetv2.data.tree import Tree, upright_size
from mobilenetv2.errors import DataError, ImageError
from mobilenetv2.runtime.images import PICTURE_SUFFIXES

_EDGES = ("xmin", "ymin", "xmax", "ymax")


def is_voc(tree: Tree) -> bool:
    """Whether there is an XML file whose first element is VOC's; reads the first one alone."""
    name = next((name for name in tree.names if name.lower().endswith(".xml")), None)
    return name is not None and b"<annotation" in tree.read(name)[:2000]


def read_voc(tree: Tree) -> Annotations:
    """All splits. Classes in alphabetical order; difficult boxes are ignored ones.

    VOC counts pixels from 1 and names the last one that is inside, so a box is xmin - 1, ymin - 1, xmax, ymax.
    Where any box of the data begins at 0, it was counted from 0, and all are taken as they are.
    """
    problems: list[Problem] = []
    listed = _listed(tree, problems)
    files: dict[str, list[_File]] = {}
    for split, names in listed.items():
        read = (_read_file(tree, picture, xml, problems) for picture, xml in names)
        files[split] = [file for file in read if file is not None]
    objects = [one for some in files.values() for file in some for one in file.objects]
    starts = [min(one.edges[:2]) for one in objects if np.isfinite(one.edges).all()]
    shift = 0.0 if starts and min(starts) == 0 else 1.0
    classes = tuple(sorted({one.name for one in objects}))
    splits: dict[str, tuple[BoxedPicture, ...]] = {}
    image_id = 0
    for split, some in files.items():
        pictures = []
        for file in some:
            image_id += 1
            pictures.append(_picture(file, classes, shift, image_id, problems))
        splits[split] = tuple(pictures)
    return Annotations(tree=tree, format="voc", classes=classes, splits=splits, problems=tuple(problems))


class _Object(NamedTuple):
    name: str
    edges: tuple[float, float, float, float]
    is_difficult: bool
    place: str


class _File(NamedTuple):
    picture: str
    size_hw: tuple[int, int]
    objects: list[_Object]


def _listed(tree: Tree, problems: list[Problem]) -> dict[str, list[tuple[str, str]]]:
    """(picture, XML file) by split."""
    xml = {str(PurePosixPath(n).with_suffix("")): n for n in tree.names if n.lower().endswith(".xml")}
    pictures = {
        str(PurePosixPath(n).with_suffix("")): n
        for n in tree.names
        if PurePosixPath(n).suffix.lower() in PICTURE_SUFFIXES
    }
    root = next((name.split("Annotations/")[0] for name in xml.values() if "Annotations/" in f"/{name}"), None)
    if root is None:
        return _beside(xml, pictures, problems)
    found: dict[str, list[tuple[str, str]]] = {}
    lists = [
        (SPLIT_NAMES[stem], name)
        for name in tree.names
        for stem in [PurePosixPath(name).stem]
        if name.startswith(f"{root}ImageSets/Main/") and stem in SPLIT_NAMES
    ]
    for split, name in lists:
        for number, line in enumerate(tree.read(name).decode("utf-8", "replace").splitlines(), 1):
            stem = line.split()[0] if line.split() else ""
            if not stem:
                continue
            pair = (pictures.get(f"{root}JPEGImages/{stem}"), xml.get(f"{root}Annotations/{stem}"))
            if pair[0] is None or pair[1] is None:
                missing = "picture in JPEGImages/" if pair[0] is None else "XML file in Annotations/"
                problems.append(Problem(id="missing-file", place=f"{name}:{number}", text=f"{stem!r} has no {missing}"))
                continue
            found.setdefault(split, []).append((pair[0], pair[1]))
    if lists:
        return found
    prefix = f"{root}Annotations/"
    pairs = {stem.removeprefix(prefix): name for stem, name in xml.items() if stem.startswith(prefix)}
    return _beside(
        pairs, {s.removeprefix(f"{root}JPEGImages/"): n for s, n in pictures.items() if s.startswith(root)}, problems
    )


def _beside(xml: dict[str, str], pictures: dict[str, str], problems: list[Problem]) -> dict[str, list[tuple[str, str]]]:
    """Splits by the folders' names; an XML file belongs to the picture of its name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for stem, name in xml.items():
        if stem not in pictures:
            problems.append(Problem(id="missing-file", place=name, text="there is no picture of this name"))
            continue
        parts = [SPLIT_NAMES[part.lower()] for part in PurePosixPath(name).parts[:-1] if part.lower() in SPLIT_NAMES]
        found.setdefault(parts[0] if parts else "all", []).append((pictures[stem], name))
    return found


def _read_file(tree: Tree, picture: str, name: str, problems: list[Problem]) -> _File | None:
    # Entities, with which a small file becomes gigabytes, and references to other files are refused.
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    def refuse(kind: str, place: str, text: str) -> None:
        problems.append(Problem(id=kind, place=place, text=text))

    try:
        root: Element = fromstring(tree.read(name))
    except ParseError as error:
        refuse("malformed", f"{name}:{error.position[0]}", f"is not whole XML ({error})")
        return None
    except DefusedXmlException as error:
        refuse("malformed", name, f"holds what no annotation needs and none may have ({type(error).__name__})")
        return None
    except (ValueError, LookupError) as error:
        refuse("malformed", name, f"is not XML of a known encoding ({error})")
        return None
    except DataError as error:
        refuse("unreadable-file", name, str(error))
        return None
    try:
        size_hw = upright_size(tree, picture)
    except ImageError:
        # Found, and said, where all pictures are decoded.
        size_hw = (0, 0)
    said = _number(root.findtext("size/height")), _number(root.findtext("size/width"))
    if size_hw == (0, 0):
        size_hw = (int(said[0]), int(said[1])) if all(1 <= side < np.inf for side in said) else (1, 1)
    # Some tools write 0 for a size that they do not know.
    elif all(side > 0 for side in said) and said != size_hw:
        real = f"{size_hw[1]}x{size_hw[0]}"
        refuse("size-mismatch", name, f"says {said[1]:g}x{said[0]:g} pixels, but {picture} has {real}")
        return None
    objects = []
    for number, element in enumerate(root.iter("object"), 1):
        place = f"{name}: object {number}"
        label = (element.findtext("name") or "").strip()
        if not label:
            refuse("no-class", place, "has no name")
            continue
        edges = [_number(element.findtext(f"bndbox/{edge}")) for edge in _EDGES]
        is_difficult = (element.findtext("difficult") or "0").strip() == "1"
        objects.append(_Object(label, (edges[0], edges[1], edges[2], edges[3]), is_difficult, place))
    return _File(picture, size_hw, objects)


def _number(text: str | None) -> float:
    """NaN, which is refused later, for what is no number."""
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _picture(
    file: _File, classes: tuple[str, ...], shift: float, image_id: int, problems: list[Problem]
) -> BoxedPicture:
    edges = np.array([one.edges for one in file.objects], np.float64).reshape(-1, 4)
    edges[:, :2] -= shift
    boxes, kept, wrong = checked_boxes(edges, file.size_hw, [one.place for one in file.objects])
    problems += wrong
    objects = [file.objects[index] for index in kept]
    return BoxedPicture(
        name=file.picture,
        size_hw=file.size_hw,
        boxes_xyxy=boxes,
        labels=np.array([classes.index(one.name) for one in objects], np.int64),
        ignored=np.array([one.is_difficult for one in objects], bool),
        crowd=np.zeros(len(objects), bool),
        image_id=image_id,
    )
