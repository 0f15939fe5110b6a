"""What is wrong with pictures, whatever they are labelled with."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from mobilenetv2.data.diagnosis import Finding, Severity, number
from mobilenetv2.data.tree import Tree
from mobilenetv2.errors import DataError, ImageError
from mobilenetv2.runtime.images import DECODE_ERRORS, IN_MEMORY, exif_orientation, open_image, without_warnings

EXAMPLES_KEPT = 5
TINY_PX = 32  # a side
HUGE_PIXELS = 50_000_000
# Every thread holds one decoded picture, but only one holds a huge one.
MAX_THREADS = 8
_HUGE_LOCK = threading.Lock()


def finding(id_: str, severity: Severity, examples: Sequence[str], text: str, remedy: str) -> Iterator[Finding]:
    """One finding, or none where there is nothing to show for it."""
    if examples:
        kept = tuple(examples[:EXAMPLES_KEPT])
        yield Finding(id=id_, severity=severity, count=len(examples), examples=kept, text=text, remedy=remedy)


def read_pictures(tree: Tree, names: Sequence[str]) -> dict[str, Checked]:
    """Decode each picture once; by name."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool:
        return {picture.name: picture for picture in pool.map(lambda name: _read(tree, name), names)}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found in one file. problem: ("" if there is none) one of `_PROBLEMS`, and in words."""

    name: str
    digest: str = ""
    problem: str = ""
    why: str = ""
    size_wh: tuple[int, int] = (0, 0)
    mode: str = ""
    is_turned: bool = False
    is_animated: bool = False


_PROBLEMS = {
    "unreadable-file": "that the system or the archive does not give",
    "empty-file": "of 0 bytes",
    "not-a-picture": "in no format that Pillow reads, whatever the ending of the name",
    "too-large": "with more pixels than are decoded",
    "damaged": "that cannot be decoded",
}


def _read(tree: Tree, name: str) -> Checked:
    try:
        content = tree.read(name)
    except DataError as error:
        return Checked(name=name, problem="unreadable-file", why=str(error))
    digest = hashlib.sha256(content).hexdigest()
    if not content:
        return Checked(name=name, problem="empty-file", why="0 bytes")
    try:
        with _HUGE_LOCK if _is_huge(content) else nullcontext():
            open_image(content)
    except ImageError as error:
        cause, why = error.__cause__, str(error).removeprefix(f"{IN_MEMORY}: ")
        problem = "damaged"
        if isinstance(cause, UnidentifiedImageError):
            problem = "not-a-picture"
        elif isinstance(cause, Image.DecompressionBombError):
            problem = "too-large"
        return Checked(name=name, digest=digest, problem=problem, why=why)
    # Once more, for what is gone once a picture is RGB.
    with without_warnings():
        image = Image.open(io.BytesIO(content))
        mode, size_wh = image.mode, image.size
        try:
            is_animated = getattr(image, "is_animated", False)
        except DECODE_ERRORS:
            # Damage behind the first frame, which alone is used.
            is_animated = True
    return Checked(
        name=name,
        digest=digest,
        size_wh=size_wh,
        mode=mode,
        is_turned=exif_orientation(image) in range(2, 9),
        is_animated=is_animated,
    )


def _is_huge(content: bytes) -> bool:
    """By the header alone."""
    try:
        with without_warnings(), Image.open(io.BytesIO(content)) as image:
            return image.width * image.height > HUGE_PIXELS
    except DECODE_ERRORS:
        # What is wrong is said where it is decoded.
        return False


def check_pictures(pictures: Sequence[Checked]) -> Iterator[Finding]:
    for problem, what in _PROBLEMS.items():
        bad = [picture for picture in pictures if picture.problem == problem]
        why = f" (first: {bad[0].name}: {bad[0].why})" if bad else ""
        yield from finding(
            problem,
            "error",
            [picture.name for picture in bad],
            f"{number(len(bad), 'picture')} {what}{why}",
            "Mend or remove, or train and evaluate with --skip-bad.",
        )
    good = [picture for picture in pictures if not picture.problem]
    tiny = [picture.name for picture in good if min(picture.size_wh) < TINY_PX]
    yield from finding(
        "tiny",
        "note",
        tiny,
        f"{number(len(tiny), 'picture')} with a side below {TINY_PX} pixels",
        "They are enlarged. If all are like that, choose a small --resolution and --recipe small.",
    )
    huge = [picture.name for picture in good if picture.size_wh[0] * picture.size_wh[1] > HUGE_PIXELS]
    yield from finding(
        "huge",
        "warning",
        huge,
        f"{number(len(huge), 'picture')} of more than {HUGE_PIXELS // 10**6} million pixels",
        "Decoding them slows every epoch; make them smaller.",
    )
    modes = Counter(picture.mode for picture in good if picture.mode != "RGB")
    yield from finding(
        "not-rgb",
        "note",
        [picture.name for picture in good if picture.mode != "RGB"],
        f"{number(modes.total(), 'picture')} not stored as RGB ("
        + ", ".join(f"{mode} {count:,}" for mode, count in modes.most_common())
        + ")",
        "They are converted: grey to three equal channels, transparency laid on white.",
    )
    turned = [picture.name for picture in good if picture.is_turned]
    yield from finding(
        "turned",
        "note",
        turned,
        f"{number(len(turned), 'picture')} that EXIF says to turn or mirror",
        "This is done, in training as in use.",
    )
    animated = [picture.name for picture in good if picture.is_animated]
    yield from finding(
        "animated", "note", animated, f"{number(len(animated), 'picture')} of several frames", "The first is used."
    )


def check_duplicates(found: Mapping[str, Sequence[tuple[str, str]]], pictures: dict[str, Checked]) -> Iterator[Finding]:
    """The same bytes twice. found: (name, what it is labelled with) of every picture, by split."""
    same: defaultdict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for split, members in found.items():
        for name, class_name in members:
            if not pictures[name].problem:
                same[pictures[name].digest].append((split, class_name, name))
    groups = [group for group in same.values() if len(group) > 1]
    contradictory = [group for group in groups if len({class_name for _, class_name, _ in group}) > 1]
    leaks = [group for group in groups if len({split for split, _, _ in group}) > 1]
    # Copies beyond the first of each split.
    copies = [group for group in groups if len({split for split, _, _ in group}) < len(group)]
    yield from finding(
        "contradictory-labels",
        "warning",
        [equation(group) for group in contradictory],
        f"{number(len(contradictory), 'picture')} filed under more than one class, byte for byte the same",
        "Keep each in the class that it belongs to.",
    )
    yield from finding(
        "duplicates-across-splits",
        "warning",
        [equation(group) for group in leaks],
        f"{number(len(leaks), 'picture')} in more than one split, byte for byte the same",
        "Keep each in one; a picture that was trained on measures memory, not skill.",
    )
    alone = " Where val is split off by seed, copies may fall on both sides." if "val" not in found else ""
    yield from finding(
        "duplicates",
        "warning",
        [equation(group) for group in copies],
        f"{number(len(copies), 'picture')} more than once in a split, byte for byte the same",
        f"Keep one of each.{alone}",
    )


def equation(group: Sequence[tuple[str, str, str]]) -> str:
    names = [name for _, _, name in group]
    return " = ".join(names[:3]) + (f" = {len(names) - 3} more" if len(names) > 3 else "")
