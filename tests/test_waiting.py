"""Threads that wait soon leave their core to those that work, unless the user says otherwise."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from hpc_dmaml.launch import launch

def job(settings, comm):
    assert "torch" not in sys.modules
    print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
    return 0

launch(lambda: None, job)
"""


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, "None 3000"),
        ({"OMP_WAIT_POLICY": "active"}, "active None"),
        ({"GOMP_SPINCOUNT": "5"}, "None 5"),
    ],
)
def test_how_long_threads_wait_is_set_before_torch_is_loaded(
    environment: dict[str, str], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found
