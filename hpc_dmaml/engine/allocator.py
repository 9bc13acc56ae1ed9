"""The C library's allocator, told to keep what is freed.

glibc gives every large block back to the kernel when it is freed, and the next operation's result is then paged in
anew, which costs up to a third of a step. Linux with glibc only; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tell the allocator, once in the life of the process. Returns whether it listened."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(*option) for option in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 1 << 30), (M_TOP_PAD, 1 << 26)))
