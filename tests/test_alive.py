"""Whether a job is alive is one decision, for watch, report and sweeps."""

from __future__ import annotations

import os
import socket

import pytest

from hpc_dmaml import results, sweep
from hpc_dmaml.alive import QUIET_S, is_alive
from hpc_dmaml.files import locked
from hpc_dmaml.sweep import states
from tests.analysis.synthetic import write_job, write_sweep
from tests.helpers import small_config

HERE, ELSEWHERE = socket.gethostname(), "elsewhere.invalid"


def running(path, host):
    """A running job, whose rank 0 is on a host."""
    write_job(path, small_config(runs=9, workers=1), 1, "running", 4)
    found = results.read(path)
    results.write(path, {**found.arrays, "ranks/host": [host]}, found.attributes)
    return results.read(path)


@pytest.mark.parametrize(
    ("host", "still_s", "evidence", "alive"),
    [
        (HERE, 0, {}, False),
        (ELSEWHERE, 0, {}, True),
        (ELSEWHERE, QUIET_S + 60, {}, False),
        (ELSEWHERE, 0, {"submitted": True}, False),  # the queue knows it no more
        (ELSEWHERE, 1e6, {"submitted": True, "queued": "RUNNING"}, True),
        (HERE, 0, {"submitted": True, "queued": "COMPLETING"}, True),
        (ELSEWHERE, 0, {"submitted": True, "queued": "PENDING"}, False),
    ],
)
def test_without_a_lock_the_queue_the_host_and_the_files_age_decide(tmp_path, host, still_s, evidence, alive):
    job = running(tmp_path / "job.h5", host)
    age = job.path.stat().st_mtime - still_s
    os.utime(job.path, (age, age))
    assert is_alive(job, **evidence) == alive


def test_who_holds_the_lock_is_alive(tmp_path):
    job = running(tmp_path / "job.h5", HERE)
    with locked(job.path):
        assert is_alive(job)
        assert is_alive(job, None, submitted=True)


def test_a_sweeps_point_on_another_host_runs_until_its_file_is_quiet(tmp_path):
    (tmp_path / "s.yaml").write_text("set: {runs: 9, workers: 1}\nseeds: [0]\n")
    found = sweep.load(tmp_path / "s.yaml", tmp_path)
    write_sweep(found)
    (point,) = found.points
    source = results.read(point.output)
    results.write(
        point.output, {**source.arrays, "ranks/host": [ELSEWHERE]}, {**source.attributes, "status": "running"}
    )
    assert [state.word for state in states.states(found)] == [states.RUNNING]
    os.utime(point.output, (0, 0))
    assert [state.word for state in states.states(found)] == [states.FAILED]
