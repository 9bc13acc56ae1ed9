"""Merging changes nothing: every number and attribute comes out as it went in; checkpoints only where they are asked for."""

from __future__ import annotations

import csv
import os
import resource
import shutil

import h5py
import numpy as np
import pytest

from hpc_dmaml.analysis import merge
from hpc_dmaml.files import add_checksum, is_locked, locked
from hpc_dmaml.results import read, write
from tests.helpers import equal, run, small_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two real jobs, in two folders, one with its sweep's file."""
    top = tmp_path_factory.mktemp("jobs")
    for name, workers in (("a", 1), ("b", 3)):
        (top / name).mkdir()
        run(small_config(workers=workers), top / name)
    (top / "a/sweep.yaml").write_text("grid: {λ: [1]}\n")
    (top / "a/config.yaml").write_text("runs: 3\n")
    return top


def command(capsys, *arguments):
    """Exit code, stdout, stderr."""
    code = merge.main(list(map(str, arguments)))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def assert_same(one, other):
    assert one.arrays.keys() == other.arrays.keys()
    for name, values in one.arrays.items():
        assert values.dtype == other[name].dtype, name
        assert equal(values, other[name]), name
    assert one.attributes.keys() == other.attributes.keys()
    for name, value in one.attributes.items():
        np.testing.assert_array_equal(value, other.attributes[name])


def test_what_is_split_again_is_as_it_was(folder, tmp_path, capsys):
    archive, again = tmp_path / "all.h5", tmp_path / "again"
    assert command(capsys, folder, "--output", archive, "--checkpoints")[:2] == (0, f"2 files in {archive}\n")
    assert command(capsys, "--split", archive, "--output", again)[:2] == (0, f"2 files in {again}\n")
    for name in ("a/job.h5", "b/job.h5"):
        assert_same(read(folder / name), read(again / name, verify=True))
    for name in ("sweep.yaml", "config.yaml"):
        assert (again / "a" / name).read_text() == (folder / "a" / name).read_text()


def names(archive):
    """Of all arrays in it."""
    if archive.suffix == ".csv":
        with archive.open(newline="") as file:
            return {row["name"] for row in csv.DictReader(file)}
    found = []
    with h5py.File(archive) as file:
        file.visit(found.append)
    return set(found)


@pytest.mark.parametrize("suffix", [".h5", ".csv"])
def test_checkpoints_are_left_out_unless_asked_for(folder, tmp_path, capsys, suffix):
    small, whole = tmp_path / f"small{suffix}", tmp_path / f"whole{suffix}"
    command(capsys, folder, "--output", small)
    command(capsys, folder, "--output", whole, "--checkpoints")
    assert small.stat().st_size < whole.stat().st_size
    assert not any("checkpoint/" in name for name in names(small))
    assert any("checkpoint/" in name for name in names(whole))


def test_a_file_without_its_checkpoint_is_split_again_and_read(folder, tmp_path, capsys):
    archive, again = tmp_path / "all.h5", tmp_path / "again"
    command(capsys, folder, "--output", archive)
    assert command(capsys, "--split", archive, "--output", again)[0] == 0
    before, after = (read(top / "b/job.h5", verify=True) for top in (folder, again))
    kept = {name for name in before.arrays if not name.startswith("checkpoint/")}
    assert after.arrays.keys() == kept < before.arrays.keys()
    assert all(equal(before[name], after[name]) for name in kept)


def test_the_archive_is_plain_hdf5_with_a_group_for_each_job(folder, tmp_path, capsys):
    command(capsys, folder, "--output", tmp_path / "all.h5")
    with h5py.File(tmp_path / "all.h5") as file:
        job = file["b/job.h5"]
        assert job.attrs["status"] == "complete"
        np.testing.assert_array_equal(job["workers/loss"], read(folder / "b/job.h5")["workers/loss"])


def test_the_csv_holds_every_number_to_the_last_bit(folder, tmp_path, capsys):
    assert command(capsys, folder, "--output", tmp_path / "all.csv", "--checkpoints")[0] == 0
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("a/job.h5", "b/job.h5"):
        source = read(folder / name)
        own = [row for row in rows if row["job"] == name]
        for array, values in source.arrays.items():
            texts = [row["value"] for row in own if row["name"] == array]
            back = np.array(texts if values.dtype == object else [float(t) for t in texts]).astype(values.dtype)
            assert equal(back.reshape(values.shape), values), array
        assert [row["value"] for row in own if row["name"] == "@config"] == [source.attributes["config"]]


def test_some_groups_alone_are_smaller_and_cannot_be_split(folder, tmp_path, capsys):
    archive = tmp_path / "some.h5"
    assert command(capsys, folder, "--output", archive, "--groups", "runs", "validation")[0] == 0
    with h5py.File(archive) as file:
        assert set(file["a/job.h5"]) == {"runs", "validation"}
    code, _, err = command(capsys, "--split", archive, "--output", tmp_path / "again")
    assert code == 2
    assert "holds only some groups of its jobs" in err


@pytest.mark.parametrize("suffix", [".h5", ".csv"])
def test_a_group_that_no_file_has_is_refused(folder, tmp_path, capsys, suffix):
    code, _, err = command(capsys, folder, "--output", tmp_path / f"all{suffix}", "--groups", "runs", "wokers")
    assert code == 2
    assert err.startswith("merge: --groups: no file has a group 'wokers'; there are checkpoint, ")
    assert err.endswith("did you mean 'workers'?\n")
    assert list(tmp_path.iterdir()) == []


def test_a_group_that_some_files_have_is_merged(folder, tmp_path, capsys):
    source = read(folder / "b/job.h5")
    arrays = {**source.arrays, "extra/x": np.arange(3)}
    write(tmp_path / "b.h5", arrays, source.attributes)
    archive = tmp_path / "all.h5"
    assert command(capsys, folder, tmp_path / "b.h5", "--output", archive, "--groups", "extra")[0] == 0
    assert any(name.endswith("extra/x") for name in names(archive))


def test_a_damaged_archive_is_refused(folder, tmp_path, capsys):
    archive = tmp_path / "all.h5"
    command(capsys, folder, "--output", archive)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    code, _, err = command(capsys, "--split", archive, "--output", tmp_path / "again")
    assert code == 2
    assert "was damaged" in err


@pytest.mark.parametrize("suffix", [".h5", ".csv"])
def test_a_file_that_another_process_writes_is_left_to_it(folder, tmp_path, capsys, suffix):
    output = tmp_path / f"all{suffix}"
    with locked(output):
        code, _, err = command(capsys, folder, "--output", output)
    assert (code, err) == (2, f"merge: {output} is in use by another process\n")
    assert list(tmp_path.iterdir()) == []


def test_files_are_locked_while_they_are_written_and_unlocked_afterwards(folder, tmp_path, capsys, monkeypatch):
    output, seen = tmp_path / "all.h5", []
    plain = merge.results.read
    monkeypatch.setattr(merge.results, "read", lambda *given: seen.append(is_locked(output)) or plain(*given))
    assert command(capsys, folder, "--output", output)[0] == 0
    assert seen == [True, True]
    with locked(tmp_path / "again/b/job.h5"):
        code, _, err = command(capsys, "--split", output, "--output", tmp_path / "again")
    assert code == 2
    assert "again/b/job.h5 is in use by another process" in err
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"all.h5", "job.h5", *merge.SWEEP_FILES}


@pytest.mark.parametrize("suffix", [".h5", ".csv"])
@pytest.mark.parametrize("end", [KeyboardInterrupt, ValueError])
def test_merging_that_is_cut_short_leaves_nothing(folder, tmp_path, capsys, monkeypatch, suffix, end):
    plain = merge.results.read

    def read_one(path, *groups):
        if path.parent.name == "b":
            raise end
        return plain(path, *groups)

    monkeypatch.setattr(merge.results, "read", read_one)
    assert command(capsys, folder, "--output", tmp_path / f"all{suffix}")[0] == (130 if end is KeyboardInterrupt else 2)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_cannot_write_outside_of_the_folder(folder, tmp_path, capsys):
    archive = tmp_path / "all.h5"
    with h5py.File(archive, "w") as file:
        file.attrs["content"] = merge.ARCHIVE
        file["../../sweep.yaml"] = "mine"
    add_checksum(archive)
    code, _, err = command(capsys, "--split", archive, "--output", tmp_path / "a/b")
    assert code == 2
    assert "would lie outside" in err
    assert [path.name for path in tmp_path.iterdir()] == ["all.h5"]


def test_bad_input_is_one_message_and_nothing_is_overwritten(folder, tmp_path, capsys):
    there = tmp_path / "there.h5"
    there.write_text("mine")
    for arguments, message in (
        ([folder, "--output", there], "exists and is never overwritten"),
        ([folder, "--output", tmp_path / "all.zip"], "--output must end in .h5 or .csv"),
        ([tmp_path / "none", "--output", tmp_path / "all.h5"], "there is no file or folder"),
        ([there, "--output", tmp_path / "all.h5"], "is not a readable result file"),
        (["--split", folder / "a/job.h5", "--output", tmp_path / "x"], "it is a result file of one job"),
        (["--split", tmp_path / "none.h5", "--output", tmp_path / "x"], "is not a readable archive"),
    ):
        code, shown, err = command(capsys, *arguments)
        assert (code, shown) == (2, "")
        assert err.startswith("merge: ")
        assert message in err
        assert err.count("\n") == 1
    assert there.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.h5"]


def test_a_pipe_is_no_archive(tmp_path, capsys):
    os.mkfifo(tmp_path / "x.h5")
    code, _, err = command(capsys, "--split", tmp_path / "x.h5", "--output", tmp_path / "q")
    assert code == 2
    assert err.endswith("x.h5: it is not a regular file\n")


def test_a_file_whose_name_is_no_text_is_named(folder, tmp_path, capsys):
    odd = tmp_path / os.fsdecode(b"\xff.h5")
    shutil.copy(folder / "a/job.h5", odd)
    assert command(capsys, tmp_path, "--output", tmp_path / "m.h5") == (
        2, "", "merge: the name of the file ?.h5 is no text in UTF-8: rename it\n",
    )  # fmt: skip


@pytest.mark.parametrize("suffix", [".h5", ".csv"])
def test_a_full_disk_is_one_message(folder, tmp_path, capsys, suffix):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 500, 4_000, 12_000):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            code, _, err = command(capsys, folder, "--output", tmp_path / f"m{suffix}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (code, err) == (2, f"merge: cannot write {tmp_path / 'm'}{suffix}: File too large\n")
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_no_fault_of_the_archive_that_is_split(folder, tmp_path, capsys):
    archive, again = tmp_path / "all.h5", tmp_path / "again"
    command(capsys, folder, "--output", archive)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
        code, _, err = command(capsys, "--split", archive, "--output", again)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, err) == (2, f"merge: cannot write {again / 'a/job.h5'}: File too large\n")
    assert not [path for path in again.rglob("*") if path.name.endswith((".h5", ".tmp", ".lock"))]
