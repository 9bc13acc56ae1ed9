"""The meta-gradient against autograd, central differences and closed forms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.linalg import matrix_power
from torch import nn

from hpc_dmaml.engine import Engine, InnerLoop, MetaGradient, Rates, meta_gradient, objective_for, rates
from hpc_dmaml.engine.layerwise import LayerwiseObjective
from hpc_dmaml.parameters import Layout, flatten
from hpc_dmaml.tasks import Act, Batch, Samples, TaskBatch
from tests.engine.reference import PROBLEMS, Problem, adapted_losses, call, distance, plain_loop

every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def engine(
    problem: Problem, module: nn.Module, batch: Batch, inner: InnerLoop, chunk: int = 2, keep: Any = "activations"
) -> MetaGradient:
    objective = objective_for(module, problem.sample_shape, problem.loss)
    return meta_gradient(Engine(objective, chunk, keep), flatten(module), batch, inner)


@every_problem
def test_a_chain_of_known_layers_takes_the_fast_path_and_nothing_else_does(problem: Problem) -> None:
    objective = objective_for(problem.module(), problem.sample_shape, problem.loss)
    assert isinstance(objective, LayerwiseObjective) == problem.fast


@every_problem
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("first_order", [False, True], ids=["second_order", "first_order"])
def test_it_equals_the_plain_autograd_loop(problem: Problem, steps: int, first_order: bool) -> None:
    module, batch, inner = problem.module(), problem.batch(), InnerLoop(0.2, steps, first_order)
    gradient, losses = plain_loop(module, problem.loss, batch, inner)
    result = engine(problem, module, batch, inner)
    assert distance(result.gradient, gradient) < 1e-10
    assert distance(result.losses, losses) < 1e-10


@every_problem
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_it_equals_central_differences(problem: Problem, steps: int) -> None:
    module, batch, inner, h = problem.module(), problem.batch(2), InnerLoop(0.2, steps, first_order=True), 1e-6
    theta = flatten(module)
    direction = torch.nn.functional.normalize(torch.randn_like(theta), dim=0)
    ahead, behind = (
        adapted_losses(module, problem.loss, (theta + shift * direction).requires_grad_(), batch, inner).sum().item()
        for shift in (h, -h)
    )
    gradient = engine(problem, module, batch, replace(inner, first_order=False)).gradient
    assert (ahead - behind) / (2 * h) == pytest.approx((gradient @ direction).item(), rel=1e-5, abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(1, 5),
    shots=st.integers(1, 8),
    steps=st.integers(0, 6),
    lr=st.floats(0.001, 0.3),
    seed=st.integers(0, 99),
)
def test_of_a_quadratic_loss_it_is_the_closed_form(inputs: int, shots: int, steps: int, lr: float, seed: int) -> None:
    """For z = X w and L_s(w) = ‖X w − y‖²/n, with the constant Hessian H = 2 XᵀX/n and M = (I − αH)ᴷ: a step is
    w ← (I − αH) w + α 2 Xᵀy/n, so that w_K = M w_0 + α Σ_{j<K} (I − αH)ʲ 2 Xᵀy/n, and dL_q(w_K)/dw_0 = Mᵀ ∇L_q(w_K).
    """
    rng = np.random.default_rng(seed)
    (x, query_x), (y, query_y) = rng.normal(size=(2, shots, inputs)), rng.normal(size=(2, shots, 1))
    module = nn.Linear(inputs, 1).double()
    w, ones = flatten(module)[:, None].numpy(), np.ones((shots, 1))
    design, query_design = np.hstack([x, ones]), np.hstack([query_x, ones])
    contraction = np.eye(inputs + 1) - lr * 2 / shots * design.T @ design
    pull = lr * 2 / shots * design.T @ y
    adapted = matrix_power(contraction, steps) @ w + sum(matrix_power(contraction, j) @ pull for j in range(steps))
    expected = matrix_power(contraction, steps).T @ (2 / shots * query_design.T @ (query_design @ adapted - query_y))

    batch = TaskBatch(Samples(x[None], y[None]), Samples(query_x[None], query_y[None]))
    objective = objective_for(module, (inputs,), "squared_error")
    result = meta_gradient(Engine(objective, 1), flatten(module), batch, InnerLoop(lr, steps))
    np.testing.assert_allclose(result.gradient.numpy(), expected[:, 0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["conv4_stride", "conv4_of_many_filters", "conv4_max_pool", "mlp"])
def test_single_precision_is_no_further_from_double_than_the_plain_loop(name: str) -> None:
    problem, inner = PROBLEMS[name], InnerLoop(0.2, 2)
    ours, plain = [], []
    for seed in range(20):
        batch, single = problem.batch(2, seed=seed), problem.module(seed, torch.float32)
        exact, _ = plain_loop(problem.module(seed, torch.float32).double(), problem.loss, batch, inner)
        ours.append(distance(engine(problem, single, batch, inner).gradient, exact))
        plain.append(distance(plain_loop(single, problem.loss, batch, inner)[0], exact))
    assert median(ours) < 3 * median(plain)


@every_problem
def test_results_do_not_depend_on_how_many_tasks_are_computed_at_once(problem: Problem) -> None:
    module, batch, inner = problem.module(), problem.batch(5), InnerLoop(0.2, 2)
    one_by_one = engine(problem, module, batch, inner, chunk=1)
    for chunk in (2, 5, 1 << 30):
        together = engine(problem, module, batch, inner, chunk)
        assert distance(together.gradient, one_by_one.gradient) < 1e-12
        assert distance(together.losses, one_by_one.losses) < 1e-12


@every_problem
@pytest.mark.parametrize("steps", [1, 3])
def test_results_do_not_depend_on_what_is_kept_of_an_inner_step(problem: Problem, steps: int) -> None:
    module, batch, inner = problem.module(), problem.batch(), InnerLoop(0.2, steps)
    kept = engine(problem, module, batch, inner)
    again = engine(problem, module, batch, inner, keep="parameters")
    assert distance(again.gradient, kept.gradient) < 1e-12
    assert torch.equal(again.losses, kept.losses)


@every_problem
def test_the_same_call_gives_the_same_bits_and_changes_nothing(problem: Problem) -> None:
    module, batch, inner = problem.module(), problem.batch(), InnerLoop(0.2, 2)
    objective, theta = objective_for(module, problem.sample_shape, problem.loss), flatten(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    first, second = (meta_gradient(Engine(objective, 2), theta, batch, inner) for _ in range(2))
    assert torch.equal(first.gradient, second.gradient)
    assert torch.equal(theta, flatten(module))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@dataclass(frozen=True)
class Rollouts(Batch):
    """As in reinforcement learning: what a task is given depends on what its model does."""

    x: Any
    seeds: Any
    """(B, 1), one for each task."""
    other: str = "is left alone"

    def support(self, step: int, act: Act) -> Samples:
        return Samples(self.x, act(self.x) + torch.sin(self.seeds + step)[:, :, None])

    def query(self, act: Act) -> Samples:
        return Samples(self.x, 0.5 * act(self.x) - torch.cos(self.seeds)[:, :, None])


@pytest.mark.parametrize("keep", ["activations", "parameters"])
@pytest.mark.parametrize("chunk", [1, 3, 1 << 30])
def test_support_and_query_data_may_depend_on_the_model_at_each_tasks_parameters(keep: Any, chunk: int) -> None:
    """The reference samples with the task's own model by hand, holds the data fixed, and differentiates by autograd."""
    problem, rng = PROBLEMS["mlp"], torch.Generator().manual_seed(0)
    module, inner = problem.module(), InnerLoop(0.2, 2)
    x, seeds = torch.randn(4, 5, 3, generator=rng).double(), torch.arange(4.0, dtype=torch.float64)[:, None]
    result = engine(problem, module, Rollouts(x.numpy(), seeds.numpy()), inner, chunk, keep)

    theta, layout = flatten(module).requires_grad_(), Layout.of(module)
    losses = []
    for b in range(4):
        own = theta
        for step in range(2):
            named = layout.views(own)
            z = call(module, named, x[b])
            loss = F.mse_loss(z, (z + torch.sin(seeds[b] + step)).detach())
            gradients = torch.autograd.grad(loss, list(named.values()), create_graph=True)
            own = own - 0.2 * torch.cat([g.reshape(-1) for g in gradients])
        z = call(module, layout.views(own), x[b])
        losses.append(F.mse_loss(z, (0.5 * z - torch.cos(seeds[b])).detach()))
    expected = torch.autograd.grad(torch.stack(losses).sum(), theta)[0]
    assert distance(result.losses, torch.stack(losses).detach()) < 1e-12
    assert distance(result.gradient, expected) < 1e-10


def test_a_batch_is_cut_and_moved_with_whatever_it_holds() -> None:
    batch = Rollouts(np.zeros((4, 5, 3), np.float32), np.arange(4)[:, None])
    part = batch.part(slice(1, 3)).to(torch.device("cpu"), torch.float64)
    assert (len(batch), len(part), part.other) == (4, 2, "is left alone")
    assert (part.x.dtype, part.seeds.dtype) == (torch.float64, torch.int64)
    assert part.seeds.flatten().tolist() == [1, 2]


RATES: dict[str, dict[str, Any]] = {
    "one for all": {"per": "all"},
    "one a step": {"per": "all", "steps": 3},
    "one a layer": {"per": "layer"},
    "one a layer and step": {"per": "layer", "steps": 3},
    "one a parameter": {"per": "parameter"},
    "one a parameter and step": {"per": "parameter", "steps": 3},
    "for weights alone": {"per": "parameter", "adapted": ["*weight"]},
}


def some_rates(layout: Layout, name: str, learned: bool = True) -> Rates:
    """Rates of all values, negative ones too."""
    made = rates(layout, 0.2, learned=learned, **RATES[name])
    return made._replace(
        values=0.2 * torch.randn(made.values.shape, generator=torch.Generator().manual_seed(1)).double()
    )


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("which", ["mlp", "conv4_stride", "conv4_of_many_filters", "conv4_max_pool", "not_a_chain"])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("first_order", [False, True], ids=["second_order", "first_order"])
def test_rates_and_their_gradients_equal_the_plain_autograd_loop(
    name: str, which: str, steps: int, first_order: bool
) -> None:
    """First order: the second derivatives are dropped, and what is left of the rates' gradient is exact."""
    problem = PROBLEMS[which]
    module, batch = problem.module(), problem.batch()
    found = some_rates(Layout.of(module), name)
    inner = InnerLoop(found, steps, first_order)
    theta, values = flatten(module).requires_grad_(), found.values.clone().requires_grad_()

    def rate(step: int) -> torch.Tensor:
        return torch.cat([values, values.new_zeros(1)])[found.places[found.row(step)]]

    losses = adapted_losses(module, problem.loss, theta, batch, inner, rate)
    expected = torch.autograd.grad(losses.sum(), (theta, values), materialize_grads=True)
    result = engine(problem, module, batch, inner)
    assert distance(result.gradient, expected[0]) < 1e-10
    assert result.rates is not None
    assert distance(result.rates, expected[1]) < 1e-10
    kept = engine(problem, module, batch, inner, keep="parameters")
    assert torch.equal(kept.gradient, result.gradient)
    assert kept.rates is not None
    assert torch.equal(kept.rates, result.rates)


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_rates_and_their_gradients_equal_central_differences(name: str, steps: int) -> None:
    problem, h = PROBLEMS["mlp"], 1e-6
    module, batch = problem.module(), problem.batch()
    found, theta = some_rates(Layout.of(module), name), flatten(module)
    rng = torch.Generator().manual_seed(2)
    result = engine(problem, module, batch, InnerLoop(found, steps))
    assert result.rates is not None
    direction = torch.randn(len(theta) + len(found.values), generator=rng).double()
    of_theta, of_rates = direction.split([len(theta), len(found.values)])
    ahead, behind = (
        meta_gradient(
            Engine(objective_for(module, problem.sample_shape, problem.loss), 2),
            theta + shift * of_theta,
            batch,
            InnerLoop(found._replace(values=found.values + shift * of_rates), steps),
        ).losses.sum()
        for shift in (h, -h)
    )
    slope = (result.gradient @ of_theta + result.rates @ of_rates).item()
    assert ((ahead - behind) / (2 * h)).item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


@every_problem
@pytest.mark.parametrize("first_order", [False, True], ids=["second_order", "first_order"])
def test_a_query_loss_after_every_step_equals_the_plain_autograd_loop(problem: Problem, first_order: bool) -> None:
    module, batch = problem.module(), problem.batch()
    for weights in ((1.0,), (0.4, 0.6), (0.1, 0.2, 0.0, 0.3, 0.4)):
        inner = InnerLoop(0.2, len(weights), first_order, weights=weights)
        expected, _ = plain_loop(module, problem.loss, batch, inner)
        result = engine(problem, module, batch, inner)
        assert distance(result.gradient, expected) < 1e-10
        last = engine(problem, module, batch, replace(inner, weights=None))
        assert torch.equal(result.losses, last.losses)  # what is reported is the loss after adaptation


def test_one_rate_for_all_is_the_plain_number() -> None:
    problem = PROBLEMS["conv4_stride"]
    module, batch = problem.module(), problem.batch()
    plain = engine(problem, module, batch, InnerLoop(0.2, 2))
    rated = engine(problem, module, batch, InnerLoop(rates(Layout.of(module), 0.2), 2))
    assert plain.rates is rated.rates is None
    assert distance(rated.gradient, plain.gradient) < 1e-13


def test_a_pattern_that_is_no_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no parameter of the model is named 'head\.\*'; there are 0.weight, 0.bias"):
        rates(Layout.of(nn.Sequential(nn.Linear(2, 1))), 0.1, adapted=["head.*"])
