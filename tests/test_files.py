"""Files are replaced as a whole, and locks end with their holder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from hpc_dmaml.files import (
    LONGEST_WRITE_S,
    Busy,
    Lock,
    Taken,
    add_checksum,
    checksum_fits,
    is_locked,
    lock_file,
    locked,
    replacing,
    there_is,
)
from tests.processes import ROOT

WRITER = """
import sys
from pathlib import Path
from hpc_dmaml.files import replacing, add_checksum
path, size = Path(sys.argv[1]), int(sys.argv[2])
while True:
    with replacing(path) as temporary:
        temporary.write_bytes(bytes(size))
        add_checksum(temporary)
"""
HALF_WRITER = """
import signal, sys, time
from pathlib import Path
from hpc_dmaml.files import replacing
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(bytes(1000))
    print("half", flush=True)
    time.sleep(600)
"""


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)


def write(path, text: str, lock: Lock | None = None) -> None:
    with replacing(path, lock) as temporary:
        temporary.write_text(text)
        add_checksum(temporary)


@pytest.fixture(params=["locks", "no locks"])
def _with_and_without_locks(request, monkeypatch):
    def cannot(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    if request.param == "no locks":
        monkeypatch.setattr(fcntl, "flock", cannot)


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


def test_of_two_writers_the_last_wins_and_no_reader_sees_a_damaged_file(tmp_path):
    path = tmp_path / "x"
    write(path, "first")
    writers = [python(WRITER, path, size) for size in (100_000, 3_000_000)]
    try:
        sizes = set()
        while len(sizes) < 3:  # until both have been seen, and the first
            assert checksum_fits(path)
            assert all(writer.poll() is None for writer in writers)
            sizes.add(path.stat().st_size // 100_000)
        for _ in range(200):
            assert checksum_fits(path)
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as HDF5 does with what it reads
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert checksum_fits(path)


def test_what_a_killed_writer_left_behind_goes_with_the_next_lock_and_what_a_living_one_writes_stays(tmp_path):
    path = tmp_path / "x"
    living, killed = (python(HALF_WRITER, path) for _ in range(2))
    try:
        assert [writer.stdout.readline() for writer in (living, killed)] == ["half\n"] * 2
        killed.kill()
        killed.wait()
        (tmp_path / "x.note.tmp").touch()  # somebody else's
        assert len(list(tmp_path.iterdir())) == 3
        with locked(path):
            pass
        assert len(list(tmp_path.iterdir())) == 2
    finally:
        living.send_signal(signal.SIGINT)
        living.wait()
    assert [p.name for p in tmp_path.iterdir()] == ["x.note.tmp"]


def test_where_nothing_can_be_locked_what_is_old_was_left_behind(tmp_path, monkeypatch):
    old, new = tmp_path / "x.0123abcd.tmp", tmp_path / "x.4567cdef.tmp"
    for path, age_s in ((old, LONGEST_WRITE_S + 60), (new, 0)):
        path.touch()
        os.utime(path, (time.time() - age_s,) * 2)
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "not supported")))
    with locked(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == [new]


@pytest.mark.parametrize("name", ["n" * 250, "ä" * 125])
def test_the_longest_name_that_can_be_locked_can_be_written(tmp_path, name):
    with locked(tmp_path / name) as lock:
        write(tmp_path / name, "content", lock)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.usefixtures("_with_and_without_locks")
def test_whose_lock_was_lost_does_not_write_what_another_has_written(tmp_path):
    path = tmp_path / "x"
    with locked(path) as first:
        write(path, "first", first)
        lock_file(path).unlink()
        with locked(path) as second:
            write(path, "second", second)
            with pytest.raises(Taken, match="another process"):
                write(path, "first again", first)
            write(path, "second again", second)
            content = path.read_bytes()
        assert content.startswith(b"second again")
        with pytest.raises(Taken, match="another process has written"):
            write(path, "first again", first)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_who_has_lost_the_lock_does_not_take_it_from_the_next(tmp_path):
    path = tmp_path / "x"
    with locked(path):
        lock_file(path).unlink()
        second = Lock(path)
    assert is_locked(path)
    second.release()


def test_a_lock_file_that_somebody_deleted_is_made_again(tmp_path):
    path = tmp_path / "x"
    with locked(path) as lock:
        lock_file(path).unlink()
        write(path, "content", lock)
        assert is_locked(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_changed_by_hand_is_written_over(tmp_path):
    """It has no checksum: this is no other job, and the job's own state is worth more."""
    path = tmp_path / "x"
    with locked(path) as lock:
        write(path, "content", lock)
        path.write_text("a note")
        write(path, "content again", lock)
    assert path.read_bytes().startswith(b"content again")


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
def test_a_symbolic_link_stays_one_and_has_the_lock_of_its_target(tmp_path, there):
    path, link = tmp_path / "far" / "x", tmp_path / "link"
    path.parent.mkdir()
    link.symlink_to(path)
    if there:
        write(path, "old")
    with locked(link) as lock:
        assert is_locked(path)
        assert is_locked(link)
        write(link, "new", lock)
        with pytest.raises(Busy), locked(path, wait=False):
            pass
    assert link.is_symlink()
    assert path.read_text(errors="replace").startswith("new")
    write(link, "newer")
    assert path.read_text(errors="replace").startswith("newer")
    assert sorted(tmp_path.rglob("*")) == [path.parent, path, link]


def test_where_the_system_does_not_tell_whether_there_is_a_file_the_field_is_named(tmp_path):
    assert there_is("output", tmp_path)
    assert not there_is("output", tmp_path / "x")
    with pytest.raises(ValueError, match="^output: cannot look for .*x: File name too long"):
        there_is("output", tmp_path / ("x" * 300))
