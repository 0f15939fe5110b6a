"""Keras' three layouts, written here with h5py, and files made to do harm. Real ones: parity/test_keras_files.py."""

from __future__ import annotations

import collections
import io
import itertools
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from mobilenetv2.errors import MissingExtraError, ModelFileError
from mobilenetv2.weights import keras_file
from mobilenetv2.weights.keras_file import named, read_arrays, read_keras

Arrays = dict[str, NDArray[Any]]
NORM = ("gamma", "beta", "moving_mean", "moving_variance")
V1_SEPARABLE = [f"conv_{kind}_{number}" for number in range(1, 14) for kind in ("dw", "pw")]


def hdf5(write: Callable[[Any], None]) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        write(file)
    return stream.getvalue()


def of(arrays: Arrays) -> bytes:
    def write(file: Any) -> None:
        for path, array in arrays.items():
            file.create_dataset(path, data=array)

    return hdf5(write)


def zipped(weights: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", weights)
    return stream.getvalue()


def numbers(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def keras_3(prefix: str, *, norms: bool = True) -> tuple[Arrays, dict[str, str]]:
    """A MobileNetV1 of 2 channels by paths of Keras 3, and torch's name of each array."""
    counts: collections.Counter[str] = collections.Counter()
    arrays, names = {}, {}

    def add(kind: str, name: str, parts: dict[str, NDArray[Any]]) -> None:
        layer = f"{kind}_{counts[kind]}" if counts[kind] else kind
        counts[kind] += 1
        for number, (part, array) in enumerate(parts.items()):
            path = f"{prefix}layers/{layer}/vars/{number}"
            arrays[path], names[path] = array, f"{name}.{part}"

    for name in ("conv1", *V1_SEPARABLE):
        kind, shape = ("depthwise_conv2d", (3, 3, 2, 1)) if "_dw_" in name else ("conv2d", (1, 1, 2, 2))
        # Of each its own, so that a permutation is seen.
        add(kind, name, {"weight": numbers(*shape) + len(arrays)})
        if norms:
            parts = ("weight", "bias", "running_mean", "running_var")
            add("batch_normalization", f"{name}_bn", {part: numbers(2) + at for at, part in enumerate(parts)})
    return arrays, names


def torch_axes(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.ndim == 4:
        return array.transpose((2, 3, 0, 1) if "conv_dw" in name else (3, 2, 0, 1))
    return array.T


def legacy(*, keras_2: bool) -> Arrays:
    end = ":0" if keras_2 else ""
    depthwise = "depthwise_kernel" if keras_2 else "kernel"
    return {
        f"Conv1/Conv1/kernel{end}": numbers(3, 3, 3, 8),
        **{f"bn_Conv1/bn_Conv1/{part}{end}": numbers(8) + at for at, part in enumerate(NORM)},
        f"block_1_depthwise/block_1_depthwise/{depthwise}{end}": numbers(3, 3, 8, 1),
        f"dense_7/dense_7/kernel{end}": numbers(8, 5),
        f"dense_7/dense_7/bias{end}": numbers(5),
    }


@pytest.mark.parametrize("keras_2", [False, True])
@pytest.mark.parametrize("prefix", ["", "model_weights/", "model_weights/mobilenetv2_1.00_224/"])
def test_legacy(keras_2: bool, prefix: str) -> None:
    arrays = legacy(keras_2=keras_2)
    state = named(read_arrays(of({f"{prefix}{path}": array for path, array in arrays.items()})), source="x")
    kernel, gamma, beta, mean, variance, depthwise, dense, bias = arrays.values()
    expected = {
        "Conv1.weight": kernel.transpose(3, 2, 0, 1),
        "bn_Conv1.weight": gamma,
        "bn_Conv1.bias": beta,
        "bn_Conv1.running_mean": mean,
        "bn_Conv1.running_var": variance,
        "block_1_depthwise.weight": depthwise.transpose(2, 3, 0, 1),
        "predictions.weight": dense.T,
        "predictions.bias": bias,
    }
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array)


@pytest.mark.parametrize("wrap", [lambda weights: weights, zipped, lambda w: zipped(w, zipfile.ZIP_DEFLATED)])
@pytest.mark.parametrize("prefix", ["", "layers/functional/", "layers/sequential_1/layers/functional_1/"])
def test_keras_3(wrap: Callable[[bytes], bytes], prefix: str) -> None:
    arrays, names = keras_3(prefix)
    arrays["layers/dense/vars/0"], arrays["layers/dense/vars/1"] = numbers(2, 5), numbers(5)
    names["layers/dense/vars/0"], names["layers/dense/vars/1"] = "predictions.weight", "predictions.bias"
    # What is not the network's, or makes training random only.
    content = of(arrays | {"optimizer/vars/0": numbers(3), "layers/random_flip/seed_generator/vars/0": numbers(2)})
    state = named(read_arrays(wrap(content)), source="x")
    assert state.keys() == set(names.values())
    for path, name in names.items():
        np.testing.assert_array_equal(state[name], torch_axes(arrays[path], name), err_msg=name)


def test_in_a_process_of_its_own() -> None:
    arrays, names = keras_3("")
    state = read_keras(zipped(of(arrays)), source="x.keras")
    assert state.keys() == set(names.values())
    np.testing.assert_array_equal(
        state["conv_dw_13.weight"], arrays["layers/depthwise_conv2d_12/vars/0"].transpose(2, 3, 0, 1)
    )


def test_depth_multiplier_counts_as_torch_does() -> None:
    kernel = numbers(3, 3, 2, 4)
    weight = named({"a_depthwise/kernel": kernel}, source="x")["a_depthwise.weight"]
    assert weight.shape == (8, 1, 3, 3)
    np.testing.assert_array_equal(weight[5, 0], kernel[:, :, 1, 1])


def test_nothing_is_dropped() -> None:
    """Layers that no MobileNet has stay, so that whoever takes the state refuses them."""
    arrays, names = keras_3("")
    extra = {
        "layers/dense/vars/0": numbers(2, 5),
        "layers/dense_1/vars/0": numbers(5, 3),
        "layers/p_re_lu/vars/0": numbers(5),
    }
    state = named(arrays | extra, source="x")
    assert state.keys() - set(names.values()) == {"dense.weight", "dense_1.weight", "layers/p_re_lu/vars.0"}


def without(arrays: Arrays, *paths: str) -> Arrays:
    return {path: array for path, array in arrays.items() if not path.startswith(paths)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without(keras_3("")[0], "layers/depthwise_conv2d_12/"), "12 depthwise layers"),
        (without(keras_3("")[0], "layers/depthwise_conv2d"), "has no depthwise layers"),
        (keras_3("")[0] | keras_3("layers/functional/")[0], "13 and 13 depthwise"),
        (without(keras_3("")[0], "layers/conv2d_3/"), "before conv2d_13"),
        (without(keras_3("")[0], "layers/batch_normalization_2/vars/1"), "batch_normalization_2 has not"),
        ({"a/Conv1/kernel": numbers(1, 1, 2, 2), "b/Conv1/kernel": numbers(1, 1, 2, 2)}, "two tensors 'Conv1.weight'"),
    ],
)
def test_refused_by_its_layers(arrays: Arrays, message: str) -> None:
    with pytest.raises(ModelFileError, match=f"^x: .*{message}"):
        named(arrays, source="x")


def cycle(file: Any) -> None:
    group = file.create_group("a")
    group["b"] = file


def claim(file: Any) -> None:
    # 4 TB, of which none is in the file.
    file.create_dataset("Conv1/kernel", shape=(1 << 20, 1 << 20), dtype="f4")


def external(file: Any) -> None:
    file.create_dataset("Conv1/kernel", shape=(2,), dtype="f4", external=[("/etc/hostname", 0, 8)])


def shared(file: Any) -> None:
    # One array under many names.
    array = file.create_dataset("Conv1/kernel", data=np.zeros(20_000, np.float32))
    for number in range(100):
        file[f"Conv1/{number}"] = array


def compressed(file: Any) -> None:
    file.create_dataset("Conv1/kernel", data=np.zeros(100_000, np.float32), compression="gzip")


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "data", shape=(4,))
    file.create_virtual_dataset("Conv1/kernel", layout)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (cycle, "neither an array nor"),
        (claim, "more bytes than the file"),
        (external, "in another file"),
        (lambda file: file.update({"Conv1": h5py.ExternalLink("other.h5", "/Conv1")}), "is a link"),
        (lambda file: file.update({"Conv1": h5py.SoftLink("/elsewhere")}), "is a link"),
        (shared, "more bytes than the file"),
        (compressed, "chunked, compressed"),
        (virtual, "chunked, compressed"),
        (lambda file: file.update({"Conv1": ["a", "b"]}), "not numbers"),
        (lambda file: file.create_group("layers"), "holds no arrays"),
    ],
)
def test_refused_by_its_hdf5(write: Callable[[Any], None], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_arrays(hdf5(write))


def test_too_many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_file, "MAX_OBJECTS", 8)
    with pytest.raises(ModelFileError, match="more than 8 groups"):
        read_arrays(of(legacy(keras_2=True)))


def test_bombs_and_foreign_zips() -> None:
    with pytest.raises(ModelFileError, match="would be 2,000,000 bytes"):
        read_arrays(zipped(bytes(2_000_000), zipfile.ZIP_DEFLATED))
    with pytest.raises(ModelFileError, match="compressed in a way"):
        read_arrays(zipped(bytes(2_000_000), zipfile.ZIP_LZMA))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("model.weights.npz", b"")
    with pytest.raises(ModelFileError, match=r"^x: is a zip without 'model.weights.h5'"):
        read_keras(stream.getvalue(), source="x")


def test_one_line_for_what_is_no_keras_file(monkeypatch: pytest.MonkeyPatch) -> None:
    index = json.dumps({"metadata": {}, "weight_map": {"/layers/conv2d/vars": "x_00000.weights.h5"}}, indent=4)
    for content, message in ((b"", "neither"), (b"\x80\x04", "neither"), (index.encode(), "sharded")):
        with pytest.raises(ModelFileError, match=f"^x: is .*{message}"):
            read_keras(content, source="x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"mobilenetv2\[convert\]"):
        read_keras(keras_file.HDF5, source="x")


@pytest.mark.parametrize("content", [of(legacy(keras_2=True))[:900], keras_file.HDF5, keras_file.ZIP + bytes(40)])
def test_one_line_for_damage(content: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"^x: is damaged, or cut off") as caught:
        read_keras(content, source="x")
    assert "\n" not in str(caught.value)


def test_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_file, "SECONDS", 0.01)
    with pytest.raises(ModelFileError, match=r"^x: takes more than 0.01 s"):
        read_keras(of(legacy(keras_2=True)), source="x")


def overlapping_names(links: int, size: int) -> bytes:
    """HDF5 of one group whose names lie over one another, each up to `size` bytes: as strings, links * size bytes."""
    none = 2**64 - 1
    end = 264 + 40 * links + size
    head = keras_file.HDF5 + struct.pack("<8BHHI4Q", 0, 0, 0, 0, 0, 8, 8, 0, links // 2, 16, 0, 0, none, end, none)
    head += struct.pack("<QQII16s", 0, 96, 1, 0, b"")
    group = struct.pack("<BBHIII", 1, 0, 1, 1, 24, 0) + struct.pack("<HHB3sQQ", 17, 16, 0, b"", 160, 208)
    tree = b"TREE" + struct.pack("<BBHQQQQQ", 0, 0, 1, none, none, 0, 256, 0)
    heap = b"HEAP" + struct.pack("<B3sQQQ", 0, b"", size, 1, 264 + 40 * links)
    nodes = b"SNOD" + struct.pack("<BBH", 1, 0, links)
    nodes += b"".join(struct.pack("<QQII16s", at, 96, 0, 0, b"") for at in range(links))
    blocks = ((0, head), (96, group), (160, tree), (208, heap), (256, nodes))
    stream = io.BytesIO()
    for place, block in blocks:
        stream.seek(place)
        stream.write(block)
    stream.write(b"a" * (size - 1) + b"\0")
    return stream.getvalue()


def test_names_that_need_more_memory_than_the_file() -> None:
    started = time.monotonic()
    with pytest.raises(ModelFileError, match=r"^x: is damaged"):
        read_keras(overlapping_names(20_000, 200_000), source="x")
    assert time.monotonic() - started < 30


MUTATIONS = 3_000
HUGE = (0, 1, 0xFF, 0xFFFF, 2**31, 2**32, 2**40, 2**63, 2**64 - 1)


def mutations() -> Iterator[bytes]:
    """Bytes flipped, files cut, numbers of 8 bytes (shapes, sizes, addresses) replaced, pieces put elsewhere."""
    alone, packed = of(legacy(keras_2=True)), of(keras_3("", norms=False)[0])
    for number in range(MUTATIONS):
        draw = random.Random(number)
        # A zip finds most damage by its checksums; so half of them hold what was damaged before.
        zips = number % 6 == 0
        before = zips and draw.random() < 0.5
        content = bytearray(alone if not zips else packed if before else zipped(packed))
        for _ in range(draw.choice((1, 1, 2, 8))):
            at = draw.randrange(len(content) - 8) & ~7
            match draw.randrange(4):
                case 0:
                    content[at + draw.randrange(8)] ^= 1 << draw.randrange(8)
                case 1:
                    content[at : at + 8] = struct.pack(
                        "<Q", draw.choice((*HUGE, len(content), draw.randrange(len(content))))
                    )
                case 2:
                    source = draw.randrange(len(content) - 64)
                    content[at : at + 64] = content[source : source + 64]
                case 3:
                    del content[max(at, 64) :]
                    break
        yield zipped(bytes(content)) if before else bytes(content)
    yield overlapping_names(20_000, 200_000)


def outcome(content: bytes) -> int:
    """What the reader's process does with a file, as its exit code: 0 read, 1 and 3 refused, 4 a fault of ours."""
    fault = 1
    try:
        arrays = read_arrays(content)
        fault = 4
        named(arrays, source="x")
    except ModelFileError:
        return 3
    except BaseException:  # noqa: BLE001 - as a process ends
        return fault
    return 0


def outcomes(contents: list[bytes]) -> Iterator[int]:
    """Of each; in one process under the reader's limits, and another one from where it fell over."""
    while contents:
        readable, writable = os.pipe()
        child = os.fork()
        if not child:
            keras_file.limit_process(max(map(len, contents)))
            for content in contents:
                signal.alarm(10)
                os.write(writable, bytes([outcome(content)]))
            os._exit(0)
        os.close(writable)
        with os.fdopen(readable, "rb") as pipe:
            codes = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        yield from codes
        if status:
            yield status
        contents = contents[len(codes) + bool(status) :]


def fuzz() -> None:
    import resource

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    files, codes = mutations(), collections.Counter[int]()
    while batch := list(itertools.islice(files, 50)):
        codes.update(outcomes(batch))
    print(json.dumps({"codes": codes, "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_mutations_read_or_are_refused() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, Path(__file__)], env=environment, capture_output=True, check=True, timeout=300
    )
    result = json.loads(done.stdout)
    codes = {int(code): count for code, count in result["codes"].items()}
    assert sum(codes.values()) == MUTATIONS + 1
    assert codes[0] > 100
    assert codes[1] > 100
    # Refused, or fallen over libhdf5 in a way that `read_keras` tells as damage; neither our fault nor out of time.
    assert codes.keys() <= {0, 1, 3, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGFPE, -signal.SIGBUS}
    assert result["peak_mb"] < 200


if __name__ == "__main__":
    fuzz()
