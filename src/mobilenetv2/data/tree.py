"""A folder, or a `.zip` of one, read by relative name."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import threading
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from PIL import Image

from mobilenetv2.errors import DataError, ImageError
from mobilenetv2.files import reason
from mobilenetv2.runtime.images import DECODE_ERRORS, IN_MEMORY, exif_orientation, open_image, without_warnings

# What systems leave lying about.
_IGNORED = {"__MACOSX", "Thumbs.db", "desktop.ini"}
# One file may not be larger, nor unpack to more.
MAX_MEMBER_BYTES = 512 * 2**20


class Tree(Protocol):
    """Files below one place. `names` are sorted, relative, with forward slashes."""

    @property
    def path(self) -> Path: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def read(self, name: str) -> bytes:
        """The content of one file. Raises DataError, which names it."""

    def size(self, name: str) -> int:
        """Bytes of one file. Raises DataError, which names it."""


@dataclass(frozen=True)
class FolderTree:
    path: Path
    names: tuple[str, ...]

    def read(self, name: str) -> bytes:
        if self.size(name) > MAX_MEMBER_BYTES:
            raise DataError(f"{self.path / name}: is larger than {MAX_MEMBER_BYTES >> 20} MiB")
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path / name}: cannot be read: {reason(error)}") from error

    def size(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_size
        except OSError as error:
            raise DataError(f"{self.path / name}: cannot be read: {reason(error)}") from error


@dataclass(frozen=True)
class ZipTree:
    """Reads members without unpacking; each process opens the archive for itself."""

    path: Path
    names: tuple[str, ...]

    def read(self, name: str) -> bytes:
        try:
            archive = _open_archive(self.path)
            with _ARCHIVES_LOCK:
                if archive.getinfo(name).file_size > MAX_MEMBER_BYTES:
                    raise DataError(f"{self.path}/{name}: unpacks to more than {MAX_MEMBER_BYTES >> 20} MiB")
                return archive.read(name)
        except _ARCHIVE_ERRORS as error:
            raise DataError(f"{self.path}/{name}: cannot be read from the archive ({error})") from error

    def size(self, name: str) -> int:
        try:
            return _open_archive(self.path).getinfo(name).file_size
        except _ARCHIVE_ERRORS as error:
            raise DataError(f"{self.path}/{name}: cannot be read from the archive ({error})") from error


# What zipfile raises for damaged, encrypted or foreign content, and for members that are gone.
_ARCHIVE_ERRORS = (
    OSError,
    EOFError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    ValueError,  # names that are not the UTF-8 that they are said to be
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)

_ARCHIVES: dict[tuple[int, Path], zipfile.ZipFile] = {}
# A ZipFile is one file handle with one position.
_ARCHIVES_LOCK = threading.Lock()


def _open_archive(path: Path) -> zipfile.ZipFile:
    key = (os.getpid(), path)
    with _ARCHIVES_LOCK:
        if key not in _ARCHIVES:
            _ARCHIVES[key] = zipfile.ZipFile(path)
        return _ARCHIVES[key]


def open_tree(path: Path) -> Tree:
    """List a folder or a `.zip`, without what systems leave lying about.

    Raises DataError if there is nothing there, or it is neither.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder or archive")
    if path.is_dir():
        tree: Tree = FolderTree(path, tuple(sorted(_list_folder(path))))
    elif zipfile.is_zipfile(path):
        with _ARCHIVES_LOCK:
            # It may have been written anew since it was last read.
            _ARCHIVES.pop((os.getpid(), path), None)
        try:
            with zipfile.ZipFile(path) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
        except _ARCHIVE_ERRORS as error:
            raise DataError(f"{path}: is not a readable .zip ({error})") from error
        # An archive may hold a name twice; reading gives the last.
        tree = ZipTree(path, tuple(sorted({name for name in names if not is_ignored(name)})))
    else:
        raise DataError(f"{path}: is neither a folder nor a .zip archive")
    if not tree.names:
        raise DataError(f"{path}: is empty")
    return tree


def decode(tree: Tree, name: str) -> Image.Image:
    """One picture of a tree, upright and RGB. Raises ImageError, which names it."""
    try:
        return open_image(tree.read(name))
    except DataError as error:
        raise ImageError(str(error)) from error
    except ImageError as error:
        raise ImageError(f"{tree.path}/{name}: {str(error).removeprefix(f'{IN_MEMORY}: ')}") from error


def upright_size(tree: Tree, name: str) -> tuple[int, int]:
    """Height and width of a picture as it is shown, by its header alone. Raises ImageError, which names it."""
    try:
        # Of a file only its beginning is read.
        file = tree.path / name if isinstance(tree, FolderTree) else io.BytesIO(tree.read(name))
        with without_warnings():
            image = Image.open(file)
        # Not while warnings are put aside, which looking for an orientation does for itself.
        with image:
            is_on_its_side = exif_orientation(image) in range(5, 9)
            return (image.width, image.height) if is_on_its_side else (image.height, image.width)
    except DataError as error:
        raise ImageError(str(error)) from error
    except DECODE_ERRORS as error:
        raise ImageError(f"{tree.path}/{name}: cannot be decoded: {error}") from error


def fingerprint(tree: Tree) -> str:
    """16 hex digits that change when a file is added, removed, renamed or changes its size."""
    digest = hashlib.sha256()
    for name in tree.names:
        # Linux knows names that are no text; Python holds them with surrogates.
        digest.update(f"{name}\0{tree.size(name)}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _list_folder(path: Path) -> list[str]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {reason(error)}") from error

    names: list[str] = []
    for folder, folders, files in os.walk(path, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not is_ignored(name)]
        for name in folders:
            _refuse_loop(Path(folder) / name, path)
        relative = Path(folder).relative_to(path)
        names.extend((relative / name).as_posix() for name in files if not is_ignored(name))
    return names


def _refuse_loop(folder: Path, root: Path) -> None:
    """Raise DataError for a link to a folder that holds the link, below which there is no end."""
    if not folder.is_symlink():
        return
    target = folder.resolve()
    # By name, as further links may lie between.
    around = [parent for parent in folder.parents if parent == root or root in parent.parents]
    if any(parent.resolve().is_relative_to(target) for parent in around):
        raise DataError(f"{folder}: is a link to a folder that holds it ({target}); remove it")


def is_ignored(name: str) -> bool:
    """Whether a relative name is hidden, or something that systems leave lying about."""
    return any(part in _IGNORED or part.startswith(".") for part in PurePosixPath(name).parts)
