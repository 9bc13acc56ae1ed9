"""Parameters and the optimizer that steps them: the meta-model φ of the outer loop, and a worker's own copy of it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpc_dmaml.optimizers import Optimizer

State = dict[str, np.ndarray]


class MetaModel:
    """φ (P,) and the optimizer that steps it."""

    def __init__(self, theta: Tensor, optimizer: Optimizer) -> None:
        self._theta = torch.nn.Parameter(theta.clone())
        self._configured = optimizer
        self._optimizer = optimizer.build(self._theta)
        self._lr = optimizer.lr

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

    def set_theta(self, theta: np.ndarray) -> None:
        self.theta.copy_(torch.from_numpy(theta))

    def copied(self) -> tuple[Tensor, dict[str, Any]]:
        """φ and the optimizer's state, for `restore`."""
        state = self._optimizer.state.get(self._theta, {})
        return self.theta.clone(), {n: v.clone() if isinstance(v, Tensor) else v for n, v in state.items()}

    def restore(self, kept: tuple[Tensor, dict[str, Any]]) -> None:
        """Undo all steps since `copied`."""
        theta, state = kept
        self.theta.copy_(theta)
        self._optimizer.state[self._theta] = state

    def optimizer_state(self) -> State:
        """The optimizer's state as plain arrays."""
        state = self._optimizer.state.get(self._theta, {})
        return {name: torch.as_tensor(value).cpu().numpy().copy() for name, value in state.items()}

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
        self._optimizer = self._configured.build(self._theta)
        like = self.example._optimizer.state[self.example._theta] if state else {}
        for name, value in state.items():  # load_state_dict would give scalars the precision of θ
            tensor, known = torch.from_numpy(np.array(value)), like[name]
            self._optimizer.state[self._theta][name] = (
                tensor.to(known.device) if isinstance(known, Tensor) else type(known)(tensor.item())
            )


def types_of(state: State) -> dict[str, str]:
    """Data types and shapes of a state's arrays."""
    return {name: f"{value.dtype}{list(value.shape)}" for name, value in sorted(state.items())}
