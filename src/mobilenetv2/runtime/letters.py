"""Letters for drawings, in whatever script the names of classes are written."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Looked for where Pillow's own letters, which are little more than English, lack one: fonts that know many
# scripts, as Linux, macOS and Windows have them.
FONT_FILES = (
    *(
        "DejaVuSans.ttf",
        "NotoSans-Regular.ttf",
        "NotoSansCJK-Regular.ttc",
        "DroidSansFallbackFull.ttf",
        "wqy-zenhei.ttc",
    ),
    *("Arial Unicode.ttf", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "Kohinoor.ttc", "Thonburi.ttc"),
    *("arial.ttf", "msyh.ttc", "YuGothM.ttc", "malgun.ttf", "Nirmala.ttf", "LeelawUI.ttf", "seguisym.ttf"),
)
_NO_CHARACTER = "\uffff"


@lru_cache(maxsize=64)
def plain(text_px: int) -> Font:
    """Pillow's own letters, enough for numbers."""
    return ImageFont.load_default(text_px)


@lru_cache(maxsize=4096)
def letters_for(name: str, index: int, text_px: int) -> tuple[str, Font]:
    """The name of class `index` on one line, and a font that has all its letters.

    Where this machine has no such font the name is '#' and the index, since rows of empty frames tell nobody
    anything. text_px: height of the letters.
    """
    name = " ".join(name.split())
    own = plain(text_px)
    if _has_all(own, name):
        return name, own
    for file in FONT_FILES:
        font = _open(file, text_px)
        if font is not None and _has_all(font, name):
            return name, font
    return f"#{index}", own


def fit(text: str, width_px: float, font: Font) -> str:
    """The text, its end cut off if it is too long."""
    if font.getlength(text) <= width_px:
        return text
    too_many = bisect_right(range(len(text)), width_px, key=lambda kept: font.getlength(f"{text[:kept]}..."))
    return f"{text[: max(0, too_many - 1)].rstrip()}..."


def _has_all(font: Font, text: str) -> bool:
    missing = _shape(font, _NO_CHARACTER)
    return all(_shape(font, letter) != missing for letter in set(text) if not letter.isspace())


def _shape(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@lru_cache(maxsize=64)
def _open(file: str, text_px: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(file, text_px)
    except OSError:  # this system does not have it
        return None
