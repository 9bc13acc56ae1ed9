"""Atomically written files, checksums that show damage, and locks that end with their process."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

_SEAL = b"\nhpc_dmaml seal "
_SEAL_SIZE = len(_SEAL) + 32
LONGEST_WRITE_S = 3600.0
"""Seconds without a change after which a temporary file counts as left behind, where files cannot be locked."""


def expanded(path: str | Path) -> Path:
    """Expand ~ and $VARIABLES in a path, as a shell does.

    Raises ValueError for a variable that is not set, unless the path exists literally.
    """
    text = os.path.expandvars(path)
    unknown = re.search(r"\$(\w+|\{[^}]*\})", text)
    if unknown is not None and not os.path.lexists(text):
        raise ValueError(f"{path}: there is no environment variable {unknown[0].strip('${}')}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error


def there_is(name: str, path: Path) -> bool:
    """Whether there is a file or folder at the path that the field `name` holds. Raises ValueError, naming the field,
    where the system does not tell: a folder may not be entered, or a name is too long."""
    try:
        return path.exists()
    except OSError as error:
        raise ValueError(f"{name}: cannot look for {path}: {error.strerror}") from error


def target(path: Path) -> Path:
    """The file that a symbolic link stands for: writing it keeps the link, and both names have one lock."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def replacing(path: Path, lock: Lock | None = None) -> Iterator[Path]:
    """Write a temporary file that replaces `path`, complete and synced, when the block succeeds.

    Each block has its own temporary file, so that of two writers the last one wins, and neither damages what the other
    writes. Raises OSError where the folder or the file cannot be written, and Taken where `lock` on the path was lost;
    `path` is then unchanged. HDF5 must open the temporary file with `locking=False`.
    """
    path = target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    descriptor, _ = _flock(temporary, wait=True)  # shows `_clear` that its writer is alive
    try:
        try:
            yield temporary
            sync(temporary)
        finally:
            os.close(descriptor)  # before the file becomes visible: HDF5 locks what it reads
        if lock is None:
            temporary.replace(path)
        else:
            lock.replace(temporary)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some file systems cannot sync a folder
        sync(path.parent)


@contextmanager
def replacing_csv(path: Path) -> Iterator[TextIO]:
    """`replacing`, for a CSV file: the temporary file is open for the module `csv`; file names that are not UTF-8 pass."""
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        yield file


def operand(path: Path) -> str:
    """A path in a form that no command takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _temporary(path: Path) -> Path:
    """A new name beside `path`, which it shortens if it would be too long for a file system."""
    return path.with_name(f"{_stem(path)}.{secrets.token_hex(4)}.tmp")


def _stem(path: Path) -> str:
    return os.fsdecode(os.fsencode(path.name)[:240])


def _clear(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left behind."""
    pattern = re.compile(re.escape(_stem(path)) + r"(\.[0-9a-f]{8})?\.tmp")
    with suppress(OSError):
        for other in path.parent.iterdir():
            if pattern.fullmatch(other.name):
                _remove_unless_written(other)


def _remove_unless_written(temporary: Path) -> None:
    """Remove a temporary file unless a live writer locks it or, where files cannot be locked, has changed it lately."""
    with temporary.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            written = False
        except BlockingIOError:
            written = True
        except OSError:
            written = time.time() - os.fstat(file.fileno()).st_mtime < LONGEST_WRITE_S
        if not written:
            temporary.unlink()


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def add_checksum(path: Path) -> None:
    """Append a checksum of a file's bytes to it. HDF5 ignores what follows its own data."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        mark = _SEAL + _digest(file, size)
        file.seek(size)
        file.write(mark)


def checksum_fits(path: Path) -> bool | None:
    """Whether a file matches its checksum; None if it has none. To be checked before a library opens the file that may
    hang on a damaged one, as HDF5 does. Raises ValueError for a pipe or a device, which would hang here."""
    if not path.is_file() and path.exists():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) - _SEAL_SIZE
        if size < 0:
            return None
        file.seek(size)
        mark = file.read()
        return mark == _SEAL + _digest(file, size) if mark.startswith(_SEAL) else None


def _mark(path: Path) -> bytes | None:
    """The checksum of a file, unchecked; None if there is no file, or it has none."""
    try:
        with path.open("rb") as file:
            file.seek(-_SEAL_SIZE, os.SEEK_END)
            mark = file.read()
    except OSError:
        return None
    return mark if mark.startswith(_SEAL) else None


def _digest(file: BinaryIO, size: int) -> bytes:
    """Digest of the first `size` bytes."""
    fingerprint = hashlib.blake2b(digest_size=16)
    file.seek(0)
    while size > 0 and (block := file.read(min(size, 2**20))):
        fingerprint.update(block)
        size -= len(block)
    return fingerprint.hexdigest().encode()


class Busy(OSError):
    """Another process holds the lock."""


class Taken(OSError):
    """Another process has taken over a path that this one had locked."""


class Lock:
    """The right to write a path, which ends with its process. Raises Busy if another process holds it and `wait` is false.

    It can be lost: somebody deletes the lock file, and another process locks a new one, or the file system has no locks
    (`works` is false). So `replace` checks that the lock is still held, and that the file is still the one that this
    process knows.
    """

    def __init__(self, path: Path, wait: bool = True) -> None:
        self._path, self._file = target(path), lock_file(path)
        self._descriptor, self.works = _flock(self._file, wait)
        self._known = _mark(path)

    def replace(self, temporary: Path) -> None:
        """Replace the path by a temporary file. Raises Taken if another process has taken over the path."""
        if self.works and not _is_open(self._file, self._descriptor):
            self._renew()
        if _mark(self._path) not in (None, self._known):
            raise Taken(f"another process has written {self._path} in the meantime")
        known = _mark(temporary)
        temporary.replace(self._path)
        self._known = known

    def _renew(self) -> None:
        try:
            descriptor, self.works = _flock(self._file, wait=False)
        except Busy as error:
            raise Taken(f"another process has locked {self._path} after somebody deleted {self._file}") from error
        os.close(self._descriptor)
        self._descriptor = descriptor

    def release(self) -> None:
        with suppress(OSError):  # the folder may have vanished or become read-only
            if _is_open(self._file, self._descriptor):
                self._file.unlink()
        os.close(self._descriptor)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[Lock]:
    """Hold the lock of `path`, a file beside it that is then removed; one that a crash left behind blocks nobody.

    Temporary files of killed writers are removed. Raises Busy if another process holds the lock and `wait` is false.
    """
    path = target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(path, wait)
    try:
        _clear(path)
        yield lock
    finally:
        lock.release()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Hold the lock of a new file. Raises ValueError if it exists, Busy if another process is writing it."""
    with locked(path, wait=False):
        require_new(path)
        yield


def require_new(path: Path) -> None:
    """Raise ValueError if the path exists."""
    if path.exists():
        raise ValueError(f"{path} exists and is never overwritten")


def is_locked(path: Path) -> bool:
    """Whether a live process holds the lock of `path`."""
    try:
        descriptor = os.open(lock_file(path), os.O_RDONLY)
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


def lock_file(path: Path) -> Path:
    """The lock file of `path`."""
    path = target(path)
    return path.with_name(path.name + ".lock")


def _flock(file: Path, wait: bool) -> tuple[int, bool]:
    """Create and lock a file. Returns its descriptor, and whether the file system can lock at all."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            os.close(descriptor)
            raise Busy(f"{file.with_suffix('')} is in use by another process") from error
        except OSError:
            return descriptor, False
        if _is_open(file, descriptor):
            return descriptor, True
        os.close(descriptor)  # its last holder has just removed this file: lock the next one


def _is_open(file: Path, descriptor: int) -> bool:
    """Whether the descriptor is of the file that is now at this path, not of an earlier one."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
