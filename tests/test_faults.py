"""What goes wrong around a healthy job does not end it, what goes wrong in it ends it clearly, and no file is ever lost."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hpc_dmaml import results
from hpc_dmaml.communicator import Communicator, Refusal
from hpc_dmaml.config import Checkpoint
from hpc_dmaml.files import lock_file, locked
from hpc_dmaml.progress import Progress
from hpc_dmaml.run import run_job
from tests.helpers import differing, run, small_config
from tests.processes import ENDLESS, ROOT, Job, needs_mpirun

RUNS = 9


@pytest.fixture
def at_run(monkeypatch):
    """`at_run({n: action})`: something happens after the n-th run of a job."""

    def plan(actions: dict[int, Callable[[], object]]) -> None:
        show = Progress.show

        def shown(self, done):
            show(self, done)
            actions.get(done.run + 1, lambda: None)()

        monkeypatch.setattr(Progress, "show", shown)

    return plan


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    """The folder for results that cannot be written where they belong."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "hpc_dmaml"


def job(folder: Path, **changes):
    """A job that writes its file after every run."""
    return small_config(runs=RUNS, checkpoint=Checkpoint(every=1), output=str(folder / "x.h5"), **changes)


def mount(*arguments: object) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")


def unmount(folder: Path) -> None:
    subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> None:
    with pytest.raises(OSError, match="No space left"), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))


def cannot_lock(*arguments: object) -> None:
    raise OSError(errno.ENOTSUP, "Operation not supported")


class Disk(NamedTuple):
    """A disk that can be full."""

    folder: Path
    fill: Callable[[], object]
    free: Callable[[], object]


@pytest.fixture(params=["a small file system", "a limit on files"])
def disk(request, tmp_path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "a small file system":
        if os.geteuid() != 0:
            pytest.skip("only root can mount")
        mount("-t", "tmpfs", "-o", "size=256k", "tmpfs", folder)
        try:
            yield Disk(folder, lambda: fill(folder), (folder / "filler").unlink)
        finally:
            unmount(folder)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        yield Disk(
            folder,
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard)),
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)),
        )
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_job_outlives_a_disk_that_is_full_for_a_while(disk, at_run, tmp_path, capsys):
    def old_file_stands():
        assert results.read(disk.folder / "x.h5", verify=True)["runs/run"].tolist() == [0, 1, 2]

    whole = run(small_config(runs=RUNS), tmp_path, name="whole.h5")
    at_run({3: disk.fill, 5: old_file_stands, 6: disk.free})
    assert run_job(job(disk.folder), Communicator()) == 0
    source = results.read(disk.folder / "x.h5", verify=True)
    assert source.status == "complete"
    assert not differing(source, whole)
    assert capsys.readouterr().err.count(f"warning: cannot write {disk.folder / 'x.h5'}: ") == 3
    assert list(disk.folder.iterdir()) == [source.path]


def test_a_result_that_finds_no_room_goes_elsewhere_and_says_where(tmp_path, at_run, state, capsys):
    """Here a small file system alone: under a limit on files there is no room anywhere."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", folder)
    try:
        at_run({3: lambda: fill(folder)})
        assert run_job(job(folder), Communicator()) == 1
        assert results.read(folder / "x.h5", verify=True)["runs/run"].tolist() == [0, 1, 2]
    finally:
        unmount(folder)
    (saved,) = state.iterdir()
    said = capsys.readouterr()
    assert f"the result is not in {folder / 'x.h5'} but in {saved}" in said.err
    assert f"hpc_dmaml evaluate {saved}" in said.out
    assert results.read(saved, verify=True).status == "complete"
    assert run_job(job(folder, resume=str(saved)), Communicator()) == 0


def test_a_result_that_no_disk_will_have_is_no_success(disk, at_run, state, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(disk.folder))
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    at_run({3: disk.fill})
    code = run_job(job(disk.folder), Communicator())
    disk.free()
    assert code == 1
    assert results.read(disk.folder / "x.h5", verify=True)["runs/run"].tolist() == [0, 1, 2]
    said = capsys.readouterr()
    assert "the result could not be written anywhere" in said.err
    assert "python -m" not in said.out


def test_a_folder_that_vanishes_is_made_again(tmp_path, at_run):
    folder = tmp_path / "results"
    at_run({3: lambda: shutil.rmtree(folder)})
    assert run_job(job(folder), Communicator()) == 0
    source = results.read(folder / "x.h5", verify=True)
    assert source.status == "complete"
    assert len(source["runs/run"]) == RUNS


def test_a_folder_that_vanishes_for_good_costs_no_result(tmp_path, at_run, state, capsys):
    folder = tmp_path / "results"
    at_run({3: lambda: (shutil.rmtree(folder), folder.touch())})
    assert run_job(job(folder), Communicator()) == 1
    (saved,) = state.iterdir()
    assert results.read(saved, verify=True).status == "complete"
    assert f"but in {saved}" in capsys.readouterr().err


def test_a_folder_that_becomes_read_only_keeps_its_file(tmp_path, at_run, state, capsys):
    folder = tmp_path / "results"
    folder.mkdir()

    def make_read_only():
        if os.geteuid() == 0:  # whom permissions do not stop
            mount("--bind", folder, folder)
            mount("-o", "remount,bind,ro", folder)
        else:
            folder.chmod(0o555)

    at_run({3: make_read_only})
    try:
        assert run_job(job(folder), Communicator()) == 1
    finally:
        if os.geteuid() == 0:
            unmount(folder)
        folder.chmod(0o755)
    assert results.read(folder / "x.h5", verify=True)["runs/run"].tolist() == [0, 1, 2]
    (saved,) = state.iterdir()
    assert results.read(saved, verify=True).status == "complete"
    assert "cannot write" in capsys.readouterr().err


def test_a_lock_that_a_crash_left_behind_stops_nobody(tmp_path):
    (tmp_path / "x.h5.lock").touch()
    (tmp_path / "x.h5.tmp").write_bytes(b"half a file")
    assert run_job(job(tmp_path), Communicator()) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]


@pytest.mark.parametrize("locks", [True, False])
def test_a_job_whose_output_another_one_has_taken_stops_and_keeps_its_result(
    tmp_path, at_run, state, monkeypatch, capsys, locks
):
    path = tmp_path / "x.h5"
    if not locks:
        monkeypatch.setattr(fcntl, "flock", cannot_lock)
    other = run(small_config(seed=1), tmp_path, name="other.h5")

    def take():
        lock_file(path).unlink()
        with locked(path) as lock:
            results.write(path, other.arrays, other.attributes, lock)

    at_run({3: take})
    assert run_job(job(tmp_path), Communicator()) == 1
    assert results.read(path, verify=True).attributes["seed"] == 1
    (saved,) = state.iterdir()
    kept = results.read(saved, verify=True)
    assert (kept.status, kept["runs/run"].tolist()) == ("interrupted", [0, 1, 2, 3, 4])
    said = capsys.readouterr().err
    assert f"another process has written {path} in the meantime. This job stops" in said
    assert f"the result is not in {path} but in {saved}" in said


def test_where_files_cannot_be_locked_a_job_warns_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fcntl, "flock", cannot_lock)
    assert run_job(job(tmp_path), Communicator()) == 0
    assert capsys.readouterr().err.count("cannot lock files") == 1
    assert results.read(tmp_path / "x.h5", verify=True).status == "complete"


def test_a_file_that_a_job_is_writing_is_not_for_another_job(tmp_path):
    with Job(None, *ENDLESS, "--output", "x.h5", cwd=tmp_path) as first:
        first.wait_for((tmp_path / "x.h5").exists)
        second = subprocess.run(
            [sys.executable, "-m", "hpc_dmaml", "--resume", "x.h5"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert second.returncode == 2
        assert second.stderr == "hpc_dmaml: error: output: another job is writing x.h5\n"
        first.kill(first.process.pid, number=signal.SIGTERM)
        assert first.end() == 75
    assert results.read(tmp_path / "x.h5", verify=True).status == "interrupted"


@needs_mpirun
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_job_and_the_file_stands(tmp_path, rank):
    with Job(2, *ENDLESS, "--output", "x.h5", cwd=tmp_path) as job:
        job.wait_for((tmp_path / "x.h5").exists)
        job.kill(job.ranks()[rank])
        assert job.end() not in (0, 1, 2, 75)
    assert results.read(tmp_path / "x.h5", verify=True).status == "running"


def test_a_log_that_cannot_be_written_ends_no_job(tmp_path):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hpc_dmaml", *ENDLESS, "--runs", "4", "--output", "x.h5"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=full, stderr=full, check=False,
        )  # fmt: skip
    assert results.read(tmp_path / "x.h5", verify=True).status == "complete"
    assert done.returncode == 0


@pytest.mark.parametrize("missing", ["checkpoint/memory", "meta_model/names", "meta_model/best_parameters"])
def test_a_checkpoint_without_what_a_job_needs_is_refused_by_name(tmp_path, missing):
    """A file that is whole, with a checksum that fits, but was not written by a job."""
    source, odd = run(small_config(), tmp_path), str(tmp_path / "odd.h5")
    results.write(Path(odd), {n: a for n, a in source.arrays.items() if n != missing}, source.attributes)
    with pytest.raises(Refusal, match=rf"odd\.h5 holds no ({missing}|checkpoint)"):
        run_job(small_config(output=odd, resume=odd), Communicator())
