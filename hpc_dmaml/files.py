"""Files that are never half written, seals that show damage, and locks that die with their process."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_SEAL = b"\nhpc_dmaml seal "
_SEAL_SIZE = len(_SEAL) + 32


def expanded(path: str | Path) -> Path:
    """A path as a user writes it: ~ and $VARIABLES stand for what they stand for in a shell.

    Raises ValueError for a variable that is not set: a folder of that name is not what was meant.
    """
    text = os.path.expandvars(path)
    unknown = re.search(r"\$(\w+|\{[^}]*\})", text)
    if unknown is not None and not os.path.lexists(text):
        raise ValueError(f"{path}: there is no environment variable {unknown[0].strip('${}')}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a temporary file that takes the place of `path`, whole and synced, when the block ends well.

    Raises OSError where the folder or the file cannot be written; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some file systems cannot sync a folder
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(path: Path) -> None:
    """Append a digest of a file's bytes to it. HDF5 overlooks what stands behind its own data."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        mark = _SEAL + _digest(file, size)
        file.seek(size)
        file.write(mark)


def is_sealed(path: Path) -> bool | None:
    """Is the file as it was sealed? None if it bears no seal. To be asked before a damaged file is given to a library
    that may never come back from it, as HDF5 does."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) - _SEAL_SIZE
        if size < 0:
            return None
        file.seek(size)
        mark = file.read()
        return mark == _SEAL + _digest(file, size) if mark.startswith(_SEAL) else None


def _digest(file: BinaryIO, size: int) -> bytes:
    """Of the first `size` bytes."""
    fingerprint = hashlib.blake2b(digest_size=16)
    file.seek(0)
    while size > 0 and (block := file.read(min(size, 2**20))):
        fingerprint.update(block)
        size -= len(block)
    return fingerprint.hexdigest().encode()


class Busy(OSError):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock `path`.lock, which is gone afterwards. Yields whether the file system can lock at all.

    The lock is the kernel's and ends with the process: a file left by a crash stops nobody. Raises Busy if another
    process holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock_file(path)
    descriptor, can_lock = _lock(lock, wait)
    try:
        yield can_lock
    finally:
        with suppress(OSError):  # the folder may have vanished or become read-only
            lock.unlink()
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Does a living process hold the lock of `path`?"""
    try:
        descriptor = os.open(_lock_file(path), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _lock(lock: Path, wait: bool) -> tuple[int, bool]:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            os.close(descriptor)
            raise Busy(f"{lock.with_suffix('')} is in use by another process") from error
        except OSError:
            return descriptor, False
        with suppress(FileNotFoundError):
            if lock.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor, True
        os.close(descriptor)  # its last holder has just removed this file: lock the next one
