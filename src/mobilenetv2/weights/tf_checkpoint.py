"""TensorFlow V2 checkpoints (`NAME.index` and `NAME.data-00000-of-00001`) without TensorFlow: variables by name.

Source: TensorFlow, `core/util/tensor_bundle`, `core/protobuf/tensor_bundle.proto` and `core/lib/io/table_format.txt`;
Snappy's `format_description.txt`; RFC 3720 for the checksum (CRC32C).
"""

from __future__ import annotations

import functools
import gzip
import io
import math
import re
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenetv2.errors import ModelFileError
from mobilenetv2.files import reason

MAX_BYTES = 1 << 28  # of a shard, and of an archive unpacked; a MobileNetV2's with an optimizer's slots have 55 MB
MAX_INDEX_BYTES = 4 << 20  # a MobileNetV2's has 0.03 MB
MAX_ENTRIES = 5_000  # variables in a checkpoint; a MobileNetV2 has 700 with slots and averages
MAX_NAME_BYTES = 1024
MAX_SHARDS = 99_999  # five digits in the names of the files
MAX_AXES = 8
MAX_MEMBERS = 10_000  # of an archive
MAX_SNAPPY_GAIN = 22  # three bytes become 64 at the most

_FOOTER_BYTES = 48
_MAGIC = bytes.fromhex("57fb808b247547db")
_TRAILER_BYTES = 5  # behind a block: its compression and checksum
_VERSION = 1  # of the bundles, as a reader that knows this format has it
_BFLOAT16 = 14
# TensorFlow's numbers of types -> NumPy's; what is not here (strings, resources, bool) holds no weights.
_KINDS = {
    number: np.dtype(kind)
    for kind, number in (
        *(("<f4", 1), ("<f8", 2), ("<f2", 19), ("<u2", _BFLOAT16)),
        *(("<i4", 3), ("u1", 4), ("<i2", 5), ("i1", 6), ("<i8", 9), ("<u2", 17), ("<u4", 22), ("<u8", 23)),
    )
}
_ENDING = re.compile(r"(\.index|\.data-\d{5}-of-\d{5})$")
_BROKEN_ARCHIVE = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RecursionError)


def is_checkpoint_index(content: bytes) -> bool:
    """Whether it ends as an index does; first-format checkpoints of TensorFlow do too, and are refused later."""
    return len(content) >= _FOOTER_BYTES and content.endswith(_MAGIC)


def read_checkpoint_files(path: Path) -> dict[str, NDArray[Any]]:
    """The variables of a checkpoint that lies in files.

    path: of its `.index`, of one of its `.data-...`, their common beginning (`model.ckpt`), or of a tar archive, packed
        with gzip or not, that holds one checkpoint.
    Raises ModelFileError as `read_tf_checkpoint` does, and if a file is missing or there are several checkpoints.
    """
    content = _content(path) if path.is_file() else b""
    if content.startswith(b"\x1f\x8b") or content[257:262] == b"ustar":
        return _read_archive(content, str(path))
    prefix = _ENDING.sub("", path.name)
    index = path.with_name(f"{prefix}.index")
    if is_checkpoint_index(content) and _ENDING.search(path.name) is None:
        index = path
    return read_tf_checkpoint(
        content if index == path else _content(index),
        lambda ending: _content(path.with_name(prefix + ending)),
        source=str(index),
    )


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelFileError(f"{path}: has more than {MAX_BYTES >> 20} MB; no MobileNet has")
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"{path}: cannot be read: {reason(error)}; a TensorFlow checkpoint is an .index file and its .data files"
        ) from error


def _read_archive(content: bytes, source: str) -> dict[str, NDArray[Any]]:
    try:
        members = _members(content, source)
    except _BROKEN_ARCHIVE as error:
        raise ModelFileError(f"{source}: is a damaged archive, or cut off ({type(error).__name__})") from error
    found = [name for name, member in members.items() if name.endswith(".index") and is_checkpoint_index(member)]
    if len(found) != 1:
        raise ModelFileError(
            f"{source}: holds {len(found)} TensorFlow checkpoints, not one; unpack it and name the .index file"
        )
    prefix = found[0].removesuffix(".index")

    def shard(ending: str) -> bytes:
        if prefix + ending not in members:
            raise ModelFileError(f"{source}: has no {prefix + ending!r} beside {found[0]!r}")
        return members[prefix + ending]

    return read_tf_checkpoint(members[found[0]], shard, source=f"{source}: {found[0]!r}")


def _members(content: bytes, source: str) -> dict[str, bytes]:
    """The index and data files of an archive; the rest, graphs mostly, is not kept."""
    unpacked = io.BytesIO()
    stream = gzip.GzipFile(fileobj=io.BytesIO(content)) if content.startswith(b"\x1f\x8b") else io.BytesIO(content)
    while piece := stream.read(1 << 20):
        if unpacked.tell() + len(piece) > MAX_BYTES:
            raise ModelFileError(f"{source}: unpacks to more than {MAX_BYTES >> 20} MB; no MobileNet does")
        unpacked.write(piece)
    size = unpacked.tell()
    unpacked.seek(0)
    members: dict[str, bytes] = {}
    with tarfile.open(fileobj=unpacked, mode="r:") as archive:
        for count, member in enumerate(archive):
            # Checked before the next one is looked for: sizes below zero would lead back to this one.
            if count >= MAX_MEMBERS or not 0 <= member.size <= size:
                raise tarfile.ReadError("members that no archive has")
            # Sparse ones unpack to any size.
            plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
            if plain and _ENDING.search(member.name):
                file = archive.extractfile(member)
                members[member.name] = b"" if file is None else file.read()
    return members


def read_tf_checkpoint(index: bytes, shards: Callable[[str], bytes], *, source: str) -> dict[str, NDArray[Any]]:
    """The variables of a checkpoint by name, in order, with the axes that TensorFlow gives them; bfloat16 as float32.

    index: of the whole checkpoint. shards: the content of a file of data by the ending of its name
        (".data-00000-of-00001"), or ModelFileError if there is none; only those are asked for that hold a variable.
    Variables that are not numbers (strings, resources) are left out. Every checksum is checked.
    Raises ModelFileError for what is damaged, and for big-endian, partitioned and older checkpoints.
    """
    try:
        return _Bundle(shards, source).variables(index)
    except ValueError as error:
        raise ModelFileError(f"{source}: is damaged, or cut off ({error})") from error


class _Bundle:
    def __init__(self, shards: Callable[[str], bytes], source: str) -> None:
        self.load, self.source = shards, source
        self.shards: dict[int, bytes] = {}
        self.claimed: dict[int, int] = defaultdict(int)
        self.count = 0

    def variables(self, index: bytes) -> dict[str, NDArray[Any]]:
        if not is_checkpoint_index(index):
            raise ValueError("it does not end as an index of a TensorFlow checkpoint does")
        if len(index) > MAX_INDEX_BYTES:
            raise ModelFileError(f"{self.source}: has more than {MAX_INDEX_BYTES >> 20} MB; no MobileNet's index has")
        entries = _table(index)
        self._header(*next(entries, (b"?", b"")))
        variables: dict[str, NDArray[Any]] = {}
        before = b""
        for key, value in entries:
            # Slices have names that begin with a zero.
            entry = _Message(value)
            if key.startswith(b"\0") or entry.parts(7):
                raise ModelFileError(
                    f"{self.source}: keeps variables in slices (partitioned); save them whole with TensorFlow"
                )
            if key <= before:
                raise ValueError("names of variables that are not in order")
            if len(variables) == MAX_ENTRIES:
                raise ModelFileError(f"{self.source}: has more than {MAX_ENTRIES:,} variables; no MobileNet has")
            before, name = key, key.decode("utf-8")
            if entry.number(1) in _KINDS:
                variables[name] = self._array(entry, name)
        return variables

    def _header(self, key: bytes, value: bytes) -> None:
        header = _Message(value)
        if key == b"" and isinstance(header.values.get(1), bytes):
            raise ModelFileError(
                f"{self.source}: is a checkpoint of TensorFlow's first format; save it again in the second"
            )
        self.count = header.number(1)
        if key != b"" or not 1 <= self.count <= MAX_SHARDS:
            raise ValueError("no header that tells how many files of data there are")
        if header.number(2) != 0:
            raise ModelFileError(f"{self.source}: was written by a big-endian machine; save it again on another")
        if any(_Message(version).number(2) > _VERSION for version in header.parts(3)):
            raise ModelFileError(f"{self.source}: is of a newer format than this program knows (version {_VERSION})")

    def _array(self, entry: _Message, name: str) -> NDArray[Any]:
        shape = [_Message(axis).number(1) for part in entry.parts(2) for axis in _Message(part).parts(2)]
        kind = _KINDS[entry.number(1)]
        start, size, shard = entry.number(4), entry.number(5), self._shard(entry.number(3))
        if len(shape) > MAX_AXES or min(shape, default=1) < 1 or math.prod(shape) * kind.itemsize != size:
            raise ValueError(f"{name!r} has {size:,} bytes, which is not what its shape asks for")
        # Variables do not overlap, so all of them together fit in as well.
        self.claimed[entry.number(3)] += size
        if max(start + size, self.claimed[entry.number(3)]) > len(shard):
            raise ValueError(f"{name!r} lies behind the end of its file of data")
        content = np.frombuffer(shard, np.uint8, size, start)
        if _mask(_crc32c(content)) != entry.number(6):
            raise ValueError(f"{name!r} does not match its checksum")
        array: NDArray[Any] = np.frombuffer(content.tobytes(), kind).reshape(shape)
        if entry.number(1) == _BFLOAT16:
            array = (array.astype("<u4") << 16).view("<f4")
        return array

    def _shard(self, number: int) -> bytes:
        if number >= self.count:
            raise ValueError(f"there is no file of data {number}, only {self.count}")
        if number not in self.shards:
            self.shards[number] = self.load(f".data-{number:05d}-of-{self.count:05d}")
        return self.shards[number]


class _Message:
    """A Protocol Buffers message: values by number of field, the last one of each, and all of those with a length."""

    def __init__(self, data: bytes) -> None:
        self.values: dict[int, int | bytes] = {}
        self.repeated: dict[int, list[bytes]] = defaultdict(list)
        at = 0
        while at < len(data):
            tag, at = _varint(data, at)
            field, wire = tag >> 3, tag & 7
            if wire == 0:
                self.values[field], at = _varint(data, at)
                continue
            if wire == 2:
                size, at = _varint(data, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ValueError(f"a field of unknown kind {wire}")
            part = _cut(data, at, size)
            at += size
            self.values[field] = part if wire == 2 else int.from_bytes(part, "little")
            if wire == 2:
                self.repeated[field].append(part)

    def number(self, field: int) -> int:
        value = self.values.get(field, 0)
        if isinstance(value, bytes):
            raise ValueError(f"a field {field} that is no number")
        return value

    def parts(self, field: int) -> list[bytes]:
        return self.repeated.get(field, [])


def _table(index: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a whole SSTable, in order."""
    footer = index[-_FOOTER_BYTES:]
    # Behind the place of notes about the blocks, of which none is needed.
    start, size, _ = _handle(footer, _handle(footer, 0)[2])
    end = 0
    for _, value in _entries(_block(index, start, size)):
        start, size, _ = _handle(value, 0)
        if start < end:
            raise ValueError("blocks that overlap")
        end = start + size + _TRAILER_BYTES
        yield from _entries(_block(index, start, size))


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    start, at = _varint(data, at)
    return start, *_varint(data, at)


def _block(index: bytes, start: int, size: int) -> bytes:
    content = _cut(index, start, size + _TRAILER_BYTES)
    if _mask(_crc32c(np.frombuffer(content, np.uint8, size + 1))) != int.from_bytes(content[-4:], "little"):
        raise ValueError("a block that does not match its checksum")
    if content[size] == 0:
        return content[:size]
    if content[size] == 1:
        return _unsnap(content[:size])
    raise ValueError(f"a block with unknown compression {content[size]}")


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block. A key is told by how many bytes it shares with the one before, and the rest."""
    # Behind the entries: where to begin a search, and how many such places there are.
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0 or len(block) < 4:
        raise ValueError("a block that is too short")
    key, at = b"", 0
    while at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or shared + rest > MAX_NAME_BYTES or at + rest + size > end:
            raise ValueError("a name that is longer than it can be")
        key = key[:shared] + block[at : at + rest]
        at += rest
        yield key, block[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 64 bits at most, seven in a byte, and the place behind it."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            break
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise ValueError("a number that does not end")


def _cut(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise ValueError("a part that is longer than the whole")
    return data[at : at + size]


def _unsnap(data: bytes) -> bytes:
    """Snappy's compression undone."""
    size, at = _varint(data, 0)
    if size > len(data) * MAX_SNAPPY_GAIN:
        raise ValueError(f"a block of {size:,} bytes that cannot come from {len(data):,}")
    out = bytearray()
    while at < len(data) and len(out) <= size:
        tag, at = data[at], at + 1
        kind, length = tag & 3, (tag >> 2) + 1
        if kind == 0:
            if length > 60:  # one to four bytes tell it
                width = length - 60
                length = int.from_bytes(_cut(data, at, width), "little") + 1
                at += width
            out += _cut(data, at, length)
            at += length
        else:
            width = (1, 2, 4)[kind - 1]
            back = int.from_bytes(_cut(data, at, width), "little")
            at += width
            if kind == 1:
                back, length = back | (tag >> 5) << 8, (tag >> 2 & 7) + 4
            if not 1 <= back <= len(out):
                raise ValueError("a copy of what was not there")
            # What is copied may end in what the copy itself writes.
            source = bytes(out[-back:])
            out += (source * -(-length // back))[:length]
    if len(out) != size:
        raise ValueError("a block of another length than it says")
    return bytes(out)


def _mask(crc: int) -> int:
    """As checksums are stored, so that they can be summed themselves."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _advance(level: int) -> NDArray[np.uint32]:
    """(4, 256): what 4 << level bytes of zeros make of a register, for each value of each of its bytes."""
    if level:
        half = _advance(level - 1)
        return _advanced(half, half).reshape(half.shape)
    byte = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        byte = np.where(byte & 1, byte >> 1 ^ np.uint32(0x82F63B78), byte >> 1)
    table = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, np.newaxis]
    for _ in range(4):
        table = table >> 8 ^ byte[table & 255]
    return table


def _advanced(table: NDArray[np.uint32], registers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    parts = np.ascontiguousarray(registers).view(np.uint8).reshape(-1, 4).T
    advanced: NDArray[np.uint32] = table[0].take(parts[0])
    for column, part in zip(table[1:], parts[1:], strict=True):
        advanced ^= column.take(part)
    return advanced


def _crc32c(content: NDArray[np.uint8]) -> int:
    """The checksum of Castagnoli, 14 MB in 0.3 s: neighbours are joined until one register is left.

    Checksums are linear: that of two pieces is that of the first, moved on by as many zeros as the second has bytes,
    XOR that of the second. Zeros in front of all change nothing.
    """
    # These four bytes bring a register from zero to all ones, where it has to begin.
    begin = np.array([0x54, 0x64, 0x1F, 0x64], np.uint8)
    registers = np.concatenate([np.zeros(-len(content) % 4, np.uint8), begin, content]).view("<u4")
    level = 0
    while len(registers) > 1:
        if len(registers) % 2:
            registers = np.concatenate([np.zeros(1, np.uint32), registers])
        level += 1
        registers = _advanced(_advance(level - 1), registers[0::2]) ^ registers[1::2]
    return int(_advanced(_advance(0), registers)[0]) ^ 0xFFFFFFFF
