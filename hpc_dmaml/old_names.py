"""Fields that have moved: files, sweeps and scripts that were written before keep their meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OF_THE_WORKER = ("task_reduction", "clip")
"""What was below `maml` and is now a field of the job; the rest of it is the algorithm's."""


def modern(name: str) -> str:
    """The name of a field today: "maml.inner_lr" is algorithm.inner_lr, "maml.clip" is clip."""
    group, dot, field = name.partition(".")
    if group != "maml":
        return name
    return field if field in OF_THE_WORKER else f"algorithm{dot}{field}"


def modernised(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a configuration under today's names: a group `maml` is the algorithm MAML.

    Raises ValueError where an old and a new name say the same twice.
    """
    new: dict[str, Any] = {}
    for name, value in content.items():
        if name == "maml" and isinstance(value, Mapping):
            own = {field: below for field, below in value.items() if field not in OF_THE_WORKER}
            moved = {field: below for field, below in value.items() if field in OF_THE_WORKER}
            moved |= {"algorithm": {"class_path": "MAML", "init_args": own}} if own else {}
        else:
            moved = {modern(name) if isinstance(name, str) else name: value}
        for other, below in moved.items():
            if other in new or (other != name and other in content):
                raise ValueError(f"{name} is the old name of {other}: give one of them")
            new[other] = below
    return new
