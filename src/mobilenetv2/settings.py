"""`name=value` settings, put into a record of plain values and checked against it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from mobilenetv2.errors import UserError, did_you_mean

R = TypeVar("R")


def changed(record: R, settings: Iterable[str] = (), *, fixed: Iterable[str] = (), **given: Any) -> R:
    """A frozen dataclass with `name=value` settings, and with the values that are not None, put in.

    fixed: names that no setting may change.
    Raises UserError for an unknown name, with the nearest one, and for a value of the wrong kind.
    """
    hints = get_type_hints(type(record))
    kinds = {name: kind for name, kind in hints.items() if name not in fixed and get_origin(kind) is not ClassVar}
    changes = {key: value for key, value in given.items() if value is not None}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise UserError(f"--set {setting}: give it as name=value")
        if key not in kinds:
            raise UserError(f"--set {setting}: there is no option {key!r}{did_you_mean(key, kinds)}")
        changes[key] = _parse(text, kinds[key], setting)
    return dataclasses.replace(record, **changes)  # type: ignore[type-var]


def _parse(text: str, kind: Any, setting: str) -> Any:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if text not in choices:
            raise UserError(f"--set {setting}: it can be {', '.join(choices)}{did_you_mean(text, choices)}")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"--set {setting}: it can be true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        word = {int: "a whole number", float: "a number"}[kind]
        raise UserError(f"--set {setting}: {text!r} is not {word}") from error
