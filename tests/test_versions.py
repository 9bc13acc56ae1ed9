"""Which code runs is asked of git once, and no job waits for the answer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

from hpc_dmaml import versions
from tests.processes import MPIRUN, ROOT, SMALL, needs_mpirun


@pytest.fixture
def git(tmp_path, monkeypatch):
    """`git(script)`: what runs in place of git, in a clone."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "clone" / ".git").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(versions, "__file__", str(tmp_path / "clone" / "hpc_dmaml" / "versions.py"))
    versions.git_commit.cache_clear()

    def replace(script: str) -> None:
        (tmp_path / "bin" / "git").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "git").chmod(0o755)

    yield replace
    versions.git_commit.cache_clear()


def test_the_commit_is_what_git_says_and_is_asked_for_once(git, tmp_path):
    git(f"echo asked >>{tmp_path}/asked; echo 0123abc-dirty")
    assert [versions.git_commit() for _ in range(3)] == ["0123abc-dirty"] * 3
    assert (tmp_path / "asked").read_text() == "asked\n"


@pytest.mark.parametrize("script", ["echo 'fatal: dubious ownership' >&2; exit 128", "exit 1", "kill -9 $$"])
def test_a_git_that_refuses_leaves_the_commit_open_without_a_word(git, script, capfd):
    git(script)
    assert versions.git_commit() == ""
    assert capfd.readouterr() == ("", "")


def test_a_git_that_hangs_is_not_waited_for(git, monkeypatch):
    git("exec sleep 600")
    monkeypatch.setattr(versions, "GIT_PATIENCE_S", 0.2)
    start = time.monotonic()
    assert versions.git_commit() == ""
    assert time.monotonic() - start < 300


def test_a_repository_further_up_says_nothing_about_our_code(git, tmp_path):
    git("echo 0123abc")
    (tmp_path / "clone" / ".git").rmdir()
    (tmp_path / ".git").mkdir()
    assert versions.git_commit() == ""


@needs_mpirun
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_one_rank_of_a_job_asks_git_before_mpi_is_up(git, tmp_path):
    git(f"echo $PPID >>{tmp_path}/asked; grep -l libmpi /proc/$PPID/maps >>{tmp_path}/mpi; echo 0123abc")
    done = subprocess.run(
        [str(MPIRUN), "-n", "2", sys.executable, "-m", "hpc_dmaml", *SMALL, "--runs", "1", "--output", "x.h5"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+\n", (tmp_path / "asked").read_text())
    assert (tmp_path / "mpi").read_text() == ""
