"""Read the YAML file of a sweep as a mapping whose keys are text, as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpc_dmaml.plain_yaml import load_yaml


def read(path: Path, what: str) -> dict[str, Any]:
    """Read the mapping in a YAML file. Raises ValueError, calling the file a `what`, for anything else."""
    try:
        content = load_yaml(path.read_text(encoding="utf-8"), text_keys=True)
    except FileNotFoundError as error:
        raise ValueError(f"there is no {what} {path}") from error
    except (OSError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is not a readable {what}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a {what} is a mapping, not {type(content).__name__}")
    return content
