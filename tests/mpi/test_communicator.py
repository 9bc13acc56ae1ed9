"""What ranks say to each other, with and without patience."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mpi4py import MPI

from hpc_dmaml import communicator
from hpc_dmaml.communicator import SPIN_S, MpiCommunicator, Refusal, own_cores


@pytest.fixture(params=[math.inf, 0.0], ids=["polling", "sleeping"])
def ranks(request):
    return MpiCommunicator(MPI, MPI.COMM_WORLD, spin_s=request.param)


def test_arrays_are_gathered_in_the_order_of_the_ranks(ranks):
    mine = np.arange(6.0).reshape(2, 3) + 10 * ranks.rank
    expected = np.stack([np.arange(6.0).reshape(2, 3) + 10 * r for r in range(ranks.size)])
    np.testing.assert_array_equal(ranks.all_gather(mine), expected)
    gathered = ranks.gather(mine)
    if ranks.rank == 0:
        np.testing.assert_array_equal(gathered, expected)
    else:
        assert gathered is None


def test_objects_of_any_size_reach_every_rank(ranks):
    mine = {"rank": ranks.rank, "text": "x" * 1000 * ranks.rank}
    assert ranks.all_gather_objects(mine) == [{"rank": r, "text": "x" * 1000 * r} for r in range(ranks.size)]
    assert ranks.broadcast_object(mine if ranks.rank == 0 else object) == {"rank": 0, "text": ""}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_and_broadcasts_happen_in_place(ranks, dtype):
    values = np.full(1000, ranks.rank + 1, dtype)
    ranks.all_sum(values)
    assert (values == ranks.size * (ranks.size + 1) // 2).all()
    values[:] = ranks.rank + 5
    ranks.broadcast(values)
    assert (values == 5).all()


def test_tensors_are_summed_on_every_rank(ranks):
    total = ranks.tensor_sum(torch.full((7,), float(ranks.rank)))
    assert (total == sum(range(ranks.size))).all()


def test_groups_have_their_own_sums(ranks):
    group = ranks.split(ranks.rank % 2)
    total = torch.tensor([float(ranks.rank)])
    assert group.tensor_sum(total).item() == sum(r for r in range(ranks.size) if r % 2 == ranks.rank % 2)


def test_all_ranks_of_one_machine_are_one_node(ranks):
    assert ranks.split_node().size == ranks.size


def test_what_the_last_rank_finds_wrong_every_rank_refuses(ranks):
    with pytest.raises(Refusal, match="rank"), ranks.raising_together():
        if ranks.rank == ranks.size - 1:
            raise ValueError("wrong on one rank")


@pytest.mark.skipif(MPI.COMM_WORLD.Get_size() == 1, reason="nobody to wait for")
@pytest.mark.parametrize("spin_s", [0.0, SPIN_S])
def test_a_rank_that_waits_for_long_leaves_its_core_to_others(spin_s):
    ranks = MpiCommunicator(MPI, MPI.COMM_WORLD, spin_s)
    ranks.barrier()
    if ranks.rank == 0:
        time.sleep(1)
    start_s = time.process_time()
    ranks.barrier()
    assert time.process_time() - start_s < 0.5


@pytest.mark.skipif(not 1 < MPI.COMM_WORLD.Get_size() <= len(own_cores()), reason="no core for each of several ranks")
@pytest.mark.parametrize(("policy", "sleeps"), [("active", False), ("passive", True), (None, True)])
def test_who_wants_active_waiting_gets_it_from_ranks_too(policy, sleeps, monkeypatch):
    if policy is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    ranks = MpiCommunicator(MPI, MPI.COMM_WORLD)
    ranks.barrier()
    if ranks.rank == 0:
        time.sleep(0.2)
    pauses = []
    monkeypatch.setattr(communicator, "time", SimpleNamespace(perf_counter=time.perf_counter, sleep=pauses.append))
    ranks.barrier()
    if ranks.rank != 0:
        assert bool(pauses) is sleeps
