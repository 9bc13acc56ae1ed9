"""Other names of fields: old ones, with which older files, sweeps and scripts keep working, and those of jsonargparse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OLD_GROUP = "maml"
OF_THE_WORKER = ("task_reduction", "clip")
"""Fields of the former group `maml` that are now fields of the job; its other fields are now the algorithm's."""


def modern(name: str) -> str:
    """The current name of a field: "maml.inner_lr" is algorithm.inner_lr, "maml.clip" is clip; "task.class_path" is task,
    "optimizer.init_args.lr" optimizer.lr."""
    group, dot, field = name.partition(".")
    field = field.removeprefix("init_args.")
    if group != OLD_GROUP:
        return group if field == "class_path" else group + dot + field
    return field if field in OF_THE_WORKER else f"algorithm{dot}{field}"


def modernised(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a configuration under the current names: a group `maml` is the algorithm MAML.

    Raises ValueError where a field is given by both its old and its new name.
    """
    new: dict[str, Any] = {}
    for name, value in content.items():
        if name == OLD_GROUP and isinstance(value, Mapping):
            own = {field: below for field, below in value.items() if field not in OF_THE_WORKER}
            moved = {field: below for field, below in value.items() if field in OF_THE_WORKER}
            moved |= {"algorithm": {"class_path": "MAML", "init_args": own}} if own else {}
        elif isinstance(name, str) and name.endswith(".init_args") and isinstance(value, Mapping):
            moved = {modern(f"{name}.{field}"): below for field, below in value.items()}
        else:
            moved = {modern(name) if isinstance(name, str) else name: value}
        for other, below in moved.items():
            if other in new or (other != name and other in content):
                raise ValueError(f"{name} is another name of {other}: give one of them")
            new[other] = below
    return new
