"""Versions of the packages in use, and the git commit of a clone."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("hpc_dmaml", "torch", "numpy", "h5py", "mpi4py")
SIMULATORS = ("gymnasium", "mujoco", "metaworld")
"""Packages that are listed if they are loaded."""
GIT_PATIENCE_S = 2.0


def versions() -> str:
    """Names and versions of the packages that affect the results."""
    used = [*PACKAGES, *(name for name in SIMULATORS if sys.modules.get(name))]
    return " ".join([*(f"{name} {_version(name)}" for name in used), f"python {platform.python_version()}"])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@functools.cache
def git_commit() -> str:
    """The commit of the code that runs, or "" outside a clone that git can read. Call it for the first time before MPI
    is loaded, as MPI libraries may not support starting other processes."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # a repository further up would be a different one
        return ""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        text = subprocess.check_output(
            command, cwd=root, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=GIT_PATIENCE_S
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return text.decode(errors="replace").strip()
