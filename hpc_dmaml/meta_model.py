"""Parameters and the optimizer that steps them: the meta-model φ of the outer loop, and a worker's own copy of it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpc_dmaml.importing import described
from hpc_dmaml.optimizers import Optimizer

State = dict[str, np.ndarray]

IN_GROUP = "group_"
"""How the names of an optimizer's numbers begin that it does not keep for the parameter, but for its group."""


class MetaModel:
    """φ (P,) and the optimizer that steps it."""

    def __init__(self, theta: Tensor, optimizer: Optimizer) -> None:
        self._theta = torch.nn.Parameter(theta.clone())
        self._configured = optimizer
        self._optimizer = optimizer.build(self._theta)
        self._lr, self._stepped = optimizer.lr, False

    @property
    def theta(self) -> Tensor:
        """φ (P,); changes in place."""
        return self._theta.detach()

    def step(self, update: Tensor, factor: float = 1.0) -> None:
        """One step of the optimizer along `update` (P,), taken as the gradient; its lr times `factor`."""
        self._theta.grad = update
        for group in self._optimizer.param_groups:
            group["lr"] = factor * self._lr
        self._optimizer.step()
        self._stepped = True

    def set_theta(self, theta: np.ndarray) -> None:
        self.theta.copy_(torch.from_numpy(theta))

    def copied(self) -> tuple[Tensor, dict[str, Any], bool]:
        """φ and the optimizer's state, for `restore`."""
        return (
            self.theta.clone(),
            {n: v.clone() if isinstance(v, Tensor) else v for n, v in self._held.items()},
            self._stepped,
        )

    def restore(self, kept: tuple[Tensor, dict[str, Any], bool]) -> None:
        """Undo all steps since `copied`."""
        theta, self._held, self._stepped = kept
        self.theta.copy_(theta)

    @property
    def _held(self) -> dict[str, Any]:
        """The optimizer's state: what it holds for the parameter, and, with `IN_GROUP`, what changes in its group."""
        group = self._optimizer.param_groups[0]
        counts = {IN_GROUP + name: group[name] for name in self._counted if name in group}
        return {**self._optimizer.state.get(self._theta, {}), **counts}

    @_held.setter
    def _held(self, held: dict[str, Any]) -> None:
        group = self._optimizer.param_groups[0]
        for name in self._counted:
            group.pop(name, None)
        group.update({name.removeprefix(IN_GROUP): v for name, v in held.items() if name.startswith(IN_GROUP)})
        self._optimizer.state[self._theta] = {n: v for n, v in held.items() if not n.startswith(IN_GROUP)}

    @cached_property
    def _counted(self) -> list[str]:
        """Names of the numbers that a step changes in the parameter's group, where some optimizers count their steps."""
        theta = torch.nn.Parameter(torch.ones(3))
        optimizer = self._configured.build(theta)
        before, theta.grad = dict(optimizer.param_groups[0]), torch.ones(3)
        optimizer.step()
        after = optimizer.param_groups[0].items()
        numbers = {n: v for n, v in after if isinstance(v, int | float) or (isinstance(v, Tensor) and v.numel() == 1)}
        return [n for n, v in numbers.items() if n != "lr" and not (n in before and before[n] == v)]

    def optimizer_state(self) -> State:
        """The optimizer's state as plain arrays; empty before the first step."""
        held = self._held if self._stepped else {}
        return {name: torch.as_tensor(value).cpu().numpy().copy() for name, value in held.items()}

    @cached_property
    def example(self) -> MetaModel:
        """Another MetaModel of this kind, after its first step."""
        example = MetaModel(torch.ones_like(self.theta), self._configured)
        example.step(torch.ones_like(self.theta))
        return example

    def load_optimizer_state(self, state: State, stepped: bool) -> None:
        """Restore an `optimizer_state`; `stepped`: one after a step. Raises ValueError for another optimizer's."""
        wanted = types_of((self.example if stepped else MetaModel(self.theta, self._configured)).optimizer_state())
        held = types_of(state)
        if held != wanted:
            raise ValueError(f"checkpoint/optimizer is not the state of {self._configured}: {held}, not {wanted}")
        self.set_optimizer_state(state)

    def set_optimizer_state(self, state: State) -> None:
        """Restore what `optimizer_state` gave."""
        self._optimizer, self._stepped = self._configured.build(self._theta), bool(state)
        like, held = self.example._held if state else {}, {}
        for name, value in state.items():  # load_state_dict would give scalars the precision of θ
            tensor, known = torch.from_numpy(np.array(value)), like[name]
            held[name] = tensor.to(known.device) if isinstance(known, Tensor) else type(known)(tensor.item())
        if state:
            self._held = held


def types_of(state: State) -> dict[str, str]:
    """Data types and shapes of a state's arrays."""
    return {name: f"{value.dtype}{list(value.shape)}" for name, value in sorted(state.items())}


def check(optimizer: Optimizer, name: str = "optimizer", scheduled: bool = False) -> None:
    """Raise ValueError, naming the field, unless the optimizer can step a flat vector without a closure, and goes on in
    the same way from what a file holds of it; and, if it is `scheduled`, unless its next step depends on its lr."""
    gradients = [torch.tensor([1.0, -2.0, 0.5]) / number for number in (1, 2, 3)]

    def after(*factors: float) -> MetaModel:
        model = MetaModel(torch.ones(3), optimizer)
        for gradient, factor in zip(gradients, factors, strict=False):
            model.step(gradient, factor)
        return model

    try:
        whole = after(1, 1, 1)
    except Exception as error:  # a user's own optimizer may fail in any way
        raise ValueError(f"{name}: {optimizer} cannot step a flat vector: {described(error)}") from error
    try:
        half = after(1, 1)
        resumed = MetaModel(half.theta, optimizer)
        resumed.load_optimizer_state(half.optimizer_state(), stepped=True)
        resumed.step(gradients[2])
    except Exception as error:
        raise ValueError(f"{name}: a file cannot hold the state of {optimizer}: {described(error)}") from error
    if not torch.equal(whole.theta, resumed.theta):
        raise ValueError(
            f"{name}: {optimizer} would not go on in the same way after a resume: what it keeps from step to step must be "
            "in its state for the parameter, or be numbers in its param_groups; and it must draw no random numbers"
        )
    if scheduled and torch.equal(after(1, 1).theta, after(1, 0).theta):
        raise ValueError(
            f"schedule: it has no effect on {optimizer}, which reads its lr but once, or one run late: leave schedule out"
        )
