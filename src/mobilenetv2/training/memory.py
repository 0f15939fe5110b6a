"""How the C library keeps memory while a network is trained on a CPU."""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Reuse the memory of freed tensors instead of asking the kernel for zeroed pages at every operation.

    Every activation of a training step is larger than glibc's threshold for a mapping of its own, so by
    default each is mapped, faulted in page by page, and unmapped again. Measured on two cores at 128
    pixels and batch 64: 29 images a second by default, 39 so. Other C libraries are left alone.
    To be called before torch is imported.
    """
    # torch reads it once, at its first allocation: tensors on huge pages, where the kernel offers them.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
