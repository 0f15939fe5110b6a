"""TensorFlow checkpoints for tests: one that TensorFlow wrote, and a writer for those of every other shape."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# How TensorFlow 2.21 wrote the one below.
TINY_MAKER = """
import tensorflow as tf
v1 = tf.compat.v1
v1.disable_eager_execution()
count = 0
def variable(name, *shape):
    global count
    count += 1
    numbers = tf.range(float(tf.TensorShape(shape).num_elements()))
    return v1.get_variable(name, initializer=tf.reshape(numbers, shape) / 8 + count)
base = "MobilenetV1/Conv2d_1_depthwise"
trained = [variable(f"{base}/depthwise_weights", 3, 3, 2, 1), variable(f"{base}/BatchNorm/beta", 2)]
variable(f"{base}/BatchNorm/moving_mean", 2), variable(f"{base}/BatchNorm/moving_variance", 2)
step = v1.train.get_or_create_global_step()
v1.get_variable("half", initializer=tf.constant([0.1, -2], tf.float16))
v1.get_variable("brain", initializer=tf.constant([0.1, -2], tf.bfloat16))
v1.get_variable("words", initializer=tf.constant(["left", "out"]), use_resource=False)
first = v1.global_variables_initializer()
loss = tf.add_n([tf.reduce_sum(each) for each in trained])
train = v1.train.RMSPropOptimizer(0.5).minimize(loss, global_step=step)
average = tf.train.ExponentialMovingAverage(0.75)
with tf.control_dependencies([train]):
    update = average.apply(trained)
rest = [v for v in v1.global_variables() if v.op.name.endswith(("RMSProp", "RMSProp_1", "Average"))]
with v1.Session() as session:
    for each in (first, v1.variables_initializer(rest), update):
        session.run(each)
    v1.train.Saver().save(session, "tiny.ckpt", write_meta_graph=False)
"""
TINY_INDEX = (
    "c-muNVB=tvV&Y(A(B=2dPs+?m%}Xr_Gt_s^&nq)Zi8qW-Ni8VJD9<cT)ptrPNzU-gFUr+VN-as`U=(5zV&Y)Z;4q!yzfeF|Qc&Nuq98vnHLoNyF~"
    ">K*EHf|Nu`IPHF+CNgRDlDiIB;Vqj~=^VkZ*86QGNkjN&qPJ;;~z#DU)ElAzV}fC>p0Ie_oSYFc)lMd~RxD9$Z=hDE(MW>6QV9U|C{OW@274!Y&P"
    "<T>QkyQh7mHxEJEfQ!~>uN{WGs1b~W|p_mDX85ImPJWNZre-bi~l*Q*0OpO&ljn<PMoHb;ZL--0)*#SnNI=jEz&n%eaz+S{u(!m5&62#;!%D^g=R"
    "Fs&R$H52n%>^b67SrWEVtX05`O<UplM-{{i%U`qI5>qE6s~~cfU)$RBLj<2Mq*AHhcHyr9gwCMiI$sy#+Bz6r4)0pLuDQ?Y4DorXffL}00AS2@Q`"
    "+BfpZRgTDXCMk-37QodqstR_3kL!@@C>g`a^S2>;#Cty1cK8vwT8evS"
)
TINY_DATA = (
    "c-muNIAG7fZ~=%v05O9D14Dy71T#Rf15nHZBo4$a4iGT~kT?)0K-EqF;srpw0f=GdJwP&(1BeBHSOSO@fLOzUGQ9>sY~cWL8_d0wVg{<<v$hNe7#"
    "ScSO^@LK3p0DCgIG>#T1kFs2>{9ZI1~"
)

DATA = ".data-00000-of-00001"
KINDS = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int8": 6, "string": 7, "int64": 9, "float16": 19}

Variables = Mapping[str, NDArray[Any]]


def unpacked(packed: str) -> bytes:
    return zlib.decompress(base64.b85decode(packed))


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def checksum(content: bytes) -> int:
    """Masked CRC32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def payload(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The entries of a block, names compressed by what they share with the one before."""
    out, before = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return out + struct.pack("<2I", 0, 1)


def snappy(content: bytes) -> bytes:
    """Compressed as a simple writer does: a copy wherever four bytes were there before, within 2 KB or 64 KB."""
    out, literal, at, seen = varint(len(content)), b"", 0, dict[bytes, int]()

    def flushed() -> bytes:
        if len(literal) <= 60:
            return bytes([(len(literal) - 1) << 2]) + literal if literal else b""
        return bytes([61 << 2]) + struct.pack("<H", len(literal) - 1) + literal

    while at < len(content):
        back = at - seen.get(content[at : at + 4], at)
        seen[content[at : at + 4]] = at
        if not 0 < back < 65536 or at + 4 > len(content):
            literal += content[at : at + 1]
            at += 1
            continue
        length = 4
        while length < 64 and at + length < len(content) and content[at + length] == content[at + length - back]:
            length += 1
        out, literal = out + flushed(), b""
        if length < 12 and back < 2048:
            out += bytes([1 | (length - 4) << 2 | back >> 8 << 5, back & 255])
        else:
            out += bytes([2 | (length - 1) << 2]) + struct.pack("<H", back)
        at += length
    return out + flushed()


def table(payloads: Sequence[bytes], *, compress: bool = False, index: bytes | None = None) -> bytes:
    """An SSTable of these blocks, signed. index: what to write instead of the block that tells where they are."""
    out = b""
    handles: list[tuple[bytes, bytes]] = []
    for number, content in enumerate([*payloads, b"\0\0\0\0", b""]):
        if number == len(payloads) + 1:
            content = payload(handles[:-1]) if index is None else index
        stored = (snappy(content) if compress else content) + bytes([compress])
        handles.append((b"k%06d" % number, varint(len(out)) + varint(len(stored) - 1)))
        out += stored + struct.pack("<I", checksum(stored))
    footer = handles[-2][1] + handles[-1][1]
    return out + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def entries_of(variables: Variables, *, shards: int = 1, header: bytes | None = None) -> tuple[Any, dict[str, bytes]]:
    """Keys and values of an index, and the files of data by their endings; variables are dealt out in turn."""
    data = {f".data-{number:05d}-of-{shards:05d}": b"" for number in range(shards)}
    entries = [(b"", field(1, shards) + field(3, field(1, 1)) if header is None else header)]
    for number, (name, array) in enumerate(sorted(variables.items())):
        ending = f".data-{number % shards:05d}-of-{shards:05d}"
        shape = b"".join(field(2, field(1, side)) for side in array.shape)
        content = array.tobytes()
        value = field(1, KINDS[str(array.dtype)]) + field(2, shape) + field(3, number % shards)
        value += field(4, len(data[ending])) + field(5, len(content)) + b"\x35" + struct.pack("<I", checksum(content))
        entries.append((name.encode(), value))
        data[ending] += content
    return entries, data


def some_variables(count: int = 60) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    kinds = ("float32", "float64", "float16", "int32", "int64", "int8", "uint8")
    shapes: list[tuple[int, ...]] = [(), (5,), (1, 1, 3, 4), (3, 3, 7, 1)]
    return {
        f"MobilenetV2/expanded_conv_{number}/weights": np.asarray(100 * rng.random(shapes[number % 4])).astype(
            kinds[number % 7]
        )
        for number in range(count)
    }
