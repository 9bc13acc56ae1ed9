"""Find the classes and modules that a configuration names, and import those that may be imported.

Importing runs code. A command line and the files that it names are the user's own; what a result file names is looked
up among the classes of this package, and imported only if it is trusted.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

Trusted = Callable[[str], bool]
"""Tells whether an import path may be imported."""


def search_here() -> None:
    """Let imports find what is in the working folder, as `python -m` does and scripts do not: there, users have their own
    parts. Does nothing where Python was asked not to search unsafe places (-P, -I)."""
    if not getattr(sys.flags, "safe_path", False) and "" not in sys.path:  # Python 3.10 has no such flag
        sys.path.insert(0, "")


def find(name: str, base: type[Any], path: object, trusted: Trusted) -> type[Any]:
    """The class `path`, derived from `base`, for the field `name`: one of this package by its name, or the user's own
    by its import path. Raises ValueError."""
    known = own(base)
    if isinstance(path, str) and path.rpartition(".")[2] in known:
        kind = known[path.rpartition(".")[2]]
        if path in (kind.__name__, f"{kind.__module__}.{kind.__name__}", f"{_package(base)}.{kind.__name__}"):
            return kind
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")) or "." not in path:
        names = ", ".join(sorted(known))
        message = (
            f"{name}: there is no {base.__name__} {str(path)[:80]!r}; known are {names}, or the import path of your own"
        )
        raise ValueError(message + did_you_mean(str(path), known))
    allow(name, path, trusted)
    kind = imported(name, path)
    parent = f"{_package(base)}.{base.__name__}"
    if not isinstance(kind, type):
        raise ValueError(f"{name}: {path} is a {type(kind).__name__}, not a class derived from {parent}")
    if not issubclass(kind, base):
        raise ValueError(f"{name}: {path} is not derived from {parent}")
    check_complete(name, kind)
    if not is_dataclass(kind):
        raise ValueError(f"{name}: {path} is not a dataclass: put @dataclass(frozen=True) above it")
    return kind


def check_complete(name: str, kind: type[Any]) -> None:
    """Raise ValueError where a class does not implement all abstract methods of its base."""
    if inspect.isabstract(kind):
        lacks = sorted(kind.__abstractmethods__)
        missing = ", ".join(each if isinstance(getattr(kind, each), property) else f"{each}()" for each in lacks)
        raise ValueError(f"{name}: {path_of(kind)} is not complete: write {missing}")


def own(base: type[Any]) -> dict[str, type[Any]]:
    """The concrete classes of this package that derive from `base`, by name."""
    found: dict[str, type[Any]] = {}
    for kind in base.__subclasses__():
        if is_own(kind):
            found |= {kind.__name__: kind, **own(kind)}
    return {name: kind for name, kind in found.items() if not inspect.isabstract(kind)}


def is_own(kind: type[Any]) -> bool:
    """Whether a class belongs to this package."""
    return kind.__module__.startswith("hpc_dmaml.")


def path_of(kind: type[Any]) -> str:
    """The name of a class in a configuration: its import path, or, within this package, its name alone."""
    return kind.__qualname__ if is_own(kind) else f"{kind.__module__}.{kind.__qualname__}"


def allow(name: str, path: str, trusted: Trusted) -> None:
    """Raise ValueError unless a path may be imported."""
    if not trusted(path):
        raise ValueError(
            f"{name}: the file asks to import {path}, which is not part of hpc_dmaml or torch.nn and could do anything. "
            "If you trust the file, say so: --trust, or in Python trust=True"
        )


def imported(name: str, path: str) -> Any:
    """Import the object at an import path. Raises ValueError for any error in the user's module."""
    try:
        return pkgutil.resolve_name(path)
    except Exception as error:
        raise ValueError(f"{name}: cannot import {path!r}: {described(error)}") from error


def described(error: BaseException) -> str:
    """An error on one line, with its type unless its message is meant for users."""
    text = " ".join(str(error).split())[:300]
    return text if text and isinstance(error, ValueError | OSError | ImportError) else f"{type(error).__name__}: {text}"


@contextmanager
def saying(what: str) -> Iterator[None]:
    """Raise ValueError, which begins with `what`, for any error of a user's own code in the block; a ValueError, which
    is a message to the user already, goes on as it is."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{what}: {described(error)}") from error


def did_you_mean(given: str, known: Iterable[str], dashes: str = "") -> str:
    """The end of a message that suggests the nearest known name; empty if none is near."""
    near = difflib.get_close_matches(given, known, 1)
    return f"; did you mean {dashes + near[0] if dashes else repr(near[0])}?" if near else ""


def _package(base: type[Any]) -> str:
    """The package that a base class is imported from: hpc_dmaml.tasks for hpc_dmaml.tasks.family."""
    return ".".join(base.__module__.split(".")[:2])
