"""The folder of an export: a runtime's own files, and beside them `card.json`, which says what they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenetv2.errors import ModelFileError
from mobilenetv2.files import reason
from mobilenetv2.modelfile import Card

CARD_FILE = "card.json"
FORMAT = 1
PRECISIONS = ("float32", "int8")


@dataclass(frozen=True, kw_only=True)
class Export:
    """What stands in a folder.

    target: the runtime that it was made for. precision: "float32" or "int8". card: of the model that it was made from.
    """

    folder: Path
    target: str
    precision: str
    card: Card


def write_card(export: Export) -> None:
    """Describe the files that lie in the folder: with their SHA-256, as some runtimes crash on damaged ones."""
    names = sorted(path.relative_to(export.folder).as_posix() for path in export.folder.rglob("*") if path.is_file())
    values = {
        "format": FORMAT,
        "target": export.target,
        "precision": export.precision,
        "files": {name: _digest(export.folder / name) for name in names},
        "card": json.loads(export.card.to_json()),
    }
    text = json.dumps(values, ensure_ascii=False, indent=2) + "\n"
    (export.folder / CARD_FILE).write_text(text, encoding="utf-8")


def read_export(folder: Path) -> Export:
    """Read and check a folder. Raises ModelFileError if something is missing, damaged, foreign or too new."""
    path = folder / CARD_FILE
    try:
        values: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelFileError(
            f"{folder}: is not the folder of an export: {CARD_FILE} cannot be read: {reason(error)}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: is damaged; export the model again") from error
    kinds = {"format": int, "target": str, "precision": str, "files": dict, "card": dict}
    if not isinstance(values, dict) or not all(isinstance(values.get(key), kind) for key, kind in kinds.items()):
        raise ModelFileError(f"{path}: is not the card of an export; export the model again")
    if values["format"] > FORMAT:
        raise ModelFileError(
            f"{path}: written in format {values['format']}, this version reads up to {FORMAT}; "
            "pip install --upgrade mobilenetv2"
        )
    if values["precision"] not in PRECISIONS:
        raise ModelFileError(f"{path}: precision {values['precision']!r} is not known; export the model again")
    for name, digest in values["files"].items():
        _check(folder, name, digest)
    return Export(
        folder=folder,
        target=values["target"],
        precision=values["precision"],
        card=Card.from_json(json.dumps(values["card"]), source=str(path)),
    )


def _check(folder: Path, name: str, digest: object) -> None:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ModelFileError(f"{folder / CARD_FILE}: names a file outside its folder ({name}); export the model again")
    try:
        found = _digest(folder / name)
    except OSError as error:
        raise ModelFileError(f"{folder / name}: cannot be read: {reason(error)}") from error
    if found != digest:
        raise ModelFileError(f"{folder / name}: is not the file that was exported (its SHA-256 differs); export again")


def _digest(path: Path) -> str:
    import hashlib  # brings OpenSSL, which only folders of exports need

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
