"""SGD and Adam step by torch.optim's functions, and are its classes to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hpc_dmaml.meta_model import MetaModel
from hpc_dmaml.optimizers import SGD, Adam, Optimizer, TorchOptimizer, check

PAIRS: dict[str, tuple[Optimizer, Any]] = {
    "SGD": (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "decay": (SGD(0.1, weight_decay=0.01), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01)),
    "momentum": (SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, 0.9)),
    "Nesterov": (SGD(0.1, 0.8, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, 0.8, nesterov=True)),
    "Adam": (Adam(0.1), lambda p: torch.optim.Adam(p, 0.1)),
    "Adam's arguments": (
        Adam(0.1, (0.5, 0.9), 1e-3, 0.1),
        lambda p: torch.optim.Adam(p, 0.1, (0.5, 0.9), 1e-3, 0.1),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("configured", "build"), PAIRS.values(), ids=PAIRS)
def test_they_go_where_the_classes_go_also_from_a_state_that_a_class_left(
    configured: Optimizer, build: Any, dtype: torch.dtype
) -> None:
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(33, generator=rng, dtype=dtype)
    theirs, ours = torch.nn.Parameter(start.clone()), MetaModel(start, configured)
    built = build([theirs])
    for number in range(12):
        if number == 6:
            ours = MetaModel(theirs.detach(), configured)
            ours.load_optimizer_state(
                {name: value.numpy().copy() for name, value in built.state[theirs].items()}, stepped=True
            )
        gradient, factor = torch.randn(33, generator=rng, dtype=dtype), 1 / (1 + number)
        theirs.grad = gradient.clone()
        built.param_groups[0]["lr"] = factor * 0.1
        built.step()
        ours.step(gradient, factor)
        assert torch.equal(ours.theta, theirs)
    held = ours.optimizer_state()
    assert list(held) == list(built.state[theirs])
    for name, value in built.state[theirs].items():
        assert held[name].dtype == value.numpy().dtype
        np.testing.assert_array_equal(held[name], value.numpy())


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (SGD(momentum=-1.0), "momentum must be 0 or more, not -1.0"),
        (SGD(weight_decay=-1.0), "weight_decay must be 0 or more"),
        (SGD(nesterov=True), "momentum must be positive for nesterov, not 0.0"),
        (Adam(betas=(0.9, 1.0)), "betas must be 0 or more and below 1"),
        (Adam(betas=(-0.1, 0.9)), "betas must be 0 or more and below 1"),
        (Adam(eps=-1.0), "eps must be 0 or more"),
        (Adam(weight_decay=float("nan")), "weight_decay must be 0 or more, not nan"),
        (Adam(eps=float("inf")), "eps must be 0 or more, not inf"),
        (SGD(momentum=float("inf")), "momentum must be 0 or more, not inf"),
        (
            TorchOptimizer("Adam", arguments={"betas": [0.9]}),
            "optimizer.arguments do not fit torch.optim.Adam: IndexError",
        ),
        (TorchOptimizer("Rprop", arguments={"etas": [0.5]}), "optimizer.arguments do not fit torch.optim.Rprop"),
        (TorchOptimizer("Adam", arguments={"capturable": True}), "cannot step a flat vector"),
    ],
)
def test_arguments_that_torch_would_refuse_are_refused_by_name(optimizer: Optimizer, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(optimizer)
