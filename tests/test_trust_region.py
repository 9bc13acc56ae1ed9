"""TRPO as a worker's own optimizer: its step is the textbook's, on any ranks, and a job with it goes on like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from hpc_dmaml import trust_region
from hpc_dmaml.algorithms import MAML, MetaSGD, Reptile
from hpc_dmaml.engine import Engine, objective_for
from hpc_dmaml.losses import CategoricalPolicyGradient, GaussianPolicyGradient
from hpc_dmaml.losses.policy_gradient import Divergence, joined
from hpc_dmaml.models import GaussianPolicy
from hpc_dmaml.optimizers import SGD, TRPO
from hpc_dmaml.parameters import Layout, flatten
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.tasks import Navigation, Sinusoid
from hpc_dmaml.trust_region import conjugate_gradients, trust_region_step
from tests.engine.reference import call, distance
from tests.helpers import differing, run, small_config


def test_the_divergence_is_that_of_the_distributions() -> None:
    old, z = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gaussian = [Independent(Normal(m, s.exp()), 1) for m, s in (each.chunk(2, -1) for each in (old, z))]
    for policy, expected in (
        (GaussianPolicyGradient(), kl_divergence(*gaussian)),
        (CategoricalPolicyGradient(), kl_divergence(Categorical(logits=old), Categorical(logits=z))),
    ):
        torch.testing.assert_close(policy.divergence(old, z)[..., 0], expected)
        assert policy.divergence(old, old).abs().max() < 1e-12


def test_steps_that_were_not_made_are_no_part_of_the_divergence() -> None:
    policy = GaussianPolicyGradient()
    old, z = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = torch.tensor([1.0, 1, 0, 1], dtype=torch.float64)
    zeros = torch.zeros(1, 4, dtype=torch.float64)
    given = joined(torch.zeros(1, 4, 2, dtype=torch.float64), zeros, made[None], zeros, zeros)
    loss = Divergence(policy)
    value = loss.value(z, loss.targets_of(old, given))
    assert value.item() == pytest.approx(policy.divergence(old, z)[0, made > 0].mean().item(), rel=1e-12)


def test_conjugate_gradients_solve_a_system_in_as_many_steps_as_it_has_unknowns() -> None:
    root, b = torch.randn(7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).split([6, 1])
    matrix = root @ root.T + torch.eye(6)
    torch.testing.assert_close(conjugate_gradients(matrix.mv, b[0], 12), torch.linalg.solve(matrix, b[0]))
    assert not conjugate_gradients(matrix.mv, torch.zeros(6, dtype=torch.float64), 5).any()


def problem(steps: int) -> tuple[Any, Any, Any, Any]:
    """A small policy, its θ, three tasks, and its loss."""
    family = Navigation(trajectories=3, horizon=5)
    torch.manual_seed(0)
    module = GaussianPolicy((4,), "tanh", log_sigma=-0.3).build((2,), 4).double()
    batch = family.sample("train", generator(0, Purpose.TRAINING, 0), 3).to(torch.device("cpu"), torch.float64)
    return module, flatten(module), batch, family.loss


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("chunk", [1, 3])
def test_a_step_is_the_natural_gradient_to_the_border_of_the_trust_region(
    steps: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: one task after another on autograd, the divergence's Hessian as a matrix, and its inverse."""
    monkeypatch.setattr(trust_region, "DIFFERENCE", 1e-4)  # of this smooth policy a short one is the more exact
    module, theta, batch, loss = problem(steps)
    layout, settings = Layout.of(module), TRPO(iterations=60, damping=1e-3)
    held: dict[tuple[int, int], Any] = {}
    old: dict[int, Tensor] = {}

    def outputs(at: Tensor, b: int) -> Tensor:
        """Of the adapted policy on its query states; what is sampled, at the first call, is held."""
        own, alone = at, batch.part(slice(b, b + 1))
        for step in range(steps + 1):
            named = layout.views(own)
            policy = lambda x, named=named: call(module, named, x[0])[None].detach()  # noqa: E731
            if (b, step) not in held:
                held[b, step] = alone.support(step, policy) if step < steps else alone.query(policy)
            x, y = held[b, step]
            z = call(module, named, x[0])
            if step < steps:
                value = loss.value(z[None], y)[0]
                gradients = torch.autograd.grad(value, list(named.values()), create_graph=True)
                own = own - 0.1 * torch.cat([g.reshape(-1) for g in gradients])
        return z

    def surrogate(at: Tensor) -> Tensor:
        return torch.stack([loss.value(outputs(at, b)[None], held[b, steps].y)[0] for b in range(3)]).mean()

    def divergence(at: Tensor) -> Tensor:
        kl, found = Divergence(loss), []
        for b in range(3):
            z = outputs(at, b)
            old.setdefault(b, z.detach())
            found.append(kl.value(z[None], kl.targets_of(old[b][None], held[b, steps].y))[0])
        return torch.stack(found).mean()

    leaf = theta.clone().requires_grad_()
    (g,) = torch.autograd.grad(surrogate(leaf), leaf)
    divergence(leaf)
    fisher = torch.autograd.functional.hessian(divergence, theta) + settings.damping * torch.eye(len(theta))
    direction = torch.linalg.solve(fisher, g)
    full = (2 * settings.divergence / (direction @ fisher @ direction)).sqrt() * direction
    start = surrogate(leaf).item()
    for trial in range(15):
        expected = (theta - 0.8**trial * full).requires_grad_()
        if divergence(expected) <= settings.divergence and surrogate(expected) < start:
            break
    engine = Engine(objective_for(module, (2,), loss), chunk)
    with torch.no_grad():
        found, report = trust_region_step(settings, MAML(0.1, steps), engine, theta, batch, 0, lambda each: each / 3)
    assert distance(found - theta, expected.detach() - theta) < 1e-4
    assert divergence(found.requires_grad_()) <= settings.divergence
    assert surrogate(found) < start
    assert distance(report.gradient, g) < 1e-9


def test_a_step_of_a_policy_with_kinks_is_the_same_in_both_precisions() -> None:
    """Between the kinks of a ReLU the divergence is flatter: a shorter difference would measure that."""
    family, steps = Navigation(trajectories=5, horizon=20), []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        module = GaussianPolicy((32, 32)).build((2,), 4).to(dtype)
        batch = family.sample("train", generator(0, Purpose.TRAINING, 0), 6).to(torch.device("cpu"), dtype)
        engine, theta = Engine(objective_for(module, (2,), family.loss), 6), flatten(module)
        with torch.no_grad():
            found, _ = trust_region_step(TRPO(), MAML(0.1), engine, theta, batch, 0, lambda each: each / 6)
        steps.append((found - theta).double())
    single, double = steps
    assert double.norm() > 0
    assert torch.cosine_similarity(single, double, dim=0) > 0.9


def test_a_worker_whose_gradient_is_no_number_does_not_count() -> None:
    module, theta, batch, loss = problem(1)
    engine = Engine(objective_for(module, (2,), loss), 3)
    with torch.no_grad():
        found, _ = trust_region_step(TRPO(), MAML(1e300), engine, theta, batch, 0, lambda each: each / 3)
    assert found.isnan().all()


CONFIG: dict[str, Any] = {
    "task": Navigation(trajectories=3, horizon=6), "model": GaussianPolicy((5,)), "tasks": 4, "workers": 2,
    "optimizer": SGD(1.0), "local_optimizer": TRPO(), "algorithm": MAML(0.1),
}  # fmt: skip


def test_workers_of_their_own_steps_are_merged_and_the_job_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    of = small_config(**CONFIG, runs=4)
    whole = run(of, tmp_path)
    assert np.isfinite(whole["workers/loss"]).all()
    assert not whole.group("checkpoint/workers/")
    run(replace(of, runs=2), tmp_path, name="parts.h5")
    parts = run(replace(of, resume=str(tmp_path / "parts.h5")), tmp_path, name="parts.h5")
    assert not differing(whole, parts) - {"checkpoint/restarts"}


def test_learned_rates_step_within_the_region_too(tmp_path: Path) -> None:
    source = run(small_config(**{**CONFIG, "algorithm": MetaSGD(0.1), "epochs": 2}), tmp_path)
    rates = source["meta_model/parameters"][len(source["meta_model/parameters"]) // 2 :]
    assert len(set(rates.tolist())) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": Sinusoid(), "model": small_config().model}, "TRPO is for reinforcement learning"),
        ({"algorithm": Reptile()}, "TRPO needs the gradient of MAML or a subclass, which Reptile does not give"),
        ({"algorithm": MAML(0.1, 2, multi_step_runs=2)}, "multi_step_runs must be 0 with local_optimizer TRPO, not 2"),
        (
            {"algorithm": MAML(0.1, first_order=True)},
            "algorithm.first_order must be left out with local_optimizer TRPO",
        ),
        ({"algorithm": MAML(0.1, first_order_runs=3)}, "algorithm.first_order_runs must be left out"),
        (
            {"task": Navigation(trajectories=3, form="ratio")},
            "task.form must be log_probability with .* TRPO, not ratio",
        ),
        ({"clip": 1.0}, "clip must be left out with local_optimizer TRPO"),
        ({"optimizer": TRPO()}, "TRPO needs tasks, not a gradient alone: it is a worker's"),
    ],
)
def test_where_there_is_nothing_for_it_to_do_it_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(small_config(**{**CONFIG, **changes}), tmp_path)


@pytest.mark.parametrize("bad", [("divergence", 0.0), ("iterations", 0), ("shrink", 1.0)])
def test_fields_out_of_range_are_refused_by_name(bad: tuple[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"local_optimizer.{bad[0]} must be"):
        TRPO(**dict([bad]))
