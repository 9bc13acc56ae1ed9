"""Configure the C library's allocator to keep freed memory, in huge pages.

By default glibc returns every large block to the kernel when it is freed; the page faults of the next operation's
result cost up to a third of a step. With pages of 4 KiB, address translation costs another tenth. Linux with glibc
only; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = -1
MADV_HUGEPAGE = 14
HUGE_PAGE_BYTES = 1 << 21
HEAP_BYTES, TOP_PAD_BYTES = 3 << 28, 1 << 26
"""Bytes of heap reserved in huge pages, and bytes by which the heap then grows beyond each request. Physical memory is
taken only as it is used, but a kernel that limits the memory promised (overcommit mode 2) would count all of it: there,
the heap's growth is left at its default."""
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


def keep_freed_memory() -> bool:
    """Configure the allocator of this process; call it once. Returns whether the setting was accepted."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        kept = all(libc.mallopt(*option) for option in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER)))
    except (OSError, AttributeError):
        return False
    if kept and not _counts_promises():
        libc.mallopt(M_TOP_PAD, TOP_PAD_BYTES)
        _use_huge_pages(libc)
    return kept


def _counts_promises() -> bool:
    try:
        return OVERCOMMIT.read_text().strip() == "2"
    except OSError:
        return False


def _use_huge_pages(libc: ctypes.CDLL) -> None:
    """Grow the heap by a block that is advised to be in huge pages, and free it: later blocks are taken from it."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(HEAP_BYTES)
    if block is not None:  # None, for example, where the address space is limited
        start = block - block % -HUGE_PAGE_BYTES
        libc.madvise(start, HEAP_BYTES - HUGE_PAGE_BYTES, MADV_HUGEPAGE)  # without effect if the kernel has none
        libc.free(block)
