"""The C library's allocator, told to keep what is freed, in huge pages.

glibc gives every large block back to the kernel when it is freed, and the next operation's result is then paged in
anew, which costs up to a third of a step. In pages of 4 KiB, finding them costs another tenth. Linux with glibc only;
elsewhere nothing happens.
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
"""Of address space for the heap to grow in by huge pages, and by how much more than is asked for it grows then. Memory is
taken only as it is used, but a kernel that counts what is promised (overcommit mode 2) would count all of it: there, the
heap grows as it does."""
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


def keep_freed_memory() -> bool:
    """Tell the allocator, once in the life of the process. Returns whether it took the setting."""
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
    """Grow the heap by a block that is advised to be in huge pages, and free it: the next ones are cut from it."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(HEAP_BYTES)
    if block is not None:  # as where the address space is limited
        start = block - block % -HUGE_PAGE_BYTES
        libc.madvise(start, HEAP_BYTES - HUGE_PAGE_BYTES, MADV_HUGEPAGE)  # a kernel without them refuses, harmlessly
        libc.free(block)
