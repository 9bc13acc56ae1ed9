"""Try a module on one small task before training, to find what the engine cannot differentiate.

In double precision, so that rounding cannot hide a fault: two forwards must agree; the layers' own formulas must agree with
autograd in value, gradient and Hessian-vector product; and that product must agree with a finite difference of the gradient.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hpc_dmaml.engine.autograd import AutogradObjective, twice_differentiable
from hpc_dmaml.engine.layerwise import LayerwiseObjective
from hpc_dmaml.engine.module import check_apart, copied, first_line
from hpc_dmaml.engine.objective import Objective
from hpc_dmaml.losses import Loss, PolicyGradient, named
from hpc_dmaml.parameters import Layout
from hpc_dmaml.tasks.family import Samples

FEW = 4
"""Number of samples that a trial uses."""
STEPS = (1e-6, 1e-5, 1e-7, 1e-4)
"""Step lengths of the finite difference, relative to |θ|. One that agrees is enough: a ReLU may change sign within a step."""
STEPS_SINGLE = (1e-3, 1e-2, 1e-4)
"""The same for a module that runs only in single precision."""
BESIDE = (3e-3, -2e-3, 5e-3)
"""Points at which the second derivative is tried, as distances from θ relative to |θ|: with biases of 0, θ itself is at a
ReLU's kink for a sample that is 0. One that agrees is enough: another may have a kink within every step length."""


class Trial(NamedTuple):
    layerwise: bool
    """Whether the layers' own formulas agree with the module; if not, use autograd."""
    warnings: list[str]


def try_out(
    module: nn.Module, layout: Layout, support: Samples, outputs: int, loss: Loss | str, second_order: bool
) -> Trial:
    """Try a module on the support set of one task, (1, n, ...) tensors, without changing the module.

    Raises ValueError, saying what to do, if the module's outputs are random, change from call to call, have another shape
    than (n, outputs) or cannot be differentiated as often as needed, or if the loss cannot take them.
    """
    name, loss = type(module).__name__, named(loss)
    x, y = (torch.nan_to_num(each) if each.is_floating_point() else each for each in support)  # the module is tried
    z = _outputs(module, x[0], name, outputs)
    own = next(p.dtype for p in module.parameters() if p.requires_grad)
    if z.dtype != own:
        raise ValueError(f"model: {name} gives {z.dtype} where its parameters are {own}; convert no numbers in it")
    probe, x, y = _small(module, x, y, outputs)
    z = _outputs(probe, x[0], name, outputs)
    _check_loss(loss, z[None], y)
    if isinstance(loss, PolicyGradient):
        rng = torch.Generator().manual_seed(0)
        _check_policy(probe, torch.randn(x[0].shape, generator=rng, dtype=x.dtype).to(x.device), name)
    single = z.dtype != torch.float64
    tolerance = 1e-3 if single else 1e-8
    _check_constancy(probe, x[0], z, name, tolerance)
    warnings = []
    if any(part.training for part in probe.modules()):
        in_evaluation = None
        with suppress(Exception):  # a module may fail in any way
            in_evaluation = copied(probe).eval()(x[0])
        if not (
            isinstance(in_evaluation, Tensor) and in_evaluation.shape == z.shape and _close(in_evaluation, z, tolerance)
        ):
            warnings.append(
                f"{name} gives other outputs in evaluation mode than in training mode, in which it is trained and "
                "evaluated here: do not call .eval() on what adapt returns"
            )

    general = AutogradObjective(probe, layout, loss)
    fast = LayerwiseObjective.of(probe, layout, tuple(support.x.shape[2:]), loss)
    theta = layout.flatten(probe)
    rng = torch.Generator().manual_seed(0)
    v = torch.randn(theta.shape, generator=rng, dtype=theta.dtype).to(theta.device)
    v *= theta.norm().clamp(min=1) / v.norm()
    for path, part in probe.named_modules():
        if isinstance(part, nn.Embedding) and part.padding_idx is not None and f"{path}.weight" in layout.names:
            layout.views(v)[f"{path}.weight"][part.padding_idx] = 0  # this row is constant: its gradient is 0

    def derivatives(objective: Objective) -> list[Tensor]:
        at = objective.gradient(objective.unflatten(theta, 1), x, y)
        found = [at.losses, at.outputs, objective.flatten(at.value)]
        if second_order:
            found.append(objective.flatten(objective.hessian_vector(at.record, objective.unflatten(v, 1))))
        return found

    try:
        expected = derivatives(general)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        hint = "; first-order MAML (--algorithm.first_order true) may do without it" if second_order else ""
        raise ValueError(
            f"model: {name} cannot be differentiated as MAML needs it: {first_line(error)}{hint}"
        ) from error
    layerwise = fast is not None and all(
        _close(mine, other, 10 * tolerance) for mine, other in zip(derivatives(fast), expected, strict=True)
    )
    if fast is not None and not layerwise:
        warnings.append(
            f"{name} looks like a chain of known layers, but gives other numbers: it is differentiated by autograd"
        )
    if second_order and not loss.stops_gradients:
        objective = fast if fast is not None and layerwise else general
        _check_second_derivative(objective, theta, v, x, y, name, single)
    return Trial(layerwise, warnings)


def _small(module: nn.Module, x: Tensor, y: Tensor, outputs: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A copy of the module and few samples, in double precision; all samples or the given precision if it needs them."""
    double = [each.double() if each.is_floating_point() else each for each in (x, y)]
    for probe, given in ((copied(module).double(), double), (copied(module), [x, y])):
        for samples in (FEW, len(x[0])):
            few = [each[:, :samples] for each in given]
            with suppress(Exception):  # a module may fail in any way
                if copied(probe)(few[0][0].clone()).shape == (len(few[0][0]), outputs):
                    return probe, few[0], few[1]
    return module, x, y


def _check_loss(loss: Loss, z: Tensor, y: Tensor) -> None:
    """Raise ValueError unless loss and metric each give one number for each task, whatever the other tasks are, and
    leave outputs and targets as they are."""
    name = type(loss).__name__

    def given(what: str, z: Tensor, y: Tensor) -> Tensor:
        told = [z.clone(), y.clone()]
        try:
            found = getattr(loss, what)(*told)
        except Exception as error:  # a user's own loss may fail in any way
            shapes = f"outputs {tuple(z.shape)} and targets {tuple(y.shape)}"
            raise ValueError(f"task: loss {name}.{what} cannot take {shapes}: {first_line(error)}") from error
        if not isinstance(found, Tensor) or found.shape != (len(z),) or found.dtype != z.dtype:
            came = f"shape {tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"task: loss {name}.{what} must give a number for each task, shape ({len(z)},) of {z.dtype}, not {came}"
            )
        if not all(map(torch.equal, told, (z, y))):
            raise ValueError(f"task: loss {name}.{what} changes outputs or targets in place; let it work on a copy")
        return found

    given("measure", z, y)
    alone = torch.cat([given("value", each, y) for each in (z, z + 1)])
    if not _close(given("value", torch.cat([z, z + 1]), torch.cat([y, y])), alone, 1e-3):
        raise ValueError(f"task: loss {name}.value of a task depends on the other tasks that it is given with")


def _check_policy(module: nn.Module, x: Tensor, name: str) -> None:
    """Raise ValueError if the outputs for an observation depend on the others that it is given with: a policy acts on
    those of one time, and its loss is of those of all times."""
    with suppress(Exception):  # as batch norm of one sample does
        alone = torch.cat([copied(module)(each) for each in x[:, None]])
        if _close(alone, copied(module)(x), 1e-3):
            return
    raise ValueError(
        f"model: what {name} gives for an observation depends on the others that it is given with, as by batch norm, so that "
        "its loss would be another policy's than the one that acts: use LayerNorm, or call .eval() on the part"
    )


def _outputs(module: nn.Module, x: Tensor, name: str, outputs: int) -> Tensor:
    """The checked outputs (n, outputs) for all samples (n, ...) of a task."""
    given, samples, called = x.clone(), tuple(x.shape[1:]), copied(module)
    try:
        with torch.enable_grad():
            z = called(given)
    except Exception as error:  # a module may fail in any way
        hint = (
            ""
            if x.is_floating_point()
            else f"; they are {x.dtype}: store numbers that are to be calculated with as float32"
        )
        raise ValueError(f"model: {name} cannot take a task's samples {samples}: {first_line(error)}{hint}") from error
    if not isinstance(z, Tensor) or tuple(z.shape) != (len(x), outputs) or not z.is_floating_point():
        came = f"{tuple(z.shape)} {z.dtype}" if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(f"model: {name} gives {came} for {len(x)} samples where the task needs ({len(x)}, {outputs})")
    if not torch.equal(given, x):
        raise ValueError(f"model: {name} changes its input in place; let it work on a copy (x.clone(), inplace=False)")
    check_apart(module, z)
    if not z.isfinite().all():
        raise ValueError(f"model: the outputs of {name} are not finite at its initial parameters")
    for (path, after), before in zip(called.named_parameters(), module.parameters(), strict=True):
        if not torch.equal(after, before):
            raise ValueError(
                f"model: {name} changes its parameter {path} when it is called, which would change the meta-model behind "
                "the optimizer's back: compute with a changed copy (torch.nn.utils.parametrize)"
            )
    return z.detach()


def _check_constancy(module: nn.Module, x: Tensor, z: Tensor, name: str, tolerance: float) -> None:
    """Raise ValueError if a forward draws random numbers, or if its outputs differ from `z` in another call."""
    watched = copied(module)
    entered: list[tuple[object, ...]] = []
    moved: list[nn.Module] = []

    def leave(part: nn.Module, *_: object) -> None:
        if _random_state(x.device) != entered.pop():
            moved.append(part)

    for part in watched.modules():
        part.register_forward_pre_hook(lambda *_: entered.append(_random_state(x.device)))
        part.register_forward_hook(leave)
    with twice_differentiable():
        with torch.enable_grad():
            again = [watched(x).detach(), watched(x).detach()]
        with torch.no_grad():
            ungraded = watched(x)
    if moved:  # the innermost module is the first
        where = next(path for path, part in watched.named_modules() if part is moved[0])
        layer = f"layer {where} ({type(moved[0]).__name__})" if where else name
        raise ValueError(
            f"model: {layer} is random, which adaptation by gradient descent cannot use; leave it out, or call .eval() on "
            "it where the model is built"
        )
    if not all(_close(other, z, tolerance) for other in again):
        raise ValueError(
            f"model: {name} gives other outputs for the same samples the next time: it keeps a state, or draws from a "
            "random generator of its own; take that out, or call .eval() on the part where the model is built"
        )
    if not _close(ungraded, z, tolerance):
        raise ValueError(
            f"model: {name} gives other outputs where no gradients are needed (torch.no_grad), so that it would be "
            "evaluated as another model than is trained: make it independent of torch.is_grad_enabled()"
        )


def _random_state(device: torch.device) -> tuple[object, ...]:
    """The states of all global random generators, for comparison."""
    on_device = (torch.cuda.get_rng_state(device).numpy().tobytes(),) if device.type == "cuda" else ()
    return (
        torch.get_rng_state().numpy().tobytes(),
        *on_device,
        *(part if isinstance(part, int | float | str) else part.tobytes() for part in np.random.get_state()),  # noqa: NPY002
        random.getstate(),
    )


def _check_second_derivative(
    objective: Objective, theta: Tensor, v: Tensor, x: Tensor, y: Tensor, name: str, single: bool
) -> None:
    """Raise ValueError if the Hessian-vector product disagrees with finite differences of the gradient."""

    def gradient(at: Tensor) -> Tensor:
        return objective.flatten(objective.gradient(objective.unflatten(at, 1), x, y).value)

    least = float("inf")
    for beside in BESIDE:
        at = theta + beside * v
        record = objective.gradient(objective.unflatten(at, 1), x, y).record
        product = objective.flatten(objective.hessian_vector(record, objective.unflatten(v, 1)))
        least_scale = 1e-6 * gradient(at).norm().item()
        for step in STEPS_SINGLE if single else STEPS:
            difference = (gradient(at + step * v) - gradient(at - step * v)) / (2 * step)
            scale = max(product.norm().item(), difference.norm().item(), least_scale, 1e-30)
            least = min(least, (difference - product).norm().item() / scale)
            if least < (0.1 if single else 1e-3):
                return
    raise ValueError(
        f"model: the second derivative of {name} is wrong by {least:.0%} against a finite difference: a part of it can be "
        "differentiated only once (such as a torch.autograd.Function of your own whose backward "
        "is not made of differentiable operations) or stops gradients (detach, no_grad). Write that part differently, freeze "
        "its parameters (requires_grad_(False)), or use first-order MAML: --algorithm.first_order true"
    )


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return (one - other).norm().item() <= tolerance * max(1e-30, other.norm().item())
