"""The results do not depend on the number of ranks: any placement of the same workers ends where one rank does."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from hpc_dmaml import results
from hpc_dmaml.algorithms import LSLR, MAML, MetaSGD, Reptile
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import Heterogeneity, Validation
from hpc_dmaml.models import Conv4, GaussianPolicy
from hpc_dmaml.optimizers import SGD, TRPO, Adam
from hpc_dmaml.run import run_job
from hpc_dmaml.state import stored_best
from hpc_dmaml.tasks import ImageFolder, Navigation
from hpc_dmaml.weight_generators import (
    ArithmeticMean,
    GeometricMedian,
    GradientNorm,
    LossMedian,
    LossMovingAverage,
    LossWeighted,
)
from tests.helpers import Poisoned, run, small_config, timeless
from tests.tasks.folders import make_images

WORKERS = [1, 2, 3, 4, 6, 8]


def check_against_one_rank(config, comm, folder, tolerance=1e-9):
    """Run the job on all ranks, and on this rank alone; compare what they found."""
    together = run(config, folder, comm, "together.h5")
    alone = run(config, folder, Communicator(), f"alone{comm.rank}.h5")
    one, other = alone["meta_model/parameters"], together["meta_model/parameters"]
    assert np.linalg.norm(other - one) <= tolerance * np.linalg.norm(one)
    for name in ("workers/loss", "workers/weight", "validation/loss", "runs/seen_tasks"):
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-6, atol=1e-12, err_msg=name)
    comm.barrier()
    return together, alone


def fits(ranks: int, workers: int) -> bool:
    return ranks % workers == 0 or workers % ranks == 0


@pytest.mark.parametrize("workers", WORKERS)
def test_every_placement(comm, folder, workers):
    if not fits(comm.size, workers):
        pytest.skip("neither number divides the other")
    check_against_one_rank(small_config(runs=4, workers=workers), comm, folder)


def test_augmented_and_normalised_images_of_a_worker_on_all_ranks(comm, folder):
    if comm.rank == 0:
        make_images(folder / "images")
    comm.barrier()
    task = ImageFolder(root=str(folder / "images"), ways=2, size=(6, 6), flip=True, shift=1, jitter=0.4, normalize=True)
    config = small_config(task=task, tasks=2 * comm.size, model=Conv4(filters=4, blocks=2), workers=1)
    together, alone = check_against_one_rank(config, comm, folder)
    for name, values in alone.group("meta_model/constants/").items():
        np.testing.assert_array_equal(together[f"meta_model/constants/{name}"], values)
        assert (values > 0).all()


@pytest.mark.parametrize("own", [None, TRPO(iterations=3, damping=0.01)], ids=["plain", "trust_region"])
def test_trajectories_of_a_worker_on_all_ranks(comm, folder, own):
    config = small_config(task=Navigation(trajectories=3, horizon=6), model=GaussianPolicy((6,)), local_optimizer=own)
    check_against_one_rank(replace(config, tasks=2 * comm.size, workers=1), comm, folder, 1e-6 if own else 1e-9)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("own", [False, True], ids=["plain", "learned_rates_and_own_adam"])
def test_gathered_whole_workers_are_the_same_to_the_last_bit(comm, folder, workers, own):
    if workers % comm.size:
        pytest.skip("a worker would be spread over ranks")
    config = small_config(workers=workers, exchange="gather", dtype="float32", optimizer=Adam())
    if own:
        config = replace(config, algorithm=MetaSGD(0.05), epochs=2, local_optimizer=Adam(), optimizer=SGD(1.0))
    together, alone = check_against_one_rank(config, comm, folder, tolerance=0)
    same = [n for n in timeless(alone) if not n.startswith("ranks/") and n != "validation/metric"]
    for name in same:
        np.testing.assert_array_equal(together[name], alone[name], err_msg=name)


SETTINGS = {
    "weight_generator": [
        ArithmeticMean(),
        LossMedian(),
        LossWeighted(),
        LossMovingAverage(2),
        GradientNorm(),
        GeometricMedian(),
    ],
    "epochs": [1, 3],
    "task_reduction": ["sum", "mean"],
    "optimizer": [SGD(0.002), Adam(0.01)],
    "exchange": ["gather", "allreduce"],
    "clip": [None, 0.01],
    "algorithm": [MAML(0.05), MetaSGD(0.02, 2), LSLR(0.02, 2, multi_step_runs=4), Reptile(0.02, 2)],
    "local_optimizer": [None, Adam(0.01)],
    "heterogeneity": [Heterogeneity(), Heterogeneity(noisy_workers=1, label_noise=0.5, own_tasks=True)],
}


def covering(settings: dict[str, list]) -> list[dict]:
    """Few combinations in which every pair of values of two settings occurs."""
    names = list(settings)
    everything = [dict(zip(names, values, strict=True)) for values in itertools.product(*settings.values())]
    pairs = [{(a, repr(c[a]), b, repr(c[b])) for a, b in itertools.combinations(names, 2)} for c in everything]
    missing, chosen = set().union(*pairs), []
    while missing:
        best = max(range(len(everything)), key=lambda i: len(pairs[i] & missing))
        chosen.append(everything[best])
        missing -= pairs[best]
    return chosen


def configured(setting: dict):
    return small_config(workers=2, local_lr=None if setting["local_optimizer"] else 0.001, **setting)


@pytest.mark.parametrize("setting", covering(SETTINGS), ids=lambda s: "-".join(map(str, s.values())))
def test_every_pair_of_settings(comm, folder, setting):
    if comm.size == 3:
        pytest.skip("two workers do not fit on three ranks")
    check_against_one_rank(configured(setting), comm, folder)


@pytest.mark.slow
@pytest.mark.parametrize("workers", WORKERS)
def test_the_full_product_of_settings(comm, folder, workers):
    if not fits(comm.size, workers):
        pytest.skip("neither number divides the other")
    for number, setting in enumerate(
        dict(zip(SETTINGS, values, strict=True)) for values in itertools.product(*SETTINGS.values())
    ):
        own = folder / str(number)
        check_against_one_rank(replace(configured(setting), workers=workers), comm, own)


@pytest.mark.parametrize("exchange", ["gather", "allreduce"])
def test_workers_that_are_not_finite_are_left_out_on_every_rank(comm, folder, exchange):
    config = small_config(workers=24, runs=3, task=Poisoned(share=0.3), exchange=exchange)
    together, _ = check_against_one_rank(config, comm, folder)
    lost = np.isnan(together["workers/loss"])
    assert lost.any()
    assert (together["workers/weight"][lost] == 0).all()


@pytest.mark.parametrize("exchange", ["gather", "allreduce"])
def test_a_worker_that_is_not_finite_on_one_of_its_ranks_is_left_out_whole(comm, folder, exchange):
    if comm.size != 4:
        pytest.skip("two workers of two ranks each")
    # With this seed one worker is lost in some runs, and both in none.
    config = small_config(workers=2, runs=5, task=Poisoned(share=0.3), exchange=exchange, seed=0)
    together, _ = check_against_one_rank(config, comm, folder)
    assert np.isnan(together["workers/loss"]).any()


@pytest.mark.parametrize("exchange", ["gather", "allreduce"])
def test_every_rank_stops_when_no_worker_is_finite(comm, folder, exchange):
    config = small_config(workers=comm.size, task=Poisoned(share=1.0), exchange=exchange)
    assert run_job(replace(config, output=str(folder / "x.h5")), comm) == 1


def test_validation_tasks_are_spread_over_the_ranks_and_the_same_parameters_kept(comm, folder):
    config = small_config(workers=comm.size, validation=Validation(every=1, tasks=7, steps=1, keep=3))
    together, alone = check_against_one_rank(config, comm, folder)
    for one, other in zip(stored_best(alone), stored_best(together), strict=True):
        assert one.run == other.run
        np.testing.assert_allclose(other.parameters, one.parameters, rtol=1e-9)


@pytest.mark.parametrize("exchange", ["gather", "allreduce"])
@pytest.mark.parametrize("own", [None, Adam(0.01)], ids=["plain", "own_adam"])
def test_a_job_resumed_on_other_ranks_ends_in_the_same_place(comm, folder, exchange, own):
    config = small_config(runs=5, workers=comm.size, exchange=exchange, optimizer=Adam(), local_optimizer=own)
    alone = run(config, folder, Communicator(), f"alone{comm.rank}.h5")
    if comm.rank == 0:
        run(replace(config, runs=2), folder, Communicator(), "parts.h5")
    comm.barrier()
    path = str(folder / "parts.h5")
    assert run_job(replace(config, output=path, resume=path), comm) == 0
    comm.barrier()
    parts = results.read(path, verify=True)
    one, other = alone["meta_model/parameters"], parts["meta_model/parameters"]
    assert np.linalg.norm(other - one) <= 1e-9 * np.linalg.norm(one)
    assert parts["runs/run"].tolist() == [0, 1, 2, 3, 4]
    assert parts["ranks/work_s"].shape == (5, comm.size)


def test_times_tell_work_waiting_exchange_and_validation_of_every_rank(comm, folder):
    source = run(small_config(workers=comm.size, runs=4), folder, comm)
    for name in ("work_s", "data_s", "wait_s", "exchange_s", "validation_s"):
        times = source[f"ranks/{name}"]
        assert times.shape == (4, comm.size)
        assert np.isfinite(times).all()
    assert ((source["ranks/data_s"] > 0) & (source["ranks/data_s"] < source["ranks/work_s"])).all()
    assert (source["ranks/validation_s"] > 0).any(axis=1).tolist() == [False, True, False, True]
    assert len(source["ranks/host"]) == comm.size
