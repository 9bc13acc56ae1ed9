"""Threads that wait leave their core to those that work, unless the user says otherwise."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from hpc_dmaml.launch import launch

def job(settings, comm):
    assert "torch" not in sys.modules
    print(os.environ["OMP_WAIT_POLICY"])
    return 0

launch(lambda: None, job)
"""


@pytest.mark.parametrize(("environment", "policy"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_wait_policy_is_set_before_torch_is_loaded(
    environment: dict[str, str], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [policy]
