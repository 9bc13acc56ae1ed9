"""The meta-gradient against autograd, central differences and closed forms."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.linalg import matrix_power
from torch import nn

from hpc_dmaml.engine import InnerLoop, MetaGradient, meta_gradient, objective_for
from hpc_dmaml.engine.layerwise import LayerwiseObjective
from hpc_dmaml.parameters import flatten
from hpc_dmaml.tasks import Samples, TaskBatch
from tests.engine.reference import PROBLEMS, Problem, adapted_losses, distance, plain_loop

every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def engine(problem: Problem, module: nn.Module, batch: TaskBatch, inner: InnerLoop, chunk: int = 2) -> MetaGradient:
    objective = objective_for(module, problem.sample_shape, problem.loss)
    return meta_gradient(objective, flatten(module), batch, inner, chunk)


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
    result = meta_gradient(objective, flatten(module), batch, InnerLoop(lr, steps), 1)
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
    again = engine(problem, module, batch, replace(inner, keep="parameters"))
    assert distance(again.gradient, kept.gradient) < 1e-12
    assert torch.equal(again.losses, kept.losses)


@every_problem
def test_the_same_call_gives_the_same_bits_and_changes_nothing(problem: Problem) -> None:
    module, batch, inner = problem.module(), problem.batch(), InnerLoop(0.2, 2)
    objective, theta = objective_for(module, problem.sample_shape, problem.loss), flatten(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    first, second = (meta_gradient(objective, theta, batch, inner, 2) for _ in range(2))
    assert torch.equal(first.gradient, second.gradient)
    assert torch.equal(theta, flatten(module))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_the_query_data_may_depend_on_the_adapted_parameters() -> None:
    """As in reinforcement learning: each task's query set is asked for at that task's own θ_K (P,)."""
    problem, inner, asked = PROBLEMS["mlp"], InnerLoop(0.2, 2), []

    class Rollouts(TaskBatch):
        needs_adapted = True

        def part(self, tasks: slice) -> Rollouts:
            return Rollouts(*(Samples(s.x[tasks], s.y[tasks]) for s in (self.support, self.held_query)))

        def to(self, device: torch.device, dtype: torch.dtype) -> Rollouts:
            moved = super().to(device, dtype)
            return Rollouts(moved.support, moved.held_query)

        def query(self, adapted: torch.Tensor | None) -> Samples:
            asked.append(adapted)
            return self.held_query

    plain, module = problem.batch(), problem.module()
    result = engine(problem, module, Rollouts(plain.support, plain.held_query), inner, chunk=3)
    assert torch.equal(result.gradient, engine(problem, module, plain, inner, chunk=3).gradient)
    theta = asked[0]
    batch = plain.to(theta.device, theta.dtype)
    for b in range(3):
        loss = adapted_losses(module, problem.loss, theta[b], plain.part(slice(b, b + 1)), InnerLoop(0.2, 0))
        assert loss.item() == pytest.approx(result.losses[b].item(), rel=1e-12)
    assert theta.shape == (len(batch), flatten(module).numel())
