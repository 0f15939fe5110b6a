"""The picture with its answer drawn on it or written below."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image, ImageDraw

from mobilenetv2.errors import UserError
from mobilenetv2.files import reason, write_aside
from mobilenetv2.predictions import Classification, Prediction, Segmentation
from mobilenetv2.runtime.draw_boxes import draw_boxes
from mobilenetv2.runtime.draw_masks import legend, mask_png, paint_masks
from mobilenetv2.runtime.images import Source, open_image
from mobilenetv2.runtime.letters import fit, letters_for, plain

_PAPER = (255, 255, 255)
_INK = (24, 24, 27)
_BAR = (37, 99, 235)
_GROOVE = (228, 228, 231)
_MIN_WIDTH = 320
_MIN_HEIGHT = 40  # of a page with boxes: two lines
_MAX_SIDE = 16_000  # of the picture; a JPEG ends at 65500 pixels a side
_MAX_NAME_BYTES = 200  # file systems end at 255, and the temporary file's name is longer
_SHOWN = 3


def draw(image: Image.Image, prediction: Prediction) -> Image.Image:
    """An RGB picture of any size -> a new one with the answer: boxes or masks on it, or the best classes below it.

    A picture narrower than 320 pixels is enlarged by a whole factor, so that the names can be read; one
    longer than 16000 is made smaller.
    """
    size = image.size
    if max(size) > _MAX_SIDE:
        image = image.copy()
        image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    factor = -(-_MIN_WIDTH // image.width)
    # A long upright picture would become huge; paper beside it does as well.
    while factor > 1 and image.height * factor > 2 * _MIN_WIDTH:
        factor -= 1
    picture = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if isinstance(prediction, Classification):
        return _with_band(picture, prediction)
    if isinstance(prediction, Segmentation):
        return _with_legend(picture, prediction)
    page = _page(picture, max(picture.height, _MIN_HEIGHT))
    scale = (picture.width / size[0], picture.height / size[1])
    draw_boxes(page, prediction, scale=scale, left=_left(picture, page))
    return page


def _page(picture: Image.Image, height: int) -> Image.Image:
    """Paper with the picture in the middle of its upper edge."""
    page = Image.new("RGB", (max(picture.width, _MIN_WIDTH), height), _PAPER)
    page.paste(picture, (_left(picture, page), 0))
    return page


def _left(picture: Image.Image, page: Image.Image) -> int:
    return (page.width - picture.width) // 2


def _text_px(picture: Image.Image) -> int:
    """Letters grow with the picture: 4000 pixels are looked at as large as 400."""
    return max(14, min(max(picture.width, _MIN_WIDTH), picture.height * 2) // 28)


def _with_legend(picture: Image.Image, segmentation: Segmentation) -> Image.Image:
    """The picture in the colours of its classes, and what they mean below."""
    band = legend(segmentation, max(picture.width, _MIN_WIDTH), _text_px(picture))
    page = _page(paint_masks(picture, segmentation), picture.height + band.height)
    page.paste(band, (0, picture.height))
    return page


def _with_band(picture: Image.Image, classification: Classification) -> Image.Image:
    """The three best names and their scores in a band below the picture."""
    width = max(picture.width, _MIN_WIDTH)
    labels = classification.top(_SHOWN)
    text_px = _text_px(picture)
    font = plain(text_px)
    line_px, margin_px = text_px * 7 // 4, text_px * 3 // 4
    page = _page(picture, picture.height + len(labels) * line_px + 2 * margin_px)
    pen = ImageDraw.Draw(page)
    percent_px = int(pen.textlength("100.0 %", font)) + 1
    bar_px = max(text_px * 4, width // 4)
    name_px = width - bar_px - percent_px - 4 * margin_px
    bar_left = 2 * margin_px + name_px
    for row, label in enumerate(labels):
        top = picture.height + margin_px + row * line_px
        middle = top + line_px // 2
        name, letters = letters_for(label.name, label.index, text_px)
        pen.text((margin_px, middle), fit(name, name_px, letters), _INK, letters, anchor="lm")
        bar = [bar_left, middle - text_px // 4, bar_left + bar_px, middle + text_px // 4]
        pen.rectangle(bar, _GROOVE)
        if filled := round(bar_px * label.score):
            pen.rectangle([*bar[:2], bar_left + filled, bar[3]], _BAR)
        pen.text((width - margin_px, middle), f"{label.score:.1%}".replace("%", " %"), _INK, font, anchor="rm")
    return page


def save_drawing(source: Source, prediction: Prediction, folder: Path, taken: set[str]) -> Path:
    """Draw and write `folder/<name of the source>.jpg`, and a mask beside it as `.png` of class numbers.

    A number tells apart sources of one name.

    taken: the names given so far, in small letters, to which this one is added.
    Raises UserError if it cannot be written, or would take the place of the source itself.
    """
    stem = os.fsencode(Path(prediction.source).stem.strip("-"))[:_MAX_NAME_BYTES].decode(errors="ignore")
    stem = stem or "picture"
    name, number = stem, 1
    # Some file systems take A and a for one.
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.casefold())
    stream = io.BytesIO()
    draw(open_image(source), prediction).save(stream, "jpeg", quality=92)
    endings = (".jpg", ".png") if isinstance(prediction, Segmentation) else (".jpg",)
    for target in (folder / f"{name}{ending}" for ending in endings):
        # An address is no file, however long it is, which pathlib would stumble over.
        is_file = os.path.exists(prediction.source)  # noqa: PTH110
        if is_file and target.exists() and target.samefile(prediction.source):
            raise UserError(f"{target}: would take the place of the picture itself; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {reason(error)}") from error
    write_aside(folder / f"{name}.jpg", stream.getvalue())
    if isinstance(prediction, Segmentation):
        write_aside(folder / f"{name}.png", mask_png(prediction))
    return folder / f"{name}.jpg"
