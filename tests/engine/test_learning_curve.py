"""Evaluation: what adaptation does to a task's query loss and accuracy, step by step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hpc_dmaml.engine import Engine, InnerLoop, adapt, learning_curve, objective_for
from hpc_dmaml.parameters import Layout, flatten
from hpc_dmaml.tasks import TaskBatch
from tests.engine.reference import LOSSES, PROBLEMS, Problem, adapted_losses, call, distance

every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
LR, STEPS, TASKS = 0.2, 3, 5


def curve(problem: Problem, module: nn.Module, batch: TaskBatch, steps: int, chunk: int) -> tuple[Tensor, Tensor]:
    objective = objective_for(module, problem.sample_shape, problem.loss)
    return learning_curve(
        Engine(objective, chunk), flatten(module), batch, lambda start, part: adapt(objective, start, part, LR, steps)
    )


@every_problem
@pytest.mark.parametrize("chunk", [2, 1 << 30])
def test_each_point_of_the_curve_is_adaptation_by_hand(problem: Problem, chunk: int) -> None:
    module, batch = problem.module(), problem.batch(TASKS)
    theta, (losses, accuracies) = flatten(module), curve(problem, module, batch, STEPS, chunk)
    assert losses.shape == accuracies.shape == (STEPS + 1, TASKS)
    for steps in range(STEPS + 1):
        inner = InnerLoop(LR, steps, first_order=True)
        expected = adapted_losses(module, problem.loss, theta.clone().requires_grad_(), batch, inner).detach()
        assert distance(losses[steps], expected) < 1e-10


@every_problem
def test_accuracy_is_the_share_of_right_answers_and_undefined_for_regression(problem: Problem) -> None:
    module, batch = problem.module(), problem.batch(TASKS)
    theta, (_, accuracies) = flatten(module), curve(problem, module, batch, 0, TASKS)
    if problem.loss == "squared_error":
        assert accuracies.isnan().all()
        return
    query = batch.to(theta.device, theta.dtype).query_set
    answers = torch.stack([call(module, Layout.of(module).views(theta), x).argmax(-1) for x in query.x])
    assert torch.equal(accuracies[0], (answers == query.y).double().mean(1))


@every_problem
def test_adapting_one_step_after_another_lowers_the_support_loss(problem: Problem) -> None:
    module = problem.module()
    batch = problem.batch(TASKS).to(torch.device("cpu"), torch.float64)
    objective = objective_for(module, problem.sample_shape, problem.loss)
    path = list(adapt(objective, objective.unflatten(flatten(module), TASKS), batch, 0.02, 4))
    losses = []
    for parameters in path:
        named = [Layout.of(module).views(theta) for theta in objective.flatten(parameters)]
        losses.append(
            sum(
                LOSSES[problem.loss](call(module, own, x), y).item()
                for own, x, y in zip(named, *batch.support_set, strict=True)
            )
        )
    assert losses == sorted(losses, reverse=True)
