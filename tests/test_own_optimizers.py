"""Workers with optimizers of their own: what they give, what is kept of them, and where it goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpc_dmaml import results
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.engine import InnerLoop
from hpc_dmaml.optimizers import SGD, Adam, Optimizer, TorchOptimizer
from hpc_dmaml.parameters import Layout, flatten
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.run import run_job
from hpc_dmaml.start import build_module
from hpc_dmaml.tasks import Sinusoid
from tests.engine.reference import adapted_losses, distance
from tests.helpers import Poisoned, differing, run, small_config

MERGING = SGD(lr=1.0)
OPTIMIZERS: dict[str, Optimizer] = {
    "SGD": SGD(0.01),
    "momentum": SGD(0.01, momentum=0.9),
    "Adam": Adam(0.01),
    "RMSprop": TorchOptimizer("RMSprop", 0.01),
    "Adagrad": TorchOptimizer("Adagrad", 0.01),
    "NAdam": TorchOptimizer("NAdam", 0.01),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def config(own: Optimizer, **changes: Any) -> Any:
    """Three workers of two epochs, drawn one run at a time."""
    task = Poisoned(shots=4, queries=3, share=0.0)
    base = small_config(task=task, workers=3, epochs=2, local_optimizer=own, optimizer=MERGING)
    return replace(base, **changes)


def merged_by_hand(of: Any, runs: int) -> torch.Tensor:
    """Every run: each worker goes on from θ with its own torch.optim, and θ is the mean of where they arrive."""
    module = build_module(of, (1,), 1)
    theta, built = flatten(module), {}
    for number in range(runs):
        ends = []
        for worker in range(of.workers):
            own = torch.nn.Parameter(theta.clone())
            if worker in built and of.local_state == "kept":
                optimizer, old = built[worker]
                old.data.copy_(theta)
                own = old
            else:
                optimizer = of.local_optimizer.build(own)
                built[worker] = optimizer, own
            for epoch in range(of.epochs):
                batch = of.task.load().sample("train", generator(0, Purpose.TRAINING, number, worker, epoch), of.tasks)
                at = own.detach().clone().requires_grad_()
                loss = adapted_losses(module, "squared_error", at, batch, InnerLoop(0.05, 1)).sum() / of.tasks
                (own.grad,) = torch.autograd.grad(loss, at)
                optimizer.step()
            ends.append(own.detach().clone())
        theta = torch.stack(ends).mean(0)
    return theta


@every_optimizer
@pytest.mark.parametrize("state", ["kept", "fresh"])
def test_an_outer_sgd_of_rate_one_merges_the_workers_parameters(
    optimizer: Optimizer, state: str, tmp_path: Path
) -> None:
    of = config(optimizer, local_state=state)
    source = run(of, tmp_path)
    layout = Layout.of(build_module(of, (1,), 1))
    assert layout.size == len(source["meta_model/parameters"])
    assert distance(torch.from_numpy(source["meta_model/parameters"]), merged_by_hand(of, 3)) < 1e-10


def test_a_workers_own_sgd_is_the_sum_of_gradients_by_another_name(tmp_path: Path) -> None:
    """θ − θ_w is lr · Σ g: an outer rate of 1 here is one of lr there."""
    own = run(config(SGD(0.01)), tmp_path, name="own.h5")
    of = small_config(task=config(SGD()).task, workers=3, epochs=2, optimizer=SGD(0.01))
    summed = run(of, tmp_path, name="summed.h5")
    np.testing.assert_allclose(own["meta_model/parameters"], summed["meta_model/parameters"], rtol=1e-11)
    np.testing.assert_allclose(own["workers/loss"], summed["workers/loss"], rtol=1e-11)


OTHERS = {
    name: TorchOptimizer(name, 0.01) for name in ("ASGD", "Adadelta", "AdamW", "Adamax", "RAdam", "Rprop", "Adafactor")
}


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS.values(), *OTHERS.values()], ids=[*OPTIMIZERS, *OTHERS])
@pytest.mark.parametrize("state", ["kept", "fresh"])
def test_a_job_that_was_interrupted_goes_on_to_the_last_bit(optimizer: Optimizer, state: str, tmp_path: Path) -> None:
    of = config(optimizer, local_state=state, runs=5, optimizer=SGD(0.7, momentum=0.9, nesterov=True))
    of = replace(of, validation=replace(of.validation, every=1))
    whole = run(of, tmp_path)
    for runs in (1, 3):
        name = f"{runs}.h5"
        run(replace(of, runs=runs), tmp_path, name=name)
        parts = run(replace(of, resume=str(tmp_path / name)), tmp_path, name=name)
        assert not differing(whole, parts) - {"checkpoint/restarts"}


def test_the_file_holds_the_state_of_each_worker_and_none_of_fresh_ones(tmp_path: Path) -> None:
    kept = run(config(Adam(0.01)), tmp_path, name="kept.h5")
    assert kept["checkpoint/workers/stepped"].tolist() == [1, 1, 1]
    assert kept["checkpoint/workers/step"].tolist() == [6, 6, 6]
    assert kept["checkpoint/workers/exp_avg"].shape == (3, 19)
    fresh = run(config(Adam(0.01), local_state="fresh"), tmp_path, name="fresh.h5")
    assert not fresh.group("checkpoint/workers/")


def test_a_worker_that_is_not_finite_keeps_the_state_that_it_had(tmp_path: Path) -> None:
    of = config(Adam(0.01), task=Poisoned(shots=4, queries=3, share=0.3), runs=6, epochs=1, workers=4)
    source = run(of, tmp_path)
    finite = np.isfinite(source["workers/loss"])
    assert finite.any(1).all()
    assert not finite.all()
    assert source["checkpoint/workers/step"].tolist() == finite.sum(0).tolist()
    assert np.isfinite(source["checkpoint/workers/exp_avg"]).all()
    run(replace(of, runs=4), tmp_path, name="parts.h5")
    parts = run(replace(of, resume=str(tmp_path / "parts.h5")), tmp_path, name="parts.h5")
    assert not differing(source, parts) - {"checkpoint/restarts"}


class Diverging(Sinusoid):
    """Sine waves; from the sixth batch on nothing is a number."""

    block_runs = 1
    drawn = 0

    def sample(self, split: Any, rng: Any, tasks: int, part: slice = slice(None), queries: Any = None) -> Any:
        batch = super().sample(split, rng, tasks, part, queries)
        if split == "train" and tasks > 1:
            Diverging.drawn += 1
            if Diverging.drawn > 6:
                batch.query_set.y[:] = np.nan
        return batch


def test_a_job_that_fails_leaves_the_state_before_the_run_that_failed(tmp_path: Path) -> None:
    """Of two workers of one epoch the fourth run fails: the file is that of a job of three runs."""
    of = config(Adam(0.01), task=Diverging(shots=4, queries=3), workers=2, epochs=1, runs=9)
    of = replace(of, validation=replace(of.validation, every=3))
    Diverging.drawn = 0
    assert run_job(replace(of, output=str(tmp_path / "failed.h5")), Communicator()) == 1
    Diverging.drawn = 0
    whole = run(replace(of, runs=3), tmp_path, name="whole.h5")
    assert not differing(whole, results.read(tmp_path / "failed.h5", verify=True))


def test_states_of_another_optimizer_are_refused(tmp_path: Path) -> None:
    run(config(Adam(0.01)), tmp_path)
    for other in (SGD(0.01, momentum=0.5), TorchOptimizer("RMSprop", 0.01)):
        with pytest.raises(ValueError, match="is not the state of 3 local_optimizers"):
            run(config(other, resume=str(tmp_path / "job.h5")), tmp_path)
