"""What is wrong, or odd, with a data set: found before hours are spent on it."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mobilenetv2.data.diagnosis import SEVERITIES, Diagnosis, Finding, Severity, number
from mobilenetv2.data.folder import SPLIT_NAMES, Layout, find_layout
from mobilenetv2.data.tree import FolderTree, Tree, is_ignored, open_tree
from mobilenetv2.errors import DataError, ImageError
from mobilenetv2.runtime.images import DECODE_ERRORS, IN_MEMORY, exif_orientation, open_image, without_warnings

# (file, class) of every picture, by split.
Found = dict[str, list[tuple[str, str]]]

EXAMPLES_KEPT = 5
MAX_IMBALANCE = 20  # largest class to smallest
FEW_PICTURES = 10  # of a class
TINY_PX = 32  # a side
HUGE_PIXELS = 50_000_000
# Every thread holds one decoded picture, but only one holds a huge one.
MAX_THREADS = 8
_HUGE_LOCK = threading.Lock()


def check(path: Path) -> Diagnosis:
    """Read every file of a folder or `.zip` once and say what is wrong with it. Needs no torch.

    Raises DataError only if there are no files at `path`, or they cannot be listed; all else is a finding.
    """
    tree = open_tree(path)
    layout = find_layout(tree)
    found: Found = dict(layout.found)
    if set(found) == {""}:
        found = {"all": found[""]}
    labelled = [name for members in found.values() for name, _ in members]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool:
        pictures = {picture.name: picture for picture in pool.map(lambda name: _read(tree, name), labelled)}
    findings = [
        *_check_layout(tree, layout),
        *_check_classes(found),
        *_check_pictures(list(pictures.values())),
        *_check_duplicates(found, pictures),
    ]
    source = found.get("train") or found.get("all") or [pair for members in found.values() for pair in members]
    return Diagnosis(
        data=str(path),
        images=len(labelled) + len(layout.stray),
        classes=tuple(sorted({name for _, name in source})),
        splits={split or "beside": len(members) for split, members in found.items()},
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
    )


def _finding(id_: str, severity: Severity, examples: Sequence[str], text: str, remedy: str) -> Iterator[Finding]:
    """One finding, or none where there is nothing to show for it."""
    if examples:
        kept = tuple(examples[:EXAMPLES_KEPT])
        yield Finding(id=id_, severity=severity, count=len(examples), examples=kept, text=text, remedy=remedy)


# ---- Where the files lie


def _check_layout(tree: Tree, layout: Layout) -> Iterator[Finding]:
    found, stray, others = layout.found, layout.stray, layout.others
    if not found and not stray:
        text = f"there are no pictures ({number(len(others), 'other file')})"
        yield from _finding("no-pictures", "error", [str(tree.path)], text, "Put pictures into a folder a class.")
        return
    yield from _finding(
        "no-class-folder",
        "error",
        stray,
        f"{number(len(stray), 'picture')} in no class folder",
        "Put them into <class>/ or <split>/<class>/, or take them out.",
    )
    if "" in found and len(found) > 1:
        beside = [name for name, _ in found[""]]
        yield from _finding(
            "beside-splits",
            "error",
            beside,
            f"{number(len(beside), 'picture')} beside the split folders",
            "Put them into train/, val/ or test/, or take them out.",
        )
    elif found and "" not in found and "train" not in found:
        yield from _finding(
            "no-train-split",
            "error",
            sorted(found),
            f"there is no 'train' folder, only {', '.join(sorted(found))}",
            "Training needs one; for evaluation alone this is as it should be.",
        )
    empty = sorted(_empty_folders(tree, layout))
    yield from _finding(
        "empty-class-folder",
        "warning",
        empty,
        f"{number(len(empty), 'folder')} without pictures",
        "They are no classes for the training. Fill them, or take them out.",
    )
    yield from _finding(
        "not-pictures",
        "note",
        others,
        f"{number(len(others), 'file')} without the ending of a picture's name",
        "They are ignored.",
    )


def _empty_folders(tree: Tree, layout: Layout) -> Iterator[str]:
    """Folders that would be a class, or a split, if there were a picture in them. Archives seldom list any."""
    if not isinstance(tree, FolderTree):
        return
    has_splits = any(split for split in layout.found)
    root = tree.path / layout.prefix
    pictures = [*layout.stray, *(name for members in layout.found.values() for name, _ in members)]
    filled = {tuple(name.removeprefix(layout.prefix).split("/")[:-1]) for name in pictures}
    tops = {parts[0] for parts in filled if parts}
    pairs = {parts[:2] for parts in filled}
    for top in _folders(root):
        if top.lower() not in SPLIT_NAMES:
            # Beside splits, a folder without pictures is nobody's class.
            if top not in tops and not has_splits:
                yield f"{layout.prefix}{top}"
        elif top not in tops:
            yield f"{layout.prefix}{top}"
        else:
            yield from (f"{layout.prefix}{top}/{name}" for name in _folders(root / top) if (top, name) not in pairs)


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not is_ignored(entry.name))


# ---- Classes


def _check_classes(found: Found) -> Iterator[Finding]:
    counts = {split: Counter(name for _, name in members) for split, members in found.items()}
    train = counts.get("train") or counts.get("all")
    if not train:
        return
    if len(train) == 1:
        yield from _finding(
            "one-class", "error", list(train), f"there is one class only: {next(iter(train))!r}", "Add a second class."
        )
    for split in ("val", "test"):
        yield from _compare_classes(split, counts.get(split, Counter()), train)
    if "val" not in counts and len(train) > 1 and max(train.values()) == 1:
        yield from _finding(
            "nothing-to-validate",
            "error",
            sorted(train),
            "there is no 'val' folder, and no class has a second picture to split off",
            "Add pictures.",
        )
    few = [f"{name} ({count})" for name, count in sorted(train.items(), key=lambda pair: pair[1])]
    few = few[: sum(count < FEW_PICTURES for count in train.values())]
    yield from _finding(
        "few-pictures",
        "warning",
        few,
        f"{number(len(few), 'class')} with fewer than {FEW_PICTURES} pictures to train on",
        "Add pictures; what a network cannot see often it does not learn.",
    )
    largest = max(train, key=lambda name: train[name])
    small = [name for name, count in sorted(train.items(), key=lambda pair: pair[1])]
    small = [f"{name} ({train[name]})" for name in small if train[name] * MAX_IMBALANCE < train[largest]]
    yield from _finding(
        "imbalance",
        "warning",
        small,
        f"{number(len(small), 'class')} more than {MAX_IMBALANCE} times smaller than "
        f"the largest, {largest!r} ({train[largest]:,})",
        "Add pictures to the small classes, and look at their recall, not at top-1 alone.",
    )


def _compare_classes(split: str, here: Counter[str], train: Counter[str]) -> Iterator[Finding]:
    unknown = sorted(set(here) - set(train))
    yield from _finding(
        f"unknown-class-in-{split}",
        "error",
        unknown,
        f"{number(len(unknown), 'class')} of {split} that train lacks",
        "Rename the folders as in train, or put pictures of them into train.",
    )
    missing = sorted(set(train) - set(here)) if here else []
    yield from _finding(
        f"class-missing-in-{split}",
        "warning",
        missing,
        f"{number(len(missing), 'class')} of train that {split} lacks",
        f"Put pictures of them into {split}; without, nobody knows how well they are learnt.",
    )


# ---- Pictures


@dataclass(frozen=True, kw_only=True)
class _Picture:
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


def _read(tree: Tree, name: str) -> _Picture:
    try:
        content = tree.read(name)
    except DataError as error:
        return _Picture(name=name, problem="unreadable-file", why=str(error))
    digest = hashlib.sha256(content).hexdigest()
    if not content:
        return _Picture(name=name, problem="empty-file", why="0 bytes")
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
        return _Picture(name=name, digest=digest, problem=problem, why=why)
    # Once more, for what is gone once a picture is RGB.
    with without_warnings():
        image = Image.open(io.BytesIO(content))
        mode, size_wh = image.mode, image.size
        try:
            is_animated = getattr(image, "is_animated", False)
        except DECODE_ERRORS:
            # Damage behind the first frame, which alone is used.
            is_animated = True
    return _Picture(
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


def _check_pictures(pictures: Sequence[_Picture]) -> Iterator[Finding]:
    for problem, what in _PROBLEMS.items():
        bad = [picture for picture in pictures if picture.problem == problem]
        why = f" (first: {bad[0].name}: {bad[0].why})" if bad else ""
        yield from _finding(
            problem,
            "error",
            [picture.name for picture in bad],
            f"{number(len(bad), 'picture')} {what}{why}",
            "Mend or remove, or train and evaluate with --skip-bad.",
        )
    good = [picture for picture in pictures if not picture.problem]
    tiny = [picture.name for picture in good if min(picture.size_wh) < TINY_PX]
    yield from _finding(
        "tiny",
        "note",
        tiny,
        f"{number(len(tiny), 'picture')} with a side below {TINY_PX} pixels",
        "They are enlarged. If all are like that, choose a small --resolution and --recipe small.",
    )
    huge = [picture.name for picture in good if picture.size_wh[0] * picture.size_wh[1] > HUGE_PIXELS]
    yield from _finding(
        "huge",
        "warning",
        huge,
        f"{number(len(huge), 'picture')} of more than {HUGE_PIXELS // 10**6} million pixels",
        "Decoding them slows every epoch; make them smaller.",
    )
    modes = Counter(picture.mode for picture in good if picture.mode != "RGB")
    yield from _finding(
        "not-rgb",
        "note",
        [picture.name for picture in good if picture.mode != "RGB"],
        f"{number(modes.total(), 'picture')} not stored as RGB ("
        + ", ".join(f"{mode} {count:,}" for mode, count in modes.most_common())
        + ")",
        "They are converted: grey to three equal channels, transparency laid on white.",
    )
    turned = [picture.name for picture in good if picture.is_turned]
    yield from _finding(
        "turned",
        "note",
        turned,
        f"{number(len(turned), 'picture')} that EXIF says to turn or mirror",
        "This is done, in training as in use.",
    )
    animated = [picture.name for picture in good if picture.is_animated]
    yield from _finding(
        "animated", "note", animated, f"{number(len(animated), 'picture')} of several frames", "The first is used."
    )


# ---- The same bytes twice


def _check_duplicates(found: Found, pictures: dict[str, _Picture]) -> Iterator[Finding]:
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
    yield from _finding(
        "contradictory-labels",
        "warning",
        [_equation(group) for group in contradictory],
        f"{number(len(contradictory), 'picture')} filed under more than one class, byte for byte the same",
        "Keep each in the class that it belongs to.",
    )
    yield from _finding(
        "duplicates-across-splits",
        "warning",
        [_equation(group) for group in leaks],
        f"{number(len(leaks), 'picture')} in more than one split, byte for byte the same",
        "Keep each in one; a picture that was trained on measures memory, not skill.",
    )
    alone = " Where val is split off by seed, copies may fall on both sides." if "val" not in found else ""
    yield from _finding(
        "duplicates",
        "warning",
        [_equation(group) for group in copies],
        f"{number(len(copies), 'picture')} more than once in a split, byte for byte the same",
        f"Keep one of each.{alone}",
    )


def _equation(group: Sequence[tuple[str, str, str]]) -> str:
    names = [name for _, _, name in group]
    return " = ".join(names[:3]) + (f" = {len(names) - 3} more" if len(names) > 3 else "")
