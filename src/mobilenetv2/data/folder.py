"""A folder of pictures, one folder for each class: `train/<class>/*`, `val/<class>/*`, or classes alone."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from mobilenetv2.data.tree import Tree, fingerprint, open_tree
from mobilenetv2.errors import DataError
from mobilenetv2.runtime.images import PICTURE_SUFFIXES

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
DEFAULT_VAL_FRACTION = 0.1


class Item(NamedTuple):
    """One picture: its name in the tree and the index of its class."""

    name: str
    label: int


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Pictures by split. `derived` says that `val` was split off by seed, as no folder of that name was found."""

    tree: Tree
    classes: tuple[str, ...]
    splits: dict[str, tuple[Item, ...]]
    derived: bool

    @property
    def path(self) -> Path:
        return self.tree.path

    def counts(self, split: str) -> dict[str, int]:
        """Pictures of each class."""
        found = Counter(item.label for item in self.splits[split])
        return {name: found[index] for index, name in enumerate(self.classes)}

    def without(self, bad: set[str]) -> ImageFolder:
        """The same without the pictures named in `bad`."""
        splits = {split: tuple(i for i in items if i.name not in bad) for split, items in self.splits.items()}
        return ImageFolder(tree=self.tree, classes=self.classes, splits=splits, derived=self.derived)


def read_image_folder(path: Path, *, val_fraction: float = DEFAULT_VAL_FRACTION, seed: int = 0) -> ImageFolder:
    """Find splits and classes below a folder or `.zip` for training.

    Without a `val` folder, `val_fraction` of each class is taken off for it: the same pictures for the same
    seed on every machine, and adding a picture moves one other at most.
    Raises DataError for no pictures, a single class, a class of val or test that train lacks, or pictures
    beside the class folders.
    """
    tree = open_tree(path)
    found = _find(tree)
    if "train" not in found:
        if set(found) != {""}:
            named = listed(sorted(filter(None, found)))
            raise DataError(f"{path}: has {named} but no 'train' folder; put the training pictures there")
        found["train"] = found.pop("")
    elif "" in found:
        stray = found[""][0][0]
        raise DataError(f"{path}: {stray} lies beside the split folders; put it into train/, val/ or test/")
    classes = _class_names(found["train"], path)
    if len(classes) < 2:
        raise DataError(f"{path}: has one class only ({classes[0]!r}); classification needs two folders or more")
    splits = {split: _items(pictures, classes, f"{path}/{split}") for split, pictures in found.items()}
    derived = "val" not in splits
    if derived:
        splits["train"], splits["val"] = split_off(splits["train"], val_fraction, seed, group=_label)
        if not splits["val"]:
            raise DataError(
                f"{path}: has no 'val' folder and too few pictures to split one off "
                f"({len(splits['train'])}); add pictures, or a larger --set val_fraction"
            )
    return ImageFolder(tree=tree, classes=classes, splits=splits, derived=derived)


def read_labelled(
    path: Path, classes: Sequence[str], split: str | None = None, *, trained_on: dict[str, Any] | None = None
) -> tuple[Tree, str, tuple[Item, ...]]:
    """Pictures to measure a model on: the tree, the split's name, and the pictures labelled as the model numbers them.

    `split` None takes `val`, or the only split there is. `trained_on` is the "data" entry of the model
    card's training record: where it is this very data, and val was split off by seed, the same pictures
    are split off again, so that no training picture is ever counted.
    Raises DataError for a split that is not there, and for classes that `classes` lacks.
    """
    tree = open_tree(path)
    found = {name or "all": pictures for name, pictures in _find(tree).items()}
    source = "train" if "train" in found else "all"
    derived: dict[str, tuple[Item, ...]] = {}
    if trained_on is None or not trained_on.get("derived_val"):
        trained_on = {"fingerprint": None}
    if "val" not in found and source in found and fingerprint(tree) == trained_on["fingerprint"]:
        fraction, seed = float(trained_on["val_fraction"]), int(trained_on["seed"])
        items = _items(found.pop(source), classes, str(path))
        derived["train"], derived["val"] = split_off(items, fraction, seed, group=_label)
    names = [*derived, *found]
    if split is None:
        split = "val" if "val" in names else names[0] if len(names) == 1 else None
    if split is None or split not in names:
        wanted = f"no {split!r}" if split else "no 'val'"
        raise DataError(f"{path}: has {wanted} split; choose one with --split: {listed(names)}")
    # Only now, as the classes of another split are none of its business.
    place = f"{path}/{split}" if split != "all" else str(path)
    return tree, split, derived[split] if split in derived else _items(found[split], classes, place)


def _find(tree: Tree) -> dict[str, list[tuple[str, str]]]:
    """Split name ('' for classes alone) -> (file, class) of every picture. Raises DataError for none, and for stray."""
    layout = find_layout(tree)
    if layout.stray:
        raise DataError(
            f"{tree.path}/{layout.stray[0]}: lies in no class folder; put it into <class>/ or <split>/<class>/"
        )
    if not layout.found:
        raise DataError(f"{tree.path}: holds no pictures ({len(tree.names)} other files)")
    return layout.found


class Layout(NamedTuple):
    """Where the pictures lie, right or wrong.

    prefix: the folder around everything, with its slash, or "". found: split name ("" for classes alone) ->
    (file, class). stray: pictures in no class folder. others: files that are no pictures.
    """

    prefix: str
    found: dict[str, list[tuple[str, str]]]
    stray: list[str]
    others: list[str]


def find_layout(tree: Tree) -> Layout:
    """Sort the files of a tree by their names alone."""
    pictures: list[str] = []
    others: list[str] = []
    for name in tree.names:
        (pictures if Path(name).suffix.lower() in PICTURE_SUFFIXES else others).append(name)
    layout = Layout(_wrapping_folder(pictures), {}, [], others)
    for name in pictures:
        parts = name.removeprefix(layout.prefix).split("/")
        split = SPLIT_NAMES.get(parts[0].lower(), "")
        if split:
            parts = parts[1:]
        if len(parts) < 2:
            layout.stray.append(name)
        else:
            layout.found.setdefault(split, []).append((name, parts[0]))
    return layout


def _wrapping_folder(pictures: list[str]) -> str:
    """The single folder that holds everything, as archives often have it; splits do not count as one."""
    tops = {name.split("/")[0] for name in pictures}
    if len(tops) == 1 and all(name.count("/") >= 2 for name in pictures):
        (top,) = tops
        if top.lower() not in SPLIT_NAMES:
            return f"{top}/"
    return ""


def _class_names(pictures: list[tuple[str, str]], path: Path) -> tuple[str, ...]:
    return tuple(sorted({name for _, name in pictures}))


def _items(pictures: list[tuple[str, str]], classes: Sequence[str], place: str) -> tuple[Item, ...]:
    indices = {name: index for index, name in enumerate(classes)}
    unknown = sorted({name for _, name in pictures} - set(indices))
    if unknown:
        raise DataError(
            f"{place.rstrip('/')}: has {len(unknown)} class folders that the training classes lack "
            f"(first: {unknown[0]!r}); known are {listed(classes)}"
        )
    return tuple(Item(file, indices[name]) for file, name in pictures)


def _label(item: Item) -> int:
    return item.label


class Named(Protocol):
    """A picture of a data set."""

    @property
    def name(self) -> str: ...


Picture = TypeVar("Picture", bound=Named)


def split_off(
    pictures: Sequence[Picture], fraction: float, seed: int, *, group: Callable[[Picture], object]
) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    """(the rest, `fraction` of each group), chosen by a hash of seed and name; both in their old order."""
    groups: dict[object, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(group(picture), []).append(picture)
    taken: set[str] = set()
    for members in groups.values():
        members.sort(key=lambda one: hashlib.sha256(f"{seed}/{one.name}".encode("utf-8", "surrogatepass")).digest())
        # A group of one picture keeps it for training.
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        taken.update(member.name for member in members[:count])
    return tuple(p for p in pictures if p.name not in taken), tuple(p for p in pictures if p.name in taken)


def listed(names: Collection[str]) -> str:
    shown = [repr(name) for name in list(names)[:8]]
    return ", ".join(shown) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
