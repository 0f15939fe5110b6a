"""From whatever holds a picture to an RGB picture: files, bytes, arrays, addresses; and finding the files."""

from __future__ import annotations

import glob
import io
import math
import os
import stat
import struct
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mobilenetv2.errors import ImageError, UserError
from mobilenetv2.files import reason
from mobilenetv2.preprocessing import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

Source = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]

STDIN = "-"
IN_MEMORY = "picture in memory"  # what bytes are called in errors
MAX_DOWNLOAD_BYTES = 64 * 2**20
DOWNLOAD_TIMEOUT_S = 30.0
# What Pillow reads and people use for photographs; a literal list, since asking Pillow loads all its plugins.
PICTURE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
        *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pcx", ".tga", ".ico", ".avif", ".avifs"),
        *(".dds", ".sgi", ".rgb", ".bw", ".qoi"),
    )
)
# What Pillow's decoders raise for damaged content; they do not agree on one.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_JPEG_START = b"\xff\xd8\xff"
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Without one of these a picture has no EXIF orientation, and there is no need to look for it.
_EXIF_HOLDERS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_WARNINGS_LOCK = threading.Lock()


def open_image(source: Source) -> Image.Image:
    """One picture as RGB, upright by its EXIF orientation.

    source: a path, an http(s) address, '-' for standard input, the bytes of a file, a Pillow picture, or
        a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), in RGB order.
    Transparency is laid on white. 16-bit grey is divided by 257, floating point is taken as 0..1. Of an
    animation, the first frame is taken. A Pillow picture that is upright RGB already is returned itself.
    Raises ImageError for what cannot be read or decoded, or has more than 178,956,970 pixels, which is
    found out before decoding.
    """
    if isinstance(source, Image.Image):
        return _upright_rgb(source, name_of(source) or "picture")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(source), IN_MEMORY, len(source))
    if not isinstance(source, str | os.PathLike):
        raise ImageError(f"{type(source).__name__}: is no picture; give a path, bytes, an array or a Pillow picture")
    name = os.fspath(source)
    if name == STDIN:
        content = read_stdin()
        return _decode(io.BytesIO(content), "standard input", len(content))
    if is_address(name):
        content = _download(name)
        return _decode(io.BytesIO(content), name, len(content))
    try:
        with Path(name).open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                content = _read_bounded(file.read, name)
                return _decode(io.BytesIO(content), name, len(content))
            return _decode(file, name, status.st_size)
    except OSError as error:
        raise ImageError(f"{name}: cannot be read: {reason(error)}") from error
    except ValueError as error:
        raise ImageError(f"{name!r}: cannot be a path ({error})") from error


def read_stdin() -> bytes:
    """Everything that comes through standard input, which can be read only once. Raises ImageError if too much."""
    return _read_bounded(sys.stdin.buffer.read, "standard input")


def name_of(source: Source) -> str:
    """What a picture is called in answers and errors; '' for something in memory."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "filename", "") or "")


def is_address(name: str) -> bool:
    """Whether `name` is an address such as https://... and not a path."""
    scheme, separator, _ = name.partition("://")
    return bool(separator) and scheme.isalnum()


def expand_sources(sources: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    """The pictures that `sources` name, in their order.

    A folder gives the pictures at any depth below it, sorted; a pattern with *, ? or [] what it matches
    (`**` is any depth), folders included; anything else gives itself, whether it exists or not.
    Raises UserError where a folder or a pattern gives no picture.
    """
    for source in sources:
        name = os.fspath(source)
        if name == STDIN or is_address(name):
            yield name
        elif Path(name).is_dir():
            found = sorted(_pictures_below(name))
            if not found:
                raise UserError(f"{name}: holds no pictures")
            yield from found
        elif glob.has_magic(name) and not Path(name).exists():
            found = sorted(_pictures_of_pattern(name))
            if not found:
                raise UserError(f"{name}: matches no pictures")
            yield from found
        else:
            yield name


def _pictures_of_pattern(pattern: str) -> set[str]:
    found: set[str] = set()
    # Not Path.glob, which takes no absolute patterns.
    for match in glob.iglob(pattern, recursive=True):  # noqa: PTH207
        if Path(match).is_dir():
            # With `**`, glob goes down by itself.
            found.update(() if "**" in pattern else _pictures_below(match))
        elif Path(match).suffix.lower() in PICTURE_SUFFIXES:
            found.add(match)
    return found


def _pictures_below(folder: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed: {reason(error)}") from error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES:
                yield str(Path(parent) / name)


def _from_array(array: NDArray[np.generic]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not is_picture or array.dtype != np.uint8 or 0 in array.shape:
        raise ImageError(
            f"an array of shape {array.shape} and type {array.dtype} is no picture; "
            "give uint8 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise _too_large("array", array.shape[1], array.shape[0])
    return _upright_rgb(Image.fromarray(np.ascontiguousarray(array)), "array")


def _decode(file: IO[bytes], name: str, size: int) -> Image.Image:
    if size == 0:
        raise ImageError(f"{name}: is empty (0 bytes)")
    try:
        with without_warnings():
            image = _open(file)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: is not a picture in a format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, *_declared_size(file)) from error
    except DECODE_ERRORS as error:
        raise ImageError(f"{name}: cannot be decoded: {_first_line(error)}") from error
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, image.width, image.height)
    if image.format == "EPS":
        raise ImageError(f"{name}: is a PostScript program, which is not run; save it as PNG")
    return _upright_rgb(image, name)


def _open(file: IO[bytes]) -> ImageFile:
    """`Image.open`, which first loads Pillow's plugins of five formats; most pictures need one of them."""
    if file.read(len(_JPEG_START)) == _JPEG_START:
        from PIL.JpegImagePlugin import jpeg_factory

        file.seek(0)
        try:
            return jpeg_factory(file)
        except (SyntaxError, IndexError, TypeError, struct.error):
            pass  # as there, which then asks the other plugins
    return Image.open(file)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Pillow warns of what is answered here with an error, or does not matter.

    Python's filters belong to all threads, so only one at a time may put them aside, and only for as long
    as a header takes.
    """
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _declared_size(file: IO[bytes]) -> tuple[int, int]:
    """Width and height in the header of a file that Pillow refuses to open because of them."""
    file.seek(0)
    start = file.read(16)
    for factory, accept in Image.OPEN.values():
        if accept is None or accept(start) is not True:
            continue
        file.seek(0)
        try:
            with without_warnings():
                return factory(file, "").size
        except DECODE_ERRORS:
            continue
    return 0, 0


def _too_large(name: str, width: int, height: int) -> ImageError:
    size = f"{width}x{height} pixels is" if width else "its size is"
    return ImageError(f"{name}: {size} more than the {MAX_PIXELS:,} pixels that are decoded; make it smaller")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 (upright) if there is none, or it is damaged, as viewers do."""
    if image.format != "TIFF" and not any(key in image.info for key in _EXIF_HOLDERS):
        return 1
    try:
        with without_warnings():
            return int(image.getexif().get(_ORIENTATION, 1))
    except DECODE_ERRORS:
        return 1


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, image.width, image.height)
    try:
        # TIFF's loading reads the header once more, with all its warnings.
        with without_warnings() if image.format == "TIFF" else nullcontext():
            image.load()
        rgb = _to_rgb(image)
        turn = _UPRIGHT.get(exif_orientation(image))
        return rgb if turn is None else rgb.transpose(turn)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except DECODE_ERRORS as error:
        raise ImageError(f"{name}: cannot be decoded: {_first_line(error)}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_grey(image)
    if image.has_transparency_data:
        if image.mode in ("La", "RGBa"):
            image = image.convert(image.mode.upper())
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_grey(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and floating-point grey to 8 bits."""
    levels = np.asarray(image)
    if levels.dtype.kind == "f":
        if not (np.isfinite(levels).all() and levels.min() >= 0 and levels.max() <= 1):
            raise ImageError("its floating-point levels are not all within 0..1; save it with 8 bits a level")
        eight = np.rint(levels * 255)
    else:
        if not (levels.min() >= 0 and levels.max() <= 65535):
            raise ImageError("its levels do not fit 16 bits; save it with 8 bits a level")
        eight = (levels.astype(np.uint32) + 128) // 257
    grey = Image.fromarray(eight.astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.paste(255, mask=Image.fromarray(levels == transparent))
    return grey


def _read_bounded(read: Callable[[int], bytes], name: str, deadline: float = math.inf) -> bytes:
    """All of a stream of unknown length, up to 64 MiB, and up to `deadline` of the monotonic clock."""
    parts, size = [], 0
    while part := read(2**20):
        parts.append(part)
        size += len(part)
        if size > MAX_DOWNLOAD_BYTES:
            raise ImageError(f"{name}: is longer than {MAX_DOWNLOAD_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise ImageError(f"{name}: took longer than {DOWNLOAD_TIMEOUT_S:.0f} s")
    return b"".join(parts)


def _download(address: str) -> bytes:
    from http.client import HTTPException
    from urllib import request
    from urllib.error import HTTPError

    if not address.lower().startswith(("http://", "https://")):
        raise ImageError(f"{address}: only http:// and https:// addresses can be read")
    # Not urlopen, which would follow a redirection to ftp:// too.
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.UnknownHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    try:
        asked = request.Request(address, headers={"User-Agent": "mobilenetv2"})  # noqa: S310 - the scheme is checked
        with opener.open(asked, timeout=DOWNLOAD_TIMEOUT_S) as answer:
            return _read_bounded(answer.read1, address, time.monotonic() + DOWNLOAD_TIMEOUT_S)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise ImageError(f"{address}: cannot be fetched: {_first_line(error)}") from error
