"""The terminal's view of a job: a function of its file and the clock; and how watching ends."""

from __future__ import annotations

import socket
from dataclasses import replace

import numpy as np
import pytest

from hpc_dmaml import results
from hpc_dmaml.alive import pace_s
from hpc_dmaml.analysis import watch
from hpc_dmaml.config import Checkpoint
from hpc_dmaml.files import locked
from tests.analysis.synthetic import write_job
from tests.helpers import small_config

WRITTEN, WRITTEN_S = "2026-01-01T00:00:00+00:00", 1767225600.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "job.h5"


def read(path, **attributes):
    """A file as watch reads it, with other attributes."""
    job = results.read(path, *watch.GROUPS)
    return replace(job, attributes={**job.attributes, **attributes})


def test_a_view_shows_progress_time_left_and_every_worker(path):
    write_job(path, small_config(runs=40, workers=3), 3, "running", 10)
    job = read(path, written=WRITTEN)
    lines = watch.view(job, "running", WRITTEN_S)
    assert lines[0].endswith("job.h5  running")
    wall = job["runs/wall_s"]
    left = round(30 * (wall[-1] - wall[0]) / 9)
    assert lines[1].startswith("run 10/40  ██████████···")
    assert lines[1].endswith(f" 25%  {left} s left")
    for worker, (loss, weight) in enumerate(zip(job["workers/loss"][-1], job["workers/weight"][-1], strict=True)):
        row = next(line for line in lines if line.startswith(f"{worker:6}  "))
        assert f"{loss:.3g}" in row
        assert f"{weight:.2f}" in row
    curve = job["validation/loss"][-1].mean(axis=1)
    assert "  " + " → ".join(f"{value:.3f}" for value in curve) in lines


def test_time_left_runs_down_with_the_clock_and_never_below_nothing(path):
    write_job(path, small_config(runs=4000, workers=1), 1, "running", 10)
    job = read(path, written=WRITTEN)
    now, later = (watch._left(job, "running", WRITTEN_S + s) for s in (0, 20))
    assert now - later == pytest.approx(20)
    assert watch.row(job, "running", WRITTEN_S + 1e6).endswith(" 0 s left")


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("workers", [1, 10, 64])
def test_no_line_is_longer_than_the_terminal_is_wide(path, workers, width):
    write_job(path, small_config(runs=200, workers=workers), 1, "running", 150)
    job = read(path, written=WRITTEN, restarts=2)
    lines = watch.view(job, "dead", WRITTEN_S + 7, width)
    assert max(map(len, lines)) <= width
    assert len(lines) < 24
    assert len(watch.row(job, "dead", WRITTEN_S, width)) <= width


def test_many_workers_are_summarised_by_their_spread(path):
    write_job(path, small_config(runs=4, workers=64), 1)
    job = read(path)
    loss = job["workers/loss"][-1]
    text = f"  loss    {loss.min():.3g} to {loss.max():.3g}, median {np.median(loss):.3g}"
    assert text in watch.view(job, "complete", 0.0)


def test_restarts_and_workers_that_are_not_finite_are_said(path):
    write_job(path, small_config(runs=6, workers=3), 3)
    job = read(path, restarts=2)
    job.arrays["workers/loss"][2:4, 1] = np.nan
    lines = watch.view(job, "complete", 0.0)
    assert "! restarted 2 times" in lines
    assert "! not finite in 2 of 6 runs: worker 1; they counted 0 there" in lines


def test_a_rank_that_is_slow_in_most_runs_is_named(path):
    write_job(path, small_config(runs=12, workers=4), 4)
    job = read(path)
    job.arrays["ranks/host"] = np.array(["n1", "n1", "n2", "n2"], object)
    work_s = job.arrays["ranks/work_s"] = np.full((12, 4), 0.1)
    work_s[5:, 1] = np.nan, *[9.0] * 3, np.inf, 0.1, 0.1  # now and then
    assert not any("wait for them" in line for line in watch.view(job, "complete", 0.0, 200))
    work_s[1:, 2] = 0.21
    work_s[3, 2] = np.nan
    lines = watch.view(job, "complete", 0.0, 200)
    assert "! slow, and all wait for them: rank 2 (n2) 2.1 × the usual time" in lines
    job.arrays.update({name: job[name][:4] for name in ("ranks/work_s", "runs/run", "runs/wall_s", "runs/seen_tasks")})
    assert not any("wait for them" in line for line in watch.view(job, "complete", 0.0, 200))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e20, -1e20])
def test_one_bad_value_hides_no_other(path, bad):
    write_job(path, small_config(runs=40, workers=3), 3, "running", 10)
    plain, spoilt = (read(path, written=WRITTEN) for _ in range(2))
    spoilt.arrays["validation/loss"][1, 2, 0] = bad  # the last of these is shown as a number
    spoilt.arrays["runs/wall_s"][4] = bad
    spoilt.arrays["ranks/wait_s"][4, 1] = bad
    before, after = (watch.view(job, "running", WRITTEN_S) for job in (plain, spoilt))
    best = np.delete(plain["validation/loss"][:, 2].mean(axis=1), 1).min()
    (curve,) = (line for line in after if "over runs" in line)
    assert curve.endswith(f"best {best:.3f}")
    assert " " in curve.split("over runs  ")[1][:5]  # a gap, and blocks around it
    assert [line for line in after if line.startswith(("worker", "     0", "     1", "     2"))] == [
        line for line in before if line.startswith(("worker", "     0", "     1", "     2"))
    ]
    pace = np.delete(np.diff(plain["runs/wall_s"]), [3, 4]).mean()
    assert pace_s(spoilt) == pytest.approx(pace)
    assert watch._left(spoilt, "running", WRITTEN_S) == pytest.approx(30 * pace)


def test_times_and_dates_that_are_none_are_not_told(path):
    write_job(path, small_config(runs=40, workers=1), 1, "running", 10)
    job = read(path, written="0001-01-01T00:00:00")
    job.arrays["runs/wall_s"][:] = np.nan
    lines = watch.view(job, "running", WRITTEN_S)
    assert lines[1].endswith(" 25%")
    assert "? s worked" in lines[2]
    assert "ago" not in lines[2]


def test_a_job_without_a_run_yet_has_a_view(path):
    write_job(path, small_config(workers=2), 2, "running", 0)
    lines = watch.view(read(path), "running", 0.0)
    assert "no run yet" in lines
    assert "no validation yet" in lines


def test_blocks_span_least_to_greatest_and_leave_gaps():
    assert watch.spark(np.array([0.0, 7.0, np.nan, 1.0]), 10) == "▁█ ▂"
    assert watch.spark(np.arange(80.0), 8) == "▁▂▃▄▅▆▇█"
    assert watch.spark(np.array([2.0, 2.0]), 8) == "▄▄"
    assert watch.bar(0.5, 4) == "██··"
    assert watch.bar(np.nan, 2) == "··"


@pytest.mark.parametrize(("status", "code"), [("complete", 0), ("interrupted", 75), ("failed", 1)])
def test_watching_a_job_that_has_ended_returns_its_outcome(path, status, code, capsys):
    write_job(path, small_config(workers=1), 1, status)
    assert watch.main([str(path)]) == code
    assert status in capsys.readouterr().out


def test_the_worst_outcome_of_several_counts(tmp_path, capsys):
    for status in ("complete", "interrupted", "failed"):
        write_job(tmp_path / f"{status}.h5", small_config(workers=1), 1, status)
    files = sorted(map(str, tmp_path.glob("*.h5")))
    assert watch.main(files) == 1
    assert watch.main(files[::2]) == 75
    assert len(capsys.readouterr().out.splitlines()) == 5


def write_running(path, host):
    """A running job's file, written by rank 0 on a host."""
    write_job(path, small_config(runs=9, workers=1, checkpoint=Checkpoint(every_s=30)), 1, "running", 4)
    found = results.read(path)
    results.write(path, {**found.arrays, "ranks/host": [host]}, found.attributes)


def test_a_running_job_whose_lock_is_free_is_dead(path, capsys):
    write_running(path, socket.gethostname())
    assert watch.main([str(path)]) == 1
    assert "dead" in capsys.readouterr().out


def test_a_job_that_holds_its_lock_lives_and_is_read_again_when_its_file_is_replaced(path):
    write_running(path, socket.gethostname())
    one = watch.Watched(path)
    with locked(path):
        one.look()
        assert (one.status, one.ended, one.changed) == ("running", False, True)
        one.look()
        assert not one.changed
        write_job(path, small_config(runs=9, workers=1), 1)
    one.look()
    assert (one.status, one.ended, one.changed) == ("complete", True, True)


def test_on_another_host_a_free_lock_says_nothing_while_the_file_is_fresh(path):
    import os

    write_running(path, "elsewhere.invalid")
    one = watch.Watched(path)
    one.look()
    assert one.status == "running"
    os.utime(path, (0, 0))
    one.look()
    assert one.status == "dead"


def test_a_job_that_has_written_nothing_yet_is_waited_for(path, capsys):
    with locked(path):
        assert watch.main([str(path), "--once"]) == 0
    assert "nothing written yet" in capsys.readouterr().out


def test_bad_input_is_one_message_and_exit_code_2(path, capsys):
    assert watch.main([str(path)]) == 2
    assert "there is no file" in capsys.readouterr().err
    path.write_text("no HDF5")
    assert watch.main([str(path), "--once"]) == 2
    assert "not a readable result file" in capsys.readouterr().err


def test_of_several_files_an_unreadable_one_hides_no_other(path, tmp_path, capsys):
    write_job(path, small_config(workers=1), 1)
    (tmp_path / "half.h5").write_bytes(path.read_bytes()[:1000])
    assert watch.main([str(path), str(tmp_path / "half.h5")]) == 1
    one, other = capsys.readouterr().out.splitlines()
    assert "job.h5" in one
    assert "complete" in one
    assert "half.h5 is not a readable result file" in other


def test_what_a_file_says_cannot_speak_to_the_terminal(tmp_path, capsys):
    path = tmp_path / "a\x1b[2Jb.h5"
    write_job(path, small_config(workers=1), 1)
    assert watch.main([str(path), "--once"]) == 0
    assert "\x1b" not in capsys.readouterr().out
