"""Files are replaced as a whole, and locks end with their holder."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hpc_dmaml.files import Busy, is_locked, locked, replacing


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_holder_is_refused_until_the_first_is_done(tmp_path):
    path = tmp_path / "x"
    with locked(path):
        assert is_locked(path)
        with pytest.raises(Busy, match="in use by another process"), locked(path, wait=False):
            pass
    assert not is_locked(path)
    with locked(path, wait=False) as can_lock:
        assert can_lock
    assert list(tmp_path.iterdir()) == []


def test_a_lock_dies_with_its_process_and_its_file_stops_nobody(tmp_path):
    path = tmp_path / "x"
    code = f"import os; from pathlib import Path; from hpc_dmaml.files import locked\nwith locked(Path({str(path)!r})): os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "x.lock").exists()
    assert not is_locked(path)
    with locked(path, wait=False):
        pass
