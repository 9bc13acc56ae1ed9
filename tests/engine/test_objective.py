"""Which models are taken, and what is said about those that are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn

from hpc_dmaml.engine import Engine, InnerLoop, default_chunk, meta_gradient, objective_for
from hpc_dmaml.engine.autograd import AutogradObjective
from hpc_dmaml.engine.layerwise import LayerwiseObjective
from hpc_dmaml.parameters import Layout, flatten
from hpc_dmaml.tasks import Samples, TaskBatch
from tests.engine.reference import PROBLEMS, Problem, distance, plain_loop

every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def test_an_unknown_loss_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no loss 'hinge'; there are cross_entropy, squared_error"):
        objective_for(nn.Linear(3, 4), (3,), "hinge")


def test_a_parameter_that_is_used_twice_is_left_to_autograd_and_right() -> None:
    shared = nn.Linear(3, 3)
    problem = Problem(lambda: nn.Sequential(shared, nn.ReLU(), shared), (3,), 3, fast=False)
    module, batch, inner = problem.module(), problem.batch(), InnerLoop(0.2, 2)
    objective = objective_for(module, problem.sample_shape, problem.loss)
    assert isinstance(objective, AutogradObjective)
    theta = flatten(module)
    result = meta_gradient(Engine(objective, 2), theta, batch, inner)
    assert distance(result.gradient, plain_loop(deepcopy(module), problem.loss, batch, inner)[0]) < 1e-10
    assert torch.equal(flatten(module), theta)


ALTERATIONS = {
    "forward hook": lambda layer: layer.register_forward_hook(lambda *_: None),
    "forward hook that is always called": lambda layer: layer.register_forward_hook(lambda *_: None, always_call=True),
    "forward pre-hook": lambda layer: layer.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda layer: layer.register_full_backward_hook(lambda *_: None),
    "backward pre-hook": lambda layer: layer.register_full_backward_pre_hook(lambda *_: None),
    "forward of its own": lambda layer: setattr(layer, "forward", lambda x: x),
    "frozen parameter": lambda layer: layer.bias.requires_grad_(False),
    "parametrization": lambda layer: nn.utils.parametrizations.weight_norm(layer),
}


@pytest.mark.parametrize("alter", ALTERATIONS.values(), ids=ALTERATIONS)
def test_a_chain_with_an_altered_layer_is_left_to_autograd(alter: Callable[[nn.Module], object]) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    alter(module[0])
    assert isinstance(objective_for(module, (3,), "cross_entropy"), AutogradObjective)


def test_a_hook_on_all_modules_leaves_every_chain_to_autograd() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert isinstance(objective_for(nn.Linear(3, 3), (3,), "cross_entropy"), AutogradObjective)
    finally:
        handle.remove()


def test_a_norm_in_evaluation_mode_keeps_its_statistics() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
    module[1].running_mean.fill_(3.0)
    module[1].eval()
    objective, x = objective_for(module, (3,), "cross_entropy"), torch.randn(1, 5, 3, dtype=torch.float64)
    _, outputs = objective.value(objective.unflatten(flatten(module), 1), x, torch.zeros(1, 5, dtype=torch.int64))
    torch.testing.assert_close(outputs[0], module(x[0]))


@pytest.mark.parametrize("axes", [(5,), (2, 3), (2, 3, 4), (2, 3, 2, 2)], ids=len)
def test_samples_of_any_axes_are_flattened_as_the_module_does_it(axes: tuple[int, ...]) -> None:
    module = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(math.prod(axes), 3)).double()
    objective, x = objective_for(module, axes, "cross_entropy"), torch.randn(1, 4, *axes, dtype=torch.float64)
    assert isinstance(objective, LayerwiseObjective)
    _, outputs = objective.value(objective.unflatten(flatten(module), 1), x, torch.zeros(1, 4, dtype=torch.int64))
    torch.testing.assert_close(outputs[0], module(x[0]))


def test_the_order_of_theta_may_be_another_than_the_modules() -> None:
    """As where a module keeps its parts in a set: the layout of rank 0, or of the file, says which number is which."""
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    own = Layout.of(module)
    turned = Layout(own.names[::-1], own.shapes[::-1])
    x, y = torch.randn(1, 5, 3, dtype=torch.float64), torch.tensor([[0, 1, 0, 1, 1]])
    batch = TaskBatch(Samples(x, y), Samples(x, y))
    for layerwise in (True, False):
        gradients = []
        for layout in (own, turned):
            objective = objective_for(module, (3,), "cross_entropy", layout, layerwise)
            found = meta_gradient(Engine(objective, 1), layout.flatten(module), batch, InnerLoop(0.3, 2)).gradient
            gradients.append(layout.views(found))
        for name, value in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], value)


@every_problem
def test_entering_and_leaving_an_objective_gives_theta_back(problem: Problem) -> None:
    module = problem.module()
    objective, theta = objective_for(module, problem.sample_shape, problem.loss), flatten(module)
    assert torch.equal(objective.flatten(objective.unflatten(theta, 3)), theta.expand(3, -1))


@every_problem
def test_the_fast_objective_is_the_general_one(problem: Problem) -> None:
    module, batch = problem.module(), problem.batch().to(torch.device("cpu"), torch.float64)
    fast = objective_for(module, problem.sample_shape, problem.loss)
    general = AutogradObjective(module, Layout.of(module), fast.loss)
    theta = flatten(module)
    at_fast, at_general = (each.gradient(each.unflatten(theta, 3), *batch.support_set) for each in (fast, general))
    for value, expected in zip(at_fast[:2], at_general[:2], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
    direction = torch.randn_like(theta)
    products = (
        each.flatten(each.hessian_vector(at.record, each.unflatten(direction, 3)))
        for each, at in ((fast, at_fast), (general, at_general))
    )
    assert distance(*products) < 1e-10
    assert distance(fast.flatten(at_fast.value), general.flatten(at_general.value)) < 1e-10


def test_the_chunk_follows_from_model_and_task_sizes_alone() -> None:
    problem, cpu = PROBLEMS["conv4_stride"], torch.device("cpu")
    objective = objective_for(problem.module(), problem.sample_shape, problem.loss)
    assert isinstance(objective, LayerwiseObjective)
    small, large = default_chunk(objective, 10, cpu), default_chunk(objective, 10**9, cpu)
    assert small > large == 1


def test_an_empty_batch_is_refused() -> None:
    problem = PROBLEMS["mlp"]
    module, batch = problem.module(), problem.batch().part(slice(0, 0))
    objective = objective_for(module, problem.sample_shape, problem.loss)
    with pytest.raises(ValueError, match="without tasks"):
        meta_gradient(Engine(objective, 4), flatten(module), batch, InnerLoop(0.1, 1))
