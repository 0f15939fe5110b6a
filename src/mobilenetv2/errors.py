"""Errors that are the user's to mend: one line that names the place, the value and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something in the user's input or machine stands in the way.

    The message is one line: what was wrong, where, and what to do instead. The command line prints it
    without a traceback and exits with code 2.
    """


class ImageError(UserError):
    """One picture cannot be read. Where many are read, the others go on."""


class ModelFileError(UserError):
    """A model file is missing, damaged, foreign or too new."""


class DataError(UserError):
    """A data set cannot be used as it is."""


class DownloadError(UserError):
    """Weights could not be fetched, or are not the ones that were asked for."""


class ExportError(UserError):
    """An exported model does not answer like the one it was made from. It is not written."""


class MissingExtraError(UserError):
    """A part of the package needs libraries that the base installation leaves out."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs more libraries: pip install 'mobilenetv2[{extra}]'")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' for the nearest known word, or nothing if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
