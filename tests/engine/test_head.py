"""Where only the last layers adapt, the first are computed once: the same numbers as step by step, for every cut."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from hpc_dmaml.engine import Engine, InnerLoop, Rates, adapt, for_tasks, meta_gradient, objective_for, rates
from hpc_dmaml.engine.head import Head
from hpc_dmaml.engine.objective import Objective
from hpc_dmaml.losses import Loss
from hpc_dmaml.parameters import Layout, flatten
from tests.engine.reference import PROBLEMS, Problem, adapted_losses, distance

CHAINS = {name: problem for name, problem in PROBLEMS.items() if problem.fast}
every_chain = pytest.mark.parametrize("problem", CHAINS.values(), ids=CHAINS)


def cuts(problem: Problem, steps: int = 1) -> Iterator[tuple[nn.Module, Objective, Rates]]:
    """The model with rates for its last parameters alone, in every way that leaves a body with parameters."""
    module = problem.module()
    objective = objective_for(module, problem.sample_shape, problem.loss)
    layout = Layout.of(module)
    for first in range(1, len(layout.names)):
        found = rates(layout, 0.2, "parameter", steps, adapted=layout.names[first:])
        values = 0.2 * torch.randn(found.values.shape, generator=torch.Generator().manual_seed(first)).double()
        found = found._replace(values=values)
        if Head.of(objective, found):
            yield module, objective, found


@every_chain
@pytest.mark.parametrize("first_order", [False, True], ids=["second_order", "first_order"])
def test_the_gradient_is_that_of_the_plain_autograd_loop(problem: Problem, first_order: bool) -> None:
    batch, tried = problem.batch(), 0
    for module, objective, found in cuts(problem, steps=2):
        inner, theta = InnerLoop(found, 3, first_order), flatten(module).requires_grad_()

        def rate(step: int, found: Rates = found) -> torch.Tensor:
            return torch.cat([found.values, found.values.new_zeros(1)])[found.places[found.row(step)]]

        losses = adapted_losses(module, problem.loss, theta, batch, inner, rate)
        (expected,) = torch.autograd.grad(losses.sum(), theta)
        result = meta_gradient(Engine(objective, 2), theta.detach(), batch, inner)
        assert distance(result.losses, losses.detach()) < 1e-10
        assert distance(result.gradient, expected) < 1e-10
        stepwise = meta_gradient(Engine(objective, 2, "parameters"), theta.detach(), batch, inner)  # takes no shortcut
        assert distance(result.gradient, stepwise.gradient) < 1e-12
        torch.testing.assert_close(result.metric, stepwise.metric, equal_nan=True)
        tried += 1
    assert tried


@every_chain
def test_adaptation_gives_the_same_parameters_after_every_step(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, tried = problem.batch().to(torch.device("cpu"), torch.float64), 0
    for module, objective, found in cuts(problem, steps=2):
        start = for_tasks(objective.unflatten(flatten(module), 1), len(batch))
        given = objective, start, batch, found, 4, 3, 0.5
        ours = [objective.flatten(each) for each in adapt(*given)]
        with monkeypatch.context() as patched:
            patched.setattr(Head, "of", lambda *_: None)
            stepwise = [objective.flatten(each) for each in adapt(*given)]
        assert len(ours) == 5
        for one, other in zip(ours, stepwise, strict=True):
            assert distance(one, other) < 1e-12
        tried += 1
    assert tried


class AbsoluteError(Loss):
    def value(self, z: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (z - targets).abs().mean((1, 2))


def test_the_query_set_may_have_a_loss_of_its_own() -> None:
    problem = PROBLEMS["mlp"]
    batch, tried = problem.batch(), 0
    for module, objective, found in cuts(problem):
        judge = objective.with_loss(AbsoluteError())
        ours, stepwise = (
            meta_gradient(Engine(objective, 2, keep, judge), flatten(module), batch, InnerLoop(found, 2))
            for keep in ("activations", "parameters")
        )
        assert distance(ours.losses, stepwise.losses) < 1e-12
        assert distance(ours.gradient, stepwise.gradient) < 1e-12
        tried += 1
    assert tried


def test_there_is_no_cut_where_the_first_layer_adapts() -> None:
    problem = PROBLEMS["conv4_stride"]
    module = problem.module()
    objective, layout = objective_for(module, problem.sample_shape, problem.loss), Layout.of(module)
    assert Head.of(objective, 0.1) is None
    assert Head.of(objective, rates(layout, 0.1)) is None
    assert Head.of(objective, rates(layout, 0.1, adapted=[layout.names[0]])) is None
    head = Head.of(objective, rates(layout, 0.1, adapted=[layout.names[-1]]))
    assert head is not None
    assert len(head.head.layers) == 1
