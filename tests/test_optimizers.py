"""SGD and Adam step by torch.optim's functions, and are its classes to the last bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from hpc_dmaml.meta_model import MetaModel, check
from hpc_dmaml.optimizers import SGD, Adam, Optimizer, TorchOptimizer

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


class Counting(torch.optim.Optimizer):
    """Adam-like, with its steps counted in the group, as in Lamb or Prodigy; what else it does is a subclass's."""

    def __init__(self, theta: torch.nn.Parameter, lr: float) -> None:
        super().__init__([theta], {"lr": lr, "known": 0})

    def scale(self, state: dict[str, Any]) -> float:
        return 1.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        (group,) = self.param_groups
        group["step"], group["known"] = group.get("step", 0) + 1, group["known"] + 1
        (p,) = group["params"]
        state = self.state[p]
        state.setdefault("mean", torch.zeros_like(p)).lerp_(p.grad, 0.1)
        scale = self.scale(state) * group["known"]
        p.sub_(group["lr"] * scale * state["mean"] / (1 - 0.9 ** group["step"]))


class Hiding(Counting):
    """Keeps a number where no file looks for it."""

    hidden = 0

    def scale(self, state: dict[str, Any]) -> float:
        self.hidden += 1
        return float(self.hidden)


class Listing(Counting):
    def scale(self, state: dict[str, Any]) -> float:
        state["all"] = [1, 2]
        return 1.0


@dataclass(frozen=True)
class OfItsOwn(Optimizer):
    kind: type[Counting]
    lr: float = 0.1

    def build(self, theta: torch.nn.Parameter) -> torch.optim.Optimizer:
        return self.kind(theta, self.lr)


def test_what_an_optimizer_counts_in_its_group_is_restored_and_undone() -> None:
    check(OfItsOwn(Counting), scheduled=True)
    model, gradient = MetaModel(torch.ones(3), OfItsOwn(Counting)), torch.tensor([1.0, -2.0, 3.0])
    fresh = model.copied()
    assert model.optimizer_state() == {}
    model.step(gradient)
    first, kept = model.theta.clone(), model.copied()
    assert sorted(model.optimizer_state()) == ["group_known", "group_step", "mean"]
    model.step(gradient)
    second = model.theta.clone()
    model.restore(kept)
    model.step(gradient)
    assert torch.equal(model.theta, second)
    model.restore(fresh)
    assert model.optimizer_state() == {}
    model.step(gradient)
    assert torch.equal(model.theta, first)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (OfItsOwn(Hiding), "Hiding.* would not go on in the same way after a resume"),
        (OfItsOwn(Listing), "a file cannot hold the state of .*Listing"),
    ],
)
def test_an_optimizer_that_a_file_cannot_hold_is_refused(optimizer: Optimizer, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(optimizer)


@pytest.mark.parametrize("name", ["Rprop", "ASGD"])
def test_a_schedule_that_an_optimizer_does_not_follow_is_refused(name: str) -> None:
    check(TorchOptimizer(name))
    with pytest.raises(ValueError, match=f"schedule: it has no effect on TorchOptimizer.*{name}"):
        check(TorchOptimizer(name), scheduled=True)
    check(TorchOptimizer("RMSprop"), scheduled=True)
