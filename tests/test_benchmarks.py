"""README's benchmarks and example, for a moment each: that they run, and say all that they are for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.processes import MPIRUN, ROOT, needs_mpirun

pytestmark = pytest.mark.long


def printed(*command: str) -> list[str]:
    """The lines that a command of the repository's root prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def first_cells(lines: list[str]) -> list[str]:
    return [line.split("|")[1].strip() for line in lines if line.startswith("|")]


def benchmark(*arguments: str) -> list[str]:
    return printed(sys.executable, "benchmarks/meta_gradient.py", "--seconds", "0.1", *arguments)


def test_all_methods_that_are_installed_stand_side_by_side():
    lines = benchmark("--cases", "sinusoid")
    assert {"**ours**", "plain loop", "vmap"} <= set(first_cells(lines))
    assert not any("(wrong)" in line for line in lines)
    assert lines[-1].startswith("Our time: ")


def test_jax_gives_the_same_from_a_process_of_its_own():
    pytest.importorskip("jax")
    lines = benchmark("--cases", "sinusoid", "--methods", "JAX")
    assert first_cells(lines)[2:] == ["**ours**", "JAX"]
    assert not any("(wrong)" in line for line in lines)
    assert any(line.startswith("JAX took ") for line in lines)


@pytest.mark.long
def test_time_and_memory_over_the_inner_steps():
    assert first_cells(benchmark("--steps", "--cases", "sinusoid"))[2:] == ["1", "5", "10", "20"]


@pytest.mark.long
def test_a_whole_training_step_beside_its_meta_gradient():
    assert first_cells(benchmark("--end-to-end"))[2:] == ["Sinusoid", "Glyphs"]


@needs_mpirun
@pytest.mark.parametrize("ranks", [1, 2])
def test_scaling_and_the_exchange_beside_bare_collectives(ranks):
    lines = printed(
        str(MPIRUN), "-n", str(ranks), sys.executable, "benchmarks/scaling.py", "--tasks", "2", "--repeats", "1"
    )
    assert first_cells(lines)[2:] == ["1", "2"][:ranks]
    assert sum("× Allreduce + Bcast" in line for line in lines) == (5 if ranks > 1 else 0)


def test_a_run_of_reinforcement_learning_and_where_it_goes():
    small = ["--tasks", "2", "--task.trajectories", "2", "--task.horizon", "3", "--seconds", "0.1"]
    lines = printed(sys.executable, "benchmarks/reinforcement_learning.py", *small)
    assert first_cells(lines)[2:] == ["navigation", "navigation"]
    assert all(float(line.split("|")[-2]) < 1e-4 for line in lines[2:])
