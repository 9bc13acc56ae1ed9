"""Which models are taken, and what is said about those that are not."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from hpc_dmaml.engine import InnerLoop, default_chunk, meta_gradient, objective_for
from hpc_dmaml.engine.autograd import AutogradObjective
from hpc_dmaml.engine.layerwise import LayerwiseObjective
from hpc_dmaml.parameters import flatten
from tests.engine.reference import PROBLEMS, Problem, distance, plain_loop

every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.Dropout2d(0.1), nn.AlphaDropout(), nn.RReLU()], ids=str)
def test_a_random_layer_is_refused_by_name(layer: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), layer), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=rf"model: layer 1\.1 \({type(layer).__name__}\) is random"):
        objective_for(module, (3,), "cross_entropy")


def test_dropout_inside_a_recurrent_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="LSTM"):
        objective_for(nn.LSTM(3, 4, num_layers=2, dropout=0.5), (5, 3), "cross_entropy")


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameters"):
        objective_for(nn.Sequential(nn.Flatten(), nn.ReLU()), (3,), "cross_entropy")


def test_a_parameter_that_is_used_twice_is_left_to_autograd_and_right() -> None:
    shared = nn.Linear(3, 3)
    problem = Problem(lambda: nn.Sequential(shared, nn.ReLU(), shared), (3,), 3, fast=False)
    module, batch, inner = problem.module(), problem.batch(), InnerLoop(0.2, 2)
    objective = objective_for(module, problem.sample_shape, problem.loss)
    assert isinstance(objective, AutogradObjective)
    theta = flatten(module)
    result = meta_gradient(objective, theta, batch, inner, 2)
    assert distance(result.gradient, plain_loop(deepcopy(module), problem.loss, batch, inner)[0]) < 1e-10
    assert torch.equal(flatten(module), theta)


def test_a_module_with_hooks_is_left_to_autograd() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    module[0].register_forward_hook(lambda *_: None)
    assert isinstance(objective_for(module, (3,), "cross_entropy"), AutogradObjective)


@every_problem
def test_entering_and_leaving_an_objective_gives_theta_back(problem: Problem) -> None:
    module = problem.module()
    objective, theta = objective_for(module, problem.sample_shape, problem.loss), flatten(module)
    assert torch.equal(objective.flat(objective.enter(theta, 3)), theta.expand(3, -1))


@every_problem
def test_the_fast_objective_is_the_general_one(problem: Problem) -> None:
    module, batch = problem.module(), problem.batch().to(torch.device("cpu"), torch.float64)
    fast = objective_for(module, problem.sample_shape, problem.loss)
    general = AutogradObjective(module, fast.loss)
    theta = flatten(module)
    at_fast, at_general = (each.gradient(each.enter(theta, 3), *batch.support) for each in (fast, general))
    for value, expected in zip(at_fast[:2], at_general[:2], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
    direction = torch.randn_like(theta)
    products = (
        each.flat(each.hessian_vector(at.record, each.enter(direction, 3)))
        for each, at in ((fast, at_fast), (general, at_general))
    )
    assert distance(*products) < 1e-10
    assert distance(fast.flat(at_fast.value), general.flat(at_general.value)) < 1e-10


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
        meta_gradient(objective, flatten(module), batch, InnerLoop(0.1, 1), 4)
