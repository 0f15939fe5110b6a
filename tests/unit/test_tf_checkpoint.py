"""TensorFlow checkpoints: one that TensorFlow wrote, others of every shape, and what is refused."""

from __future__ import annotations

import gzip
import io
import random
import re
import struct
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mobilenetv2.errors import ModelFileError
from mobilenetv2.weights import tf_checkpoint
from mobilenetv2.weights.tf_checkpoint import (
    _crc32c,
    _mask,
    _unsnap,
    is_checkpoint_index,
    read_checkpoint_files,
    read_tf_checkpoint,
)
from tf_checkpoint_files import (
    DATA,
    TINY_DATA,
    TINY_INDEX,
    Variables,
    checksum,
    entries_of,
    field,
    payload,
    some_variables,
    table,
    unpacked,
    varint,
)


def assert_same(found: Variables, expected: Variables) -> None:
    assert list(found) == sorted(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def read(index: bytes, data: Mapping[str, bytes]) -> dict[str, NDArray[Any]]:
    def shard(ending: str) -> bytes:
        if ending not in data:
            raise ModelFileError(f"m{ending}: is missing")
        return data[ending]

    return read_tf_checkpoint(index, shard, source="m.index")


def test_a_checkpoint_of_tensorflow_is_read() -> None:
    index = unpacked(TINY_INDEX)
    assert is_checkpoint_index(index)
    found = read(index, {DATA: unpacked(TINY_DATA)})
    base = "MobilenetV1/Conv2d_1_depthwise"
    kernel = np.arange(18, dtype=np.float32).reshape(3, 3, 2, 1) / 8
    ones, pair = np.ones_like(kernel), np.array([0, 0.125], np.float32)
    expected: dict[str, NDArray[Any]] = {
        f"{base}/depthwise_weights": kernel + np.float32(0.5),  # one step of 0.5 from where it began
        f"{base}/depthwise_weights/ExponentialMovingAverage": kernel + np.float32(0.875),
        f"{base}/depthwise_weights/RMSProp": ones,
        f"{base}/depthwise_weights/RMSProp_1": ones / 2,
        f"{base}/BatchNorm/beta": pair + np.float32(1.5),
        f"{base}/BatchNorm/beta/ExponentialMovingAverage": pair + np.float32(1.875),
        f"{base}/BatchNorm/beta/RMSProp": np.ones(2, np.float32),
        f"{base}/BatchNorm/beta/RMSProp_1": np.ones(2, np.float32) / 2,
        f"{base}/BatchNorm/moving_mean": pair + np.float32(3),
        f"{base}/BatchNorm/moving_variance": pair + np.float32(4),
        "brain": np.array([0.10009765625, -2], np.float32),  # 0.1 with the 8 bits of bfloat16
        "global_step": np.array(1, np.int64),
        "half": np.array([0.1, -2], np.float16),
    }
    assert_same(found, expected)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("blocks", [1, 7])
def test_blocks_and_shards_of_every_number(blocks: int, shards: int, compress: bool) -> None:
    variables = some_variables()
    entries, data = entries_of(variables, shards=shards)
    size = -(-len(entries) // blocks)
    payloads = [payload(entries[at : at + size]) for at in range(0, len(entries), size)]
    assert len(payloads) == blocks
    assert_same(read(table(payloads, compress=compress), data), variables)


@pytest.mark.parametrize(
    ("packed", "content"),
    [
        (bytes([8, 1 << 2]) + b"ab" + bytes([1 | 2 << 2, 2]), b"abababab"),  # copies its own beginning
        (bytes([4, 0]) + b"a" + bytes([3 | 2 << 2]) + struct.pack("<I", 1), b"aaaa"),  # four bytes of offset
        (bytes([70, 60 << 2, 69]) + b"x" * 70, b"x" * 70),  # one byte of length
        (bytes([70, 62 << 2, 69, 0, 0]) + b"x" * 70, b"x" * 70),  # three
        (b"\0", b""),
    ],
)
def test_snappy_has_several_ways_to_say_it(packed: bytes, content: bytes) -> None:
    assert _unsnap(packed) == content


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (b"\xff\xff\xff\xff\x0f" + b"\0a", "cannot come from"),
        (bytes([4, 0]) + b"a" + bytes([1, 2]), "copy of what was not there"),
        (bytes([5, 0]) + b"a" + bytes([1, 1 << 5]), "copy of what was not there"),
        (bytes([2, 0]) + b"a", "another length"),
        (bytes([1, 1 << 2]) + b"ab", "another length"),
        (bytes([9, 8 << 2]) + b"ab", "longer than the whole"),
    ],
)
def test_damaged_snappy_is_refused(packed: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _unsnap(packed)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 63, 64, 65, 1000])
def test_checksums_of_every_length(size: int) -> None:
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    assert _mask(_crc32c(content)) == checksum(content.tobytes())


def test_checksums_are_fast_enough_for_networks() -> None:
    content = np.zeros(14_000_000, np.uint8)
    start = time.process_time()
    _crc32c(content)
    assert time.process_time() - start < 2


def written(folder: Path, shards: int = 2) -> dict[str, NDArray[Any]]:
    variables = some_variables(9)
    entries, data = entries_of(variables, shards=shards)
    (folder / "model.ckpt-7.index").write_bytes(table([payload(entries)]))
    for ending, content in data.items():
        (folder / f"model.ckpt-7{ending}").write_bytes(content)
    return variables


@pytest.mark.parametrize("name", ["model.ckpt-7", "model.ckpt-7.index", "model.ckpt-7.data-00001-of-00002"])
def test_any_file_of_a_checkpoint_names_it(tmp_path: Path, name: str) -> None:
    variables = written(tmp_path)
    assert_same(read_checkpoint_files(tmp_path / name), variables)


@pytest.mark.parametrize("ending", [".index", ".data-00001-of-00002"])
def test_missing_files_are_named(tmp_path: Path, ending: str) -> None:
    written(tmp_path)
    (tmp_path / f"model.ckpt-7{ending}").unlink()
    with pytest.raises(ModelFileError, match=re.escape(f"model.ckpt-7{ending}: cannot be read: no such file")):
        read_checkpoint_files(tmp_path / "model.ckpt-7")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archives_are_read_where_they_are(tmp_path: Path, mode: Any) -> None:
    (tmp_path / "in").mkdir()
    variables = written(tmp_path / "in")
    (tmp_path / "in" / "graph.pbtxt").write_text("node {}")
    with tarfile.open(tmp_path / "m.tgz", mode) as archive:
        archive.add(tmp_path / "in", ".")
    assert_same(read_checkpoint_files(tmp_path / "m.tgz"), variables)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "m.tgz"]

    with tarfile.open(tmp_path / "m.tgz", mode) as archive:
        archive.add(tmp_path / "in", "a")
        archive.add(tmp_path / "in", "b")
    with pytest.raises(ModelFileError, match="holds 2 TensorFlow checkpoints, not one"):
        read_checkpoint_files(tmp_path / "m.tgz")

    with tarfile.open(tmp_path / "m.tgz", mode) as archive:
        archive.add(tmp_path / "in" / "model.ckpt-7.index", "model.ckpt-7.index")
    with pytest.raises(ModelFileError, match=r"has no 'model\.ckpt-7\.data-00000-of-00002' beside"):
        read_checkpoint_files(tmp_path / "m.tgz")


def test_archives_that_unpack_to_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf_checkpoint, "MAX_BYTES", 1 << 20)
    (tmp_path / "m.tgz").write_bytes(gzip.compress(bytes(2 << 20)))
    with pytest.raises(ModelFileError, match="unpacks to more than 1 MB"):
        read_checkpoint_files(tmp_path / "m.tgz")


@pytest.mark.parametrize(("size", "message"), [(1 << 40, "damaged archive"), (100, "holds 0 TensorFlow checkpoints")])
def test_sparse_members_are_not_unpacked(tmp_path: Path, size: int, message: str) -> None:
    content = unpacked(TINY_INDEX)
    member = tarfile.TarInfo("m.ckpt.index")
    member.size = len(content)
    member.pax_headers = {"GNU.sparse.size": str(size), "GNU.sparse.map": "0,1"}
    with tarfile.open(tmp_path / "m.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(content))
    with pytest.raises(ModelFileError, match=message):
        read_checkpoint_files(tmp_path / "m.tar")


LAYER = {"a/weights": np.zeros((2, 3), np.float32)}
ENTRY = entries_of(LAYER)[0][1][1]
SPLIT = field(1, 1) + field(2, field(2, field(1, 4))) + field(7, field(1, b""))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([(b"", field(1, 1) + field(2, 1))], "big-endian machine; save it again"),
        ([(b"", field(1, 1) + field(3, field(2, 2)))], "newer format"),
        ([(b"", field(1, field(1, b"")))], "TensorFlow's first format; save it again"),
        ([(b"", field(1, 1)), (b"a/weights", SPLIT)], r"in slices \(partitioned\); save them whole"),
        ([(b"", field(1, 1)), (b"\0\1a\0\1", ENTRY)], "in slices"),
        ([(b"", field(1, 0))], "no header"),
        ([(b"a", field(1, 1))], "no header"),
        ([], "no header"),
        ([(b"", field(1, 1)), (b"a", ENTRY + field(5, 1 << 40))], "not what its shape asks for"),
        ([(b"", field(1, 1)), (b"a", ENTRY + field(2, field(2, field(1, 1 << 63)) * 2))], "not what its shape"),
        ([(b"", field(1, 1)), (b"a", ENTRY + field(2, field(2, field(1, 1)) * 9))], "not what its shape"),
        ([(b"", field(1, 1)), (b"a", ENTRY + field(4, 1))], "behind the end"),
        ([(b"", field(1, 1)), (b"a", ENTRY), (b"b", ENTRY)], "'b' lies behind the end"),
        ([(b"", field(1, 1)), (b"a", ENTRY + field(3, 1))], "no file of data 1, only 1"),
        ([(b"", field(1, 1)), (b"a", ENTRY + b"\x35\0\0\0\0")], "checksum"),
        ([(b"", field(1, 1)), (b"b", ENTRY), (b"a", ENTRY)], "behind the end|not in order"),
        ([(b"", field(1, 1)), (b"a", ENTRY + field(5, b""))], "a field 5 that is no number"),
        ([(b"", field(1, 1)), (b"a", ENTRY + b"\x80")], "a number that does not end"),
        ([(b"", field(1, 1)), (b"a", ENTRY + b"\x80" * 10 + b"\1")], "a number that does not end"),
        ([(b"", field(1, 1)), (b"a", b"\x0b")], "a field of unknown kind 3"),
        ([(b"", field(1, 1)), (b"a", b"\x35\0")], "longer than the whole"),
        ([(b"", field(1, 1)), (b"a" * 1025, ENTRY)], "a name that is longer"),
        ([(b"", field(1, 1)), (b"\xff", ENTRY)], "utf-8"),
    ],
)
def test_signed_nonsense_is_refused(entries: Any, message: str) -> None:
    with pytest.raises(ModelFileError, match=f"^m.index: .*({message})") as caught:
        read(table([payload(entries)]), entries_of(LAYER)[1])
    assert "\n" not in str(caught.value)


def test_the_same_block_twice_is_refused() -> None:
    handles = [(b"a", varint(0) + varint(8)), (b"b", varint(0) + varint(8))]
    with pytest.raises(ModelFileError, match="blocks that overlap"):
        read(table([payload([])], index=payload(handles)), {})


def test_too_many_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf_checkpoint, "MAX_ENTRIES", 2)
    entries, data = entries_of(some_variables(3))
    with pytest.raises(ModelFileError, match="has more than 2 variables"):
        read(table([payload(entries)]), data)


def test_other_files_are_no_index() -> None:
    index = unpacked(TINY_INDEX)
    for content in (b"", index[:-1], index[-40:], bytes(48), b"x" * 1000):
        assert not is_checkpoint_index(content)
        with pytest.raises(ModelFileError, match="does not end as an index"):
            read(content, {})


@pytest.mark.parametrize("place", [0, 100, 300, 560])
def test_one_flipped_bit_is_found_anywhere(place: int) -> None:
    index, data = bytearray(unpacked(TINY_INDEX)), bytearray(unpacked(TINY_DATA))
    index[place] ^= 1
    with pytest.raises(ModelFileError):
        read(bytes(index), {DATA: bytes(data)})
    data[place % 300] ^= 1
    with pytest.raises(ModelFileError, match="checksum"):
        read(unpacked(TINY_INDEX), {DATA: bytes(data)})


def mutated(content: bytes, dice: random.Random) -> bytes:
    out = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 8))):
        at = dice.randrange(len(out) + 1)
        kind = dice.randrange(4)
        if kind == 0 and at < len(out):
            out[at] = dice.choice((0, 1, 127, 128, 255, out[at] ^ 1 << dice.randrange(8)))
        elif kind == 1:
            out[at : at + dice.choice((0, 1, 5))] = varint(dice.choice((0, 127, 1 << 20, 1 << 32, (1 << 64) - 1)))
        elif kind == 2:
            del out[at : at + dice.choice((1, 4, len(out)))]
        else:
            start = dice.randrange(len(out) + 1)
            out[at:at] = out[start : start + dice.randrange(16)]
    return bytes(out)


@pytest.mark.parametrize("kind", ["index", "data", "signed", "snappy", "archive"])
def test_mutated_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    """700 of each; signed: blocks whose checksums are right for what was made of them."""
    dice = random.Random(kind)
    entries, data = entries_of(some_variables(4))
    payloads = [payload(entries[:3]), payload(entries[3:])]
    index, archive = table(payloads), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for ending, content in {".index": index, **data}.items():
            member = tarfile.TarInfo(f"m.ckpt{ending}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    handles = payload([(b"k0", varint(0) + varint(len(payloads[0])))])
    outcomes = set()
    for _ in range(700):
        start = time.process_time()
        try:
            if kind == "index":
                found = read(mutated(index, dice), data)
            elif kind == "data":
                found = read(index, {DATA: mutated(data[DATA], dice)})
            elif kind == "archive":
                # Past the end of its members an archive has nothing but zeros.
                (tmp_path / "m.tar").write_bytes(mutated(archive.getvalue()[:4096], dice) + bytes(1024))
                found = read_checkpoint_files(tmp_path / "m.tar")
            else:
                blocks = [mutated(each, dice) if dice.random() < 0.5 else each for each in payloads]
                where = mutated(handles, dice) if dice.random() < 0.2 else None
                found = read(table(blocks, compress=kind == "snappy", index=where), data)
            outcomes.add("read")
            assert all(isinstance(array, np.ndarray) for array in found.values())
        except ModelFileError as error:
            outcomes.add("refused")
            assert "\n" not in str(error)
        assert time.process_time() - start < 1
    assert outcomes == {"read", "refused"}
