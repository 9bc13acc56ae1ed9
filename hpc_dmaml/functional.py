"""The engine in a training loop of one's own: the exact meta-gradient of any module, by the names of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from hpc_dmaml import engine
from hpc_dmaml.engine import Engine, InnerLoop, Objective, Rates, default_chunk, objective_for
from hpc_dmaml.engine.meta_gradient import Keep
from hpc_dmaml.engine.module import check, first_line
from hpc_dmaml.importing import did_you_mean
from hpc_dmaml.losses import LOSSES, Loss
from hpc_dmaml.parameters import Layout
from hpc_dmaml.requirements import require
from hpc_dmaml.tasks import Samples, TaskBatch, border

LossOfTask = Callable[[Tensor, Tensor], Tensor]
"""Outputs (n, …) and targets (n, …) of one task to its loss, a single number."""


class NamedGradients(NamedTuple):
    """The meta-gradient of B tasks by the names of the parameters, and how the tasks did."""

    gradients: dict[str, Tensor]
    """The derivative of the query loss, mean over the tasks, by each parameter before adaptation."""
    losses: Tensor
    """Query loss of each task after adaptation, (B,)."""
    metric: Tensor
    """What the loss measures besides, of each task, (B,): the accuracy with "cross_entropy"; NaN where there is nothing."""
    rates: dict[str, Tensor]
    """The same derivative by the inner rates, where `inner.lr` has some that are learned."""
    derivatives: str
    """How the model was differentiated: "layerwise", by its layers' own formulas, or by "autograd"."""

    def accumulate(self, module: nn.Module) -> None:
        """Add the gradients to `.grad` of the module's parameters, as `backward()` does, for an optimizer to step."""
        for name, gradient in self.gradients.items():
            parameter = module.get_parameter(name)
            if parameter.grad is None:
                parameter.grad = gradient.clone()
            else:
                parameter.grad += gradient


@torch.no_grad()
def meta_gradient(
    module: nn.Module,
    loss: str | Loss | LossOfTask,
    support: tuple[Any, Any],
    query: tuple[Any, Any],
    inner: InnerLoop,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    keep: Keep = "activations",
) -> NamedGradients:
    """The exact gradient of the mean query loss after adaptation, by the parameters before it (Finn et al., 2017).

    The module is left as it is: its parameters and their `.grad`, its buffers, its mode. Frozen parameters (`requires_grad`
    is false) neither adapt nor have a gradient. Norms in training mode use the statistics of the batch that they are given.

    Args:
        module: from the inputs of one task (n, *sample shape) to outputs (n, …), in the mode that it is in.
        loss: "cross_entropy", "squared_error", a `Loss`, or a function of the outputs and targets of one task that gives
            one number, as `torch.nn.functional.huber_loss` does. The two names are the fastest.
        support: x (B, n, *sample shape) and y (B, n, …) of B tasks, to adapt on; tensors or arrays. They are taken to the
            device and precision of the parameters, and bytes in x become numbers in [0, 1].
        query: x (B, m, *sample shape) and y (B, m, …), to be judged on.
        inner: how a task adapts.
        parameters: values by name, to be used instead of the module's own; those that are left out are the module's.
        keep: what is stored of each inner step: "activations", or "parameters", for less memory and more time; the latter
            wants a module that draws no random numbers.

    Raises ValueError, naming what came, where the arguments do not fit.
    """
    for what, given, wanted in (("module", module, nn.Module), ("inner", inner, InnerLoop)):
        if not isinstance(given, wanted):
            raise ValueError(f"{what} must be of the class {wanted.__name__}, not {given!r}")
    require(keep in get_args(Keep), "keep", repr(keep), " or ".join(get_args(Keep)))
    check(module)
    layout = Layout.of(module)
    theta = _vector(module, layout, parameters or {})
    batch = TaskBatch(_samples("support", support), _samples("query", query))
    sample_shape, loss = tuple(batch.support_set.x.shape[2:]), _loss(loss)
    objective = objective_for(module, sample_shape, loss, layout)
    outputs = _outputs(objective, type(module).__name__, theta, batch)
    for what, samples in (("support", batch.support_set), ("query", batch.query_set)):
        border.check(samples, _Form(sample_shape, outputs, loss), what, len(batch))
    if isinstance(inner.lr, Rates):
        if inner.lr.places.shape[1] != layout.size:
            raise ValueError(
                f"inner.lr: rates of {inner.lr.places.shape[1]} parameters, where the model has {layout.size}"
            )
        inner = replace(inner, lr=inner.lr.to(theta))
    of_task = batch.support_set.x.shape[1] + batch.query_set.x.shape[1]
    chunk = default_chunk(objective, of_task, theta.device)
    found = engine.meta_gradient(Engine(objective, chunk, keep), theta, batch, inner)
    rates = {}
    if isinstance(inner.lr, Rates) and found.rates is not None:
        rates = inner.lr.layout.views(found.rates / len(batch))
    gradients = layout.views(found.gradient / len(batch))
    return NamedGradients(gradients, found.losses, found.metric, rates, objective.derivatives)


class _Form(NamedTuple):
    """What the samples are to look like."""

    sample_shape: tuple[int, ...]
    outputs: int
    loss: Loss


@dataclass(frozen=True)
class _OfTask(Loss):
    """A function of one task's outputs and targets, as a loss."""

    function: LossOfTask

    targets = "any"

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        losses = [self.function(*each) for each in zip(z, targets, strict=True)]
        if not isinstance(losses[0], Tensor) or losses[0].dim():
            came = f"shape {tuple(losses[0].shape)}" if isinstance(losses[0], Tensor) else type(losses[0]).__name__
            raise ValueError(
                f"loss must give one number, the mean over a task's samples as a rule, as a tensor, not {came}"
            )
        return torch.stack(losses)


def _loss(loss: str | Loss | LossOfTask) -> Loss:
    if isinstance(loss, Loss):
        return loss
    if callable(loss) and not isinstance(loss, type):
        return _OfTask(loss)
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    names, near = ", ".join(LOSSES), did_you_mean(str(loss), LOSSES)
    raise ValueError(f"loss must be one of {names}, a Loss, or a function of outputs and targets, not {loss!r}{near}")


def _vector(module: nn.Module, layout: Layout, given: Mapping[str, Tensor]) -> Tensor:
    """θ (P,), of the values that are given, and of the module's own."""
    named = dict(module.named_parameters())
    own = {name: named[name] for name in layout.names}
    for name, value in given.items():
        if name not in own:
            raise ValueError(
                f"parameters: the model has no trainable parameter {name!r}; there are {', '.join(own)}{did_you_mean(name, own)}"
            )
        if value.shape != own[name].shape:
            raise ValueError(f"parameters: {name} must be {tuple(own[name].shape)}, not {tuple(value.shape)}")
    values = {name: given.get(name, value).detach() for name, value in own.items()}
    kinds = sorted({f"{value.dtype} on {value.device}" for value in values.values()})
    if len(kinds) > 1:
        raise ValueError(
            f"parameters must be of one precision and on one device, not {' and '.join(kinds)}: see module.to()"
        )
    return layout.join(values)


def _samples(what: str, given: tuple[Any, Any]) -> Samples:
    try:
        if not isinstance(given, tuple | list):  # a tensor of two tasks would pass for a pair
            raise TypeError(f"it is a {type(given).__name__}")
        x, y = map(torch.as_tensor, given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} must be a pair (x, y) of tensors or arrays: {first_line(error)}") from error
    if x.dim() < 2 or not x.numel():
        raise ValueError(f"{what} x must be (tasks, samples, …), one of each at least, not {tuple(x.shape)}")
    return Samples(x, y)


def _outputs(objective: Objective, name: str, theta: Tensor, batch: TaskBatch) -> int:
    """How many outputs a sample has, seen on the first task. Raises ValueError where model and loss do not fit it."""
    x = batch.part(slice(1)).to(theta.device, theta.dtype).support_set.x
    try:
        z = objective.outputs(objective.unflatten(theta, 1), x)
    except Exception as error:  # a module may fail in any way
        raise ValueError(
            f"model: {name} gives no outputs for a task's x {tuple(x.shape[1:])}: {first_line(error)}"
        ) from error
    if objective.loss.targets != "any" and (z.dim() != 3 or z.shape[1] != x.shape[1]):
        came, wanted = tuple(z.shape[1:]), f"({x.shape[1]}, outputs)"
        raise ValueError(
            f"model: {name} gives {came} for a task's x {tuple(x.shape[1:])} where the loss needs {wanted}"
        )
    return z.shape[-1]
