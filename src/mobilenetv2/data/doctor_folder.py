"""What is wrong with an image folder: a folder of pictures for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mobilenetv2.data.diagnosis import SEVERITIES, Diagnosis, Finding, number
from mobilenetv2.data.doctor_pictures import check_duplicates, check_pictures, finding, read_pictures
from mobilenetv2.data.folder import SPLIT_NAMES, Layout, find_layout
from mobilenetv2.data.tree import FolderTree, Tree, is_ignored

# (file, class) of every picture, by split.
Found = dict[str, list[tuple[str, str]]]

MAX_IMBALANCE = 20  # largest class to smallest
FEW_PICTURES = 10  # of a class


def check_folder(tree: Tree) -> Diagnosis:
    """Read every file once and say what is wrong with it."""
    layout = find_layout(tree)
    found: Found = dict(layout.found)
    if set(found) == {""}:
        found = {"all": found[""]}
    labelled = [name for members in found.values() for name, _ in members]
    pictures = read_pictures(tree, labelled)
    findings = [
        *_check_layout(tree, layout),
        *_check_classes(found),
        *check_pictures(list(pictures.values())),
        *check_duplicates(found, pictures),
    ]
    source = found.get("train") or found.get("all") or [pair for members in found.values() for pair in members]
    return Diagnosis(
        data=str(tree.path),
        images=len(labelled) + len(layout.stray),
        classes=tuple(sorted({name for _, name in source})),
        splits={split or "beside": len(members) for split, members in found.items()},
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
    )


# ---- Where the files lie


def _check_layout(tree: Tree, layout: Layout) -> Iterator[Finding]:
    found, stray, others = layout.found, layout.stray, layout.others
    if not found and not stray:
        text = f"there are no pictures ({number(len(others), 'other file')})"
        yield from finding("no-pictures", "error", [str(tree.path)], text, "Put pictures into a folder a class.")
        return
    yield from finding(
        "no-class-folder",
        "error",
        stray,
        f"{number(len(stray), 'picture')} in no class folder",
        "Put them into <class>/ or <split>/<class>/, or take them out.",
    )
    if "" in found and len(found) > 1:
        beside = [name for name, _ in found[""]]
        yield from finding(
            "beside-splits",
            "error",
            beside,
            f"{number(len(beside), 'picture')} beside the split folders",
            "Put them into train/, val/ or test/, or take them out.",
        )
    elif found and "" not in found and "train" not in found:
        yield from finding(
            "no-train-split",
            "error",
            sorted(found),
            f"there is no 'train' folder, only {', '.join(sorted(found))}",
            "Training needs one; for evaluation alone this is as it should be.",
        )
    empty = sorted(_empty_folders(tree, layout))
    yield from finding(
        "empty-class-folder",
        "warning",
        empty,
        f"{number(len(empty), 'folder')} without pictures",
        "They are no classes for the training. Fill them, or take them out.",
    )
    yield from finding(
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
        yield from finding(
            "one-class", "error", list(train), f"there is one class only: {next(iter(train))!r}", "Add a second class."
        )
    for split in ("val", "test"):
        yield from _compare_classes(split, counts.get(split, Counter()), train)
    if "val" not in counts and len(train) > 1 and max(train.values()) == 1:
        yield from finding(
            "nothing-to-validate",
            "error",
            sorted(train),
            "there is no 'val' folder, and no class has a second picture to split off",
            "Add pictures.",
        )
    few = [f"{name} ({count})" for name, count in sorted(train.items(), key=lambda pair: pair[1])]
    few = few[: sum(count < FEW_PICTURES for count in train.values())]
    yield from finding(
        "few-pictures",
        "warning",
        few,
        f"{number(len(few), 'class')} with fewer than {FEW_PICTURES} pictures to train on",
        "Add pictures; what a network cannot see often it does not learn.",
    )
    largest = max(train, key=lambda name: train[name])
    small = [name for name, count in sorted(train.items(), key=lambda pair: pair[1])]
    small = [f"{name} ({train[name]})" for name in small if train[name] * MAX_IMBALANCE < train[largest]]
    yield from finding(
        "imbalance",
        "warning",
        small,
        f"{number(len(small), 'class')} more than {MAX_IMBALANCE} times smaller than "
        f"the largest, {largest!r} ({train[largest]:,})",
        "Add pictures to the small classes, and look at their recall, not at top-1 alone.",
    )


def _compare_classes(split: str, here: Counter[str], train: Counter[str]) -> Iterator[Finding]:
    unknown = sorted(set(here) - set(train))
    yield from finding(
        f"unknown-class-in-{split}",
        "error",
        unknown,
        f"{number(len(unknown), 'class')} of {split} that train lacks",
        "Rename the folders as in train, or put pictures of them into train.",
    )
    missing = sorted(set(train) - set(here)) if here else []
    yield from finding(
        f"class-missing-in-{split}",
        "warning",
        missing,
        f"{number(len(missing), 'class')} of train that {split} lacks",
        f"Put pictures of them into {split}; without, nobody knows how well they are learnt.",
    )
