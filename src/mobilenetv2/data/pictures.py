"""Decoding: training pictures as torch samples, and finding the ones that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mobilenetv2.data.folder import Item
from mobilenetv2.data.tree import Tree, decode
from mobilenetv2.errors import ImageError

Sample = tuple[Tensor, int]


def find_bad(tree: Tree, names: Sequence[str], tick: Callable[[], None] = lambda: None) -> dict[str, str]:
    """Decode every picture once; name -> what is wrong with it, for those that cannot be. `tick` is called for each."""

    def check(name: str) -> tuple[str, str | None]:
        try:
            decode(tree, name)
        except ImageError as error:
            return name, str(error)
        return name, None

    bad: dict[str, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, problem in pool.map(check, names):
            tick()
            if problem is not None:
                bad[name] = problem
    return bad


@contextmanager
def drawing(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Within, torch's generator depends on these three alone; outside it goes on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash((seed, epoch, index)))
        yield


class PictureSet(Dataset[Sample]):
    """Pictures by (epoch, index) -> ((H, W, 3) uint8, label).

    What is random about a sample depends on seed, epoch and index alone, not on workers or on the samples
    before it: a resumed run sees exactly what an uninterrupted one would have seen.
    """

    def __init__(
        self, tree: Tree, items: Sequence[Item], transform: Callable[[Image.Image], Image.Image], seed: int
    ) -> None:
        self.tree, self.items, self.transform, self.seed = tree, items, transform, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        item = self.items[index]
        image = decode(self.tree, item.name)
        with drawing(self.seed, epoch, index):
            image = self.transform(image)
        return torch.from_numpy(np.array(image)), item.label


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) keys: each epoch a seeded permutation, of which every process takes its share.

    All batches are full, as batch norm wants it; `start` sets the epoch and how many batches of it are done.
    """

    def __init__(self, size: int, batch_size: int, seed: int, *, process: int = 0, processes: int = 1) -> None:
        self.size, self.seed, self.process, self.processes = size, seed, process, processes
        self.batch_size = min(batch_size, size // processes)
        self.epoch, self.first = 0, 0

    def __len__(self) -> int:
        return self.size // (self.batch_size * self.processes)

    def start(self, epoch: int, first: int) -> None:
        self.epoch, self.first = epoch, first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        for batch in range(self.first, len(self)):
            start = (batch * self.processes + self.process) * self.batch_size
            yield [(self.epoch, int(index)) for index in order[start : start + self.batch_size]]
