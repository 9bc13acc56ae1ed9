"""The engine for users' own training loops: the exact meta-gradient of any module, by parameter names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from hpc_dmaml import engine
from hpc_dmaml.engine import Engine, InnerLoop, Objective, Rates, default_chunk, objective_for
from hpc_dmaml.engine.meta_gradient import Keep
from hpc_dmaml.engine.module import check, check_apart, depends_on, first_line
from hpc_dmaml.importing import did_you_mean, saying
from hpc_dmaml.losses import LOSSES, Loss
from hpc_dmaml.parameters import Layout
from hpc_dmaml.requirements import require
from hpc_dmaml.tasks import Samples, TaskBatch, border

LossOfTask = Callable[[Tensor, Tensor], Tensor]
"""A function from outputs (n, …) and targets (n, …) of one task to its loss, a single number."""


class NamedGradients(NamedTuple):
    """The meta-gradient of B tasks by parameter name, and the tasks' losses and metrics."""

    gradients: dict[str, Tensor]
    """The gradient of the query loss, averaged over the tasks, with respect to each parameter before adaptation."""
    losses: Tensor
    """Query loss of each task after adaptation, (B,)."""
    metric: Tensor
    """The loss's metric for each task, (B,): the accuracy with "cross_entropy"; NaN if the loss has none."""
    rates: dict[str, Tensor]
    """The same gradient with respect to the inner learning rates, if `inner.lr` has learned ones."""
    derivatives: str
    """How the model was differentiated: "layerwise", by its layers' own formulas, or "autograd"."""

    @torch.no_grad()
    def accumulate(self, module: nn.Module) -> None:
        """Add the gradients to `.grad` of the module's parameters, as `backward()` does, for an optimizer to step.

        Raises ValueError if the gradients are those of another module.
        """
        named = dict(module.named_parameters())
        for name, gradient in self.gradients.items():
            if name not in named or named[name].shape != gradient.shape:
                raise ValueError(
                    f"module has no parameter {name} {tuple(gradient.shape)}: these gradients are of another"
                )
        for name, gradient in self.gradients.items():
            parameter = named[name]
            if parameter.grad is None:
                parameter.grad = gradient.to(parameter, copy=True)
            else:
                parameter.grad += gradient.to(parameter)


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
    """The exact gradient of the mean query loss after adaptation by the parameters before it (Finn et al., 2017).

    The module is not changed: its parameters and their `.grad`, its buffers, its mode. Frozen parameters
    (`requires_grad` is false) do not adapt and have no gradient. Norms in training mode use the current batch.

    Args:
        module: maps the inputs of one task (n, *sample shape) to outputs (n, …); it keeps its mode.
        loss: "cross_entropy", "squared_error", a `Loss`, or a function of the outputs and targets of one task that
            returns one number, as `torch.nn.functional.huber_loss` does. The two names are the fastest.
        support: the support sets, x (B, n, *sample shape) and y (B, n, …) of B tasks; tensors or arrays. They are
            converted to the parameters' device and dtype, and bytes in x to numbers in [0, 1].
        query: the query sets, x (B, m, *sample shape) and y (B, m, …).
        inner: how a task adapts.
        parameters: values by name, to use instead of the module's own; others are taken from the module.
        keep: what is stored of each inner step: "activations", or "parameters" for less memory and more time, which
            requires a module that draws no random numbers.

    Raises ValueError, naming what came, if the arguments do not fit.
    """
    for what, given, wanted in (("module", module, nn.Module), ("inner", inner, InnerLoop)):
        if not isinstance(given, wanted):
            raise ValueError(f"{what} must be of the class {wanted.__name__}, not {given!r}")
    if torch.is_inference_mode_enabled():
        raise ValueError("meta_gradient needs derivatives, which torch.inference_mode() rules out: leave that block")
    require(keep in get_args(Keep), "keep", repr(keep), " or ".join(get_args(Keep)))
    check(module)
    layout = Layout.of(module)
    theta = _vector(module, layout, parameters or {})
    if torch.is_autocast_enabled(theta.device.type):
        raise ValueError(
            "meta_gradient computes in the parameters' precision: leave torch.autocast, and see module.to()"
        )
    batch = TaskBatch(_samples("support", support), _samples("query", query))
    sample_shape, loss = tuple(batch.support_set.x.shape[2:]), _loss(loss)
    objective = objective_for(module, sample_shape, loss, layout)
    first = batch.part(slice(1)).to(theta.device, theta.dtype).support_set
    z = _outputs(objective, module, theta, first.x)
    for what, samples in (("support", batch.support_set), ("query", batch.query_set)):
        border.check(samples, _Form(sample_shape, z.shape[-1], loss), what, len(batch))
    _try_loss(module, loss, z, first.y)
    if isinstance(inner.lr, Rates):
        inner = replace(inner, lr=_own_rates(inner.lr, layout).to(theta))
    of_task = batch.support_set.x.shape[1] + batch.query_set.x.shape[1]
    chunk = default_chunk(objective, of_task, theta.device)
    try:
        found = engine.meta_gradient(Engine(objective, chunk, keep), theta, batch, inner)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # NotImplementedError, too
        hint = "" if inner.first_order else "; first_order=True may do without it"
        raise ValueError(
            f"model: {type(module).__name__} with this loss cannot be differentiated as MAML needs it: "
            f"{first_line(error)}{hint}"
        ) from error
    rates = {}
    if isinstance(inner.lr, Rates) and found.rates is not None:
        rates = inner.lr.layout.views(found.rates / len(batch))
    gradients = layout.views(found.gradient / len(batch))
    return NamedGradients(gradients, found.losses, found.metric, rates, objective.derivatives)


class _Form(NamedTuple):
    """The expected shapes of the samples, and their loss."""

    sample_shape: tuple[int, ...]
    outputs: int
    loss: Loss


@dataclass(frozen=True)
class _OfTask(Loss):
    """A function of one task's outputs and targets as a `Loss`."""

    function: LossOfTask

    targets = "any"

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        losses = [self.function(*each) for each in zip(z, targets, strict=True)]
        if not isinstance(losses[0], Tensor) or losses[0].dim():
            came = f"shape {tuple(losses[0].shape)}" if isinstance(losses[0], Tensor) else type(losses[0]).__name__
            raise ValueError(
                f"loss must give one number as a tensor, usually the mean over a task's samples, not {came}"
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
    """θ (P,) from the given values, and the module's own for the others."""
    named = dict(module.named_parameters())
    own = {name: named[name] for name in layout.names}
    require(isinstance(given, Mapping), "parameters", type(given).__name__, "a mapping of names to tensors")
    for name, value in given.items():
        if name not in own:
            raise ValueError(
                f"parameters: the model has no trainable parameter {name!r}; there are {', '.join(own)}{did_you_mean(name, own)}"
            )
        right = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
        require(right, f"parameters: {name}", type(value).__name__, "a dense tensor")
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
        if odd := [t for t in (x, y) if t.layout is not torch.strided or t.is_meta or t.is_nested]:
            raise TypeError("a tensor of it " + ("has no values (device meta)" if odd[0].is_meta else "is not dense"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} must be a pair (x, y) of tensors or arrays: {first_line(error)}") from error
    if x.dim() < 2 or not x.numel():
        raise ValueError(f"{what} x must be (tasks, samples, …), at least one of each, not {tuple(x.shape)}")
    return Samples(x, y)


def _own_rates(rates: Rates, layout: Layout) -> Rates:
    """The rates. Raises ValueError unless they are those of a model of this layout."""
    if rates.of != layout:
        of = "others" if rates.of is None else ", ".join(rates.of.names)
        raise ValueError(f"inner.lr: rates of the parameters {of}, where the model has {', '.join(layout.names)}")
    values = rates.values
    right = isinstance(values, Tensor) and tuple(values.shape) == (rates.layout.size,)
    came = f"{type(values).__name__} {tuple(getattr(values, 'shape', ()))}"
    require(right, "inner.lr: values", came, f"({rates.layout.size},)")
    return rates


def _try_loss(module: nn.Module, loss: Loss, z: Tensor, y: Tensor) -> None:
    """Raise ValueError if the loss cannot take the outputs and targets of a task, or depends on the module besides."""
    wrong = f"loss: it cannot take outputs {tuple(z.shape[1:])} and targets {tuple(y.shape[1:])} of a task"
    given = y.detach().clone()
    with saying(wrong), torch.enable_grad():
        value = loss.value(z, given)
    if given._version:
        raise ValueError("loss: it changes the targets in place; let it work on a copy (y.clone())")
    if depends_on(value, module):
        raise ValueError(
            "loss: it uses the module's own parameters, such as for a penalty, and would not follow their adaptation: it "
            "may depend on outputs and targets alone. Add the penalty's gradient to the meta-gradient"
        )


def _outputs(objective: Objective, module: nn.Module, theta: Tensor, x: Tensor) -> Tensor:
    """The outputs for the x of one task. Raises ValueError for wrong shapes."""
    name = type(module).__name__
    try:
        with torch.enable_grad():
            z = objective.outputs(objective.unflatten(theta, 1), x)
    except Exception as error:  # a module may fail in any way
        raise ValueError(
            f"model: {name} gives no outputs for a task's x {tuple(x.shape[1:])}: {first_line(error)}"
        ) from error
    check_apart(module, z)
    if objective.loss.targets != "any" and (z.dim() != 3 or z.shape[1] != x.shape[1]):
        came, wanted = tuple(z.shape[1:]), f"({x.shape[1]}, outputs)"
        raise ValueError(
            f"model: {name} gives {came} for a task's x {tuple(x.shape[1:])} where the loss needs {wanted}"
        )
    return z.detach()
