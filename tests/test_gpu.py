"""On a GPU the numbers are those of the CPU, up to rounding. Skipped without one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpc_dmaml.models import Conv4, Module
from tests.helpers import run, small_config
from tests.tasks.test_sampling import numbered_sampler

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.mark.parametrize("exchange", ["gather", "allreduce"])
@pytest.mark.parametrize("model", [None, Module("tests.helpers.Residual")], ids=["layerwise", "autograd"])
def test_a_job_on_a_gpu_is_the_job_on_the_cpu(tmp_path, exchange, model):
    changes = {} if model is None else {"model": model}
    jobs = [
        run(small_config(device=device, exchange=exchange, **changes), tmp_path, name=f"{device}.h5")
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(*(job["meta_model/parameters"] for job in jobs), rtol=1e-9)
    assert jobs[1]["ranks/device"][0].startswith("cuda")


@pytest.mark.parametrize("halving", ["stride", "max_pool"])
def test_convolutions_give_the_same_meta_gradient(halving):
    from hpc_dmaml.engine import Engine, InnerLoop, meta_gradient, objective_for
    from hpc_dmaml.parameters import flatten
    from hpc_dmaml.randomness import Purpose, generator

    module = Conv4(filters=4, halving=halving, blocks=1).build((1, 2, 2), 3).double()
    batch = numbered_sampler(ways=3).sample("train", generator(0, Purpose.TRAINING), 4)
    gradients = []
    for device in ("cpu", "cuda"):
        objective = objective_for(module.to(device), (1, 2, 2), "cross_entropy")
        result = meta_gradient(Engine(objective, 2), flatten(module), batch, InnerLoop(0.4, 2))
        gradients.append(result.gradient.cpu().numpy())
    np.testing.assert_allclose(*gradients, rtol=1e-8, atol=1e-12)


def test_the_gpu_of_a_rank_is_that_of_its_place_on_the_node():
    from hpc_dmaml.communicator import Communicator
    from hpc_dmaml.setup import choose_device

    node = Communicator()
    node.rank = torch.cuda.device_count() + 1
    assert choose_device("auto", node).index == 1 % torch.cuda.device_count()


@pytest.mark.parametrize("name", ["conv4_max_pool", "not_a_chain"])
def test_a_loop_of_ones_own_gets_the_gradients_of_the_cpu_where_its_parameters_are(name):
    from hpc_dmaml import InnerLoop, meta_gradient
    from tests.engine.reference import PROBLEMS

    problem = PROBLEMS[name]
    batch, found = problem.batch(), {}
    for device in ("cpu", "cuda"):
        module = problem.module().to(device)
        found[device] = meta_gradient(module, problem.loss, batch.support_set, batch.query_set, InnerLoop(0.2, 2))
        found[device].accumulate(module)
        assert all(p.grad.device == p.device for p in module.parameters())
    for parameter, gradient in found["cpu"].gradients.items():
        np.testing.assert_allclose(found["cuda"].gradients[parameter].cpu(), gradient, rtol=1e-8, atol=1e-12)
