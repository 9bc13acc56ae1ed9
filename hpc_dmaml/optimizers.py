"""The outer optimizer: one of torch.optim, for the flat vector θ (P,)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from hpc_dmaml.importing import described
from hpc_dmaml.requirements import count, not_negative, positive, require

if TYPE_CHECKING:
    import torch


class Stepping(Protocol):
    """The interface used of an optimizer: its learning rate, its state by name, and a step along θ.grad."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    @property
    def state(self) -> MutableMapping["torch.Tensor", Any]: ...

    def step(self) -> Any: ...


class Functional:
    """An optimizer that calls a function of torch.optim: importing the class would take seconds on each rank."""

    def __init__(
        self,
        theta: "torch.Tensor",
        lr: float,
        function: Callable[["torch.Tensor", "torch.Tensor", dict[str, "torch.Tensor"], float], None],
    ) -> None:
        """`function(theta, gradient, state, lr)` steps θ in place; the state is empty before the first step."""
        self.param_groups = [{"lr": lr}]
        self.state: dict[torch.Tensor, dict[str, torch.Tensor]] = {theta: {}}
        self._theta, self._function = theta, function

    def step(self) -> None:
        import torch

        assert self._theta.grad is not None
        with torch.no_grad():
            self._function(self._theta, self._theta.grad, self.state[self._theta], self.param_groups[0]["lr"])


class Optimizer(ABC):
    """Base class of the configurable optimizers: a frozen dataclass with torch.optim's own arguments."""

    @property
    @abstractmethod
    def lr(self) -> float:
        """Outer learning rate (the paper's β)."""

    @abstractmethod
    def build(self, theta: "torch.nn.Parameter") -> Stepping:
        """Make an optimizer of θ (P,), such as one of torch.optim. Raises ValueError for invalid arguments."""


@dataclass(frozen=True)
class SGD(Optimizer):
    """torch.optim.SGD."""

    lr: float = 0.01
    """Outer learning rate (the paper's β)."""
    momentum: float = 0.0
    """Momentum."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: float = 0.0
    """L2 penalty."""

    def build(self, theta: "torch.nn.Parameter") -> Stepping:
        for name in ("momentum", "weight_decay"):
            not_negative(name, getattr(self, name))
        require(self.momentum > 0 or not self.nesterov, "momentum", self.momentum, "positive for nesterov")
        return Functional(theta, self.lr, self._step)

    def _step(
        self, theta: "torch.Tensor", gradient: "torch.Tensor", state: dict[str, "torch.Tensor"], lr: float
    ) -> None:
        from torch.optim.sgd import sgd

        buffers = [state.get("momentum_buffer")]
        sgd(
            [theta], [gradient], buffers, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay,
            nesterov=self.nesterov, dampening=0, maximize=False,
        )  # fmt: skip
        if buffers[0] is not None:
            state["momentum_buffer"] = buffers[0]


@dataclass(frozen=True)
class Adam(Optimizer):
    """torch.optim.Adam."""

    lr: float = 1e-3
    """Outer learning rate (the paper's β)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the two moments."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 0.0
    """L2 penalty."""

    def build(self, theta: "torch.nn.Parameter") -> Stepping:
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "0 or more and below 1")
        for name in ("eps", "weight_decay"):
            not_negative(name, getattr(self, name))
        return Functional(theta, self.lr, self._step)

    def _step(
        self, theta: "torch.Tensor", gradient: "torch.Tensor", state: dict[str, "torch.Tensor"], lr: float
    ) -> None:
        import torch
        from torch.optim.adam import adam

        if not state:
            state["step"] = torch.tensor(0.0, device="cpu")
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(theta), torch.zeros_like(theta)
        adam(
            [theta], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
            lr=lr, beta1=self.betas[0], beta2=self.betas[1], eps=self.eps, weight_decay=self.weight_decay,
            amsgrad=False, maximize=False,
        )  # fmt: skip


@dataclass(frozen=True)
class TorchOptimizer(Optimizer):
    """Any other optimizer of torch.optim that works on one flat vector without a closure."""

    name: str = "RMSprop"
    """Name in torch.optim."""
    lr: float = 1e-3
    """Outer learning rate (the paper's β)."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Other keyword arguments."""

    def build(self, theta: "torch.nn.Parameter") -> Stepping:
        import torch

        if "lr" in self.arguments:
            raise ValueError(f"arguments must leave out lr, which is a field of its own, not {self.arguments['lr']}")
        kind = getattr(torch.optim, self.name, None)
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
            raise ValueError(f"optimizer.name: torch.optim has no optimizer {self.name!r}")
        try:
            return kind([theta], **{**self.arguments, "lr": self.lr})
        except Exception as error:  # some use their arguments without checking them
            raise ValueError(f"optimizer.arguments do not fit torch.optim.{self.name}: {described(error)}") from error


@dataclass(frozen=True)
class TRPO(Optimizer):
    """Trust-region policy optimisation, as a worker's own optimizer in reinforcement learning (Schulman et al., 2015)."""

    divergence: float = 0.01
    """The trust region: largest mean KL divergence of the adapted policies from those before the step."""
    iterations: int = 10
    """Largest number of conjugate-gradient iterations."""
    damping: float = 1e-5
    """Multiple of the identity added to the divergence's Hessian."""
    backtracks: int = 15
    """Number of step lengths tried in the line search."""
    shrink: float = 0.8
    """Ratio of each step length in the line search to the one before."""

    def __post_init__(self) -> None:
        for name in ("divergence", "damping"):
            positive(f"local_optimizer.{name}", getattr(self, name))
        for name in ("iterations", "backtracks"):
            count(f"local_optimizer.{name}", getattr(self, name))
        require(0 < self.shrink < 1, "local_optimizer.shrink", self.shrink, "between 0 and 1")

    @property
    def lr(self) -> float:
        return 1.0

    def build(self, theta: "torch.nn.Parameter") -> Stepping:
        raise ValueError("TRPO needs tasks, not a gradient alone: it is a worker's, --local_optimizer TRPO")
