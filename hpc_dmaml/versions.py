"""Which code runs: versions of packages, and the commit of a clone."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("hpc_dmaml", "torch", "numpy", "h5py", "mpi4py")
SIMULATORS = ("gymnasium", "mujoco", "metaworld")
"""Packages that make the numbers where they are in use."""
GIT_PATIENCE_S = 2.0


def versions() -> str:
    """Of the packages that make the numbers."""
    used = [*PACKAGES, *(name for name in SIMULATORS if sys.modules.get(name))]
    return " ".join([*(f"{name} {_version(name)}" for name in used), f"python {platform.python_version()}"])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@functools.cache
def git_commit() -> str:
    """The commit of the code that runs, if it runs from a clone that git will look into. To be asked for the first time
    before MPI is up, which does not like to see its process start others."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # a repository further up would be another one
        return ""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        text = subprocess.check_output(
            command, cwd=root, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=GIT_PATIENCE_S
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return text.decode(errors="replace").strip()
