"""Pictures of every kind in, RGB out; and a clear line for what is none."""

from __future__ import annotations

import http.server
import io
import os
import random
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from mobilenetv2.errors import ImageError, UserError
from mobilenetv2.runtime import images
from mobilenetv2.runtime.images import PICTURE_SUFFIXES, expand_sources, open_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 40, height: int = 30) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


# ---- What can be given


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = photo()
    content = encoded(picture)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    expected = np.asarray(picture)
    for source in (path, str(path), content, bytearray(content), picture, np.asarray(picture)):
        opened = open_image(source)  # type: ignore[arg-type]
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), expected)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    np.testing.assert_array_equal(np.asarray(open_image("-")), expected)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_arrays(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if shape[-1] == 4:
        array[..., 3] = 255
    opened = np.asarray(open_image(array))
    expected = np.broadcast_to(array.reshape(5, 7, -1)[..., :3], (5, 7, 3))
    np.testing.assert_array_equal(opened, expected)
    np.testing.assert_array_equal(np.asarray(open_image(array[::-1, ::2])), expected[::-1, ::2])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 7, 3), np.float32),
        np.zeros((5, 7, 2), np.uint8),
        np.zeros((5,), np.uint8),
        np.zeros((1, 5, 7, 3), np.uint8),
        np.zeros((0, 7, 3), np.uint8),
        np.zeros((5, 7), bool),
    ],
)
def test_other_arrays_are_refused_by_shape_and_type(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ImageError, match="uint8 of shape") as error:
        open_image(array)
    assert str(array.shape) in str(error.value)
    assert str(array.dtype) in str(error.value)


def test_an_upright_rgb_picture_is_not_copied() -> None:
    picture = photo()
    assert open_image(picture) is picture


def test_nonsense_is_refused() -> None:
    with pytest.raises(ImageError, match="int: is no picture"):
        open_image(3)  # type: ignore[arg-type]


# ---- Modes


def test_transparency_is_laid_on_white() -> None:
    half = Image.new("RGBA", (1, 1), (255, 0, 0, 0))
    assert open_image(half).getpixel((0, 0)) == WHITE
    assert open_image(Image.new("RGBA", (1, 1), (255, 0, 0, 255))).getpixel((0, 0)) == RED
    assert open_image(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0)) == WHITE
    assert open_image(Image.new("RGBa", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_a_palette_with_transparency(transparency: int | bytes) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 255, 255, 0, 0])
    picture.putdata([0, 1])
    opened = open_image(encoded(picture, transparency=transparency))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [WHITE, RED]


def test_grey_palette_cmyk_and_one_bit() -> None:
    grey = photo().convert("L")
    np.testing.assert_array_equal(np.asarray(open_image(encoded(grey)))[..., 2], np.asarray(grey))
    assert open_image(encoded(Image.new("1", (1, 1), 1))).getpixel((0, 0)) == WHITE
    red = open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))
    assert red.getpixel((0, 0)) == RED


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_divided_not_cut(kind: str) -> None:
    levels = np.array([[0, 256, 257, 32896, 65535]], np.uint16)
    opened = np.asarray(open_image(encoded(Image.fromarray(levels), kind)))
    assert opened[0, :, 0].tolist() == [0, 1, 1, 128, 255]


def test_sixteen_bits_with_a_transparent_level() -> None:
    levels = np.array([[0, 257]], np.uint16)
    opened = np.asarray(open_image(encoded(Image.fromarray(levels), transparency=0)))
    assert opened[0, :, 0].tolist() == [255, 1]


def test_integers_and_floating_point() -> None:
    integers = Image.fromarray(np.array([[0, 65535]], np.int32))
    assert np.asarray(open_image(integers))[0, :, 0].tolist() == [0, 255]
    floats = Image.fromarray(np.array([[0, 0.5, 1]], np.float32))
    assert np.asarray(open_image(floats))[0, :, 0].tolist() == [0, 128, 255]
    for bad in (np.array([[70000]], np.int32), np.array([[-1]], np.int32)):
        with pytest.raises(ImageError, match="16 bits"):
            open_image(Image.fromarray(bad))
    for level in (1.5, -0.1, np.nan):
        with pytest.raises(ImageError, match=r"0\.\.1"):
            open_image(Image.fromarray(np.array([[level]], np.float32)))


def test_of_an_animation_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, (0, 255, 0), (0, 0, 255))]
    for kind in ("GIF", "WEBP", "PNG"):
        if kind == "WEBP" and not features.check("webp"):
            continue
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert open_image(content).getpixel((3, 3)) == RED, kind


# ---- EXIF


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    upright = Image.new("RGB", (48, 32), WHITE)
    upright.paste(RED, (0, 0, 16, 16))
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(encoded(stored, kind, exif=exif.tobytes()))
    assert opened.size == (48, 32)
    # Lossy formats blur the edge of the red square; a wrong turn would move it, for a mean of 14 and more.
    assert np.abs(np.asarray(opened, int) - np.asarray(upright)).mean() < 4


def test_a_damaged_exif_block_does_not_cost_the_picture() -> None:
    content = encoded(photo(), "JPEG", exif=b"Exif\0\0garbage that is no TIFF header")
    assert open_image(content).size == (40, 30)


# ---- What cannot be read: one line, with the path


def refused(source: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as error:
            open_image(source)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_missing_empty_text_truncated_folder(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.jpg")
    content = encoded(photo(200, 200), "JPEG")
    for name, body, part in (
        ("empty.jpg", b"", "is empty"),
        ("text.jpg", b"these are words\n", "is not a picture"),
        ("cut.jpg", content[: len(content) // 2], "truncated"),
        ("cut.png", encoded(photo(200, 200))[:5000], "truncated"),
    ):
        path = tmp_path / name
        path.write_bytes(body)
        message = refused(path)
        assert message.startswith(f"{path}: ")
        assert part in message
    assert str(tmp_path) in refused(tmp_path)
    assert "null" in refused("a\0b.jpg")


def test_a_decompression_bomb_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(60000, 60000))
    message = refused(path)
    assert message.startswith(f"{path}: 60000x60000 pixels is more than the 178,956,970")


def test_the_limit_is_exact_and_pillows_own_warning_does_not_leak() -> None:
    # Above Pillow's warning and below the limit: decoding begins, and finds no rows.
    assert "cannot be decoded" in refused(png_header(13000, 13000))
    assert "178956971x1 pixels is more" in refused(png_header(178_956_971, 1))


def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(photo()))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "permission denied" in refused(path)


def test_postscript_is_not_run() -> None:
    body = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    assert "PostScript" in refused(body)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "PPM", "TGA", "PCX", "SGI"])
def test_damage_anywhere_is_a_picture_or_an_image_error(kind: str) -> None:
    content = encoded(photo(), kind)
    chance = random.Random(kind)
    for _ in range(120):
        damaged = bytearray(content)
        for _ in range(chance.randrange(1, 8)):
            damaged[chance.randrange(min(len(damaged), 400))] = chance.randrange(256)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged)) :]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                assert open_image(bytes(damaged)).mode == "RGB"
            except ImageError as error:
                assert "\n" not in str(error)


# ---- Addresses


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/a.png":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(encoded(photo()))
            elif self.path == "/long":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"x" * 3000)
            elif self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "ftp://127.0.0.1/a.png")
                self.end_headers()
            elif self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/a.png")
                self.end_headers()
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_addresses(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert open_image(f"{server}/a.png").size == (40, 30)
    assert open_image(f"{server}/moved").size == (40, 30)
    assert "404" in refused(f"{server}/b.png")
    assert "ftp" in refused(f"{server}/away")
    monkeypatch.setattr(images, "MAX_DOWNLOAD_BYTES", 1000)
    assert "longer than" in refused(f"{server}/long")


@pytest.mark.parametrize("address", ["ftp://host/a.png", "file:///etc/passwd", "data://x"])
def test_other_schemes_are_refused(address: str) -> None:
    assert "only http:// and https://" in refused(address)


def test_an_unreachable_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert "cannot be fetched" in refused("http://127.0.0.1:1/a.png")


# ---- Finding files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "note.txt", ".hidden.jpg", "sub/c.webp", "sub/deep/d.gif", "[odd].png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "void").mkdir()
    return tmp_path


def test_expanding(tree: Path) -> None:
    def expanded(*sources: str) -> list[str]:
        return [name.removeprefix(f"{tree}/") for name in expand_sources(sources)]

    everything = sorted(["[odd].png", "a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.gif"])
    assert expanded(str(tree)) == everything
    assert expanded(f"{tree}/*") == everything
    assert expanded(f"{tree}/*.jpg") == ["b.jpg"]
    assert expanded(f"{tree}/**/*.gif") == ["sub/deep/d.gif"]
    assert expanded(f"{tree}/**") == everything
    assert expanded(f"{tree}/[odd].png") == ["[odd].png"]
    assert expanded("-", "https://host/a*.png", f"{tree}/none.jpg") == ["-", "https://host/a*.png", "none.jpg"]


def test_nothing_found(tree: Path) -> None:
    with pytest.raises(UserError, match="holds no pictures"):
        list(expand_sources([tree / "void"]))
    with pytest.raises(UserError, match="matches no pictures"):
        list(expand_sources([f"{tree}/*.tif"]))


def test_pillow_knows_the_suffixes() -> None:
    assert PICTURE_SUFFIXES - set(Image.registered_extensions()) <= {".avif", ".avifs", ".webp", ".jp2", ".j2k", ".jpx"}
