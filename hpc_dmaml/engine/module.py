"""Prepare and check a module for the engine, which needs a deterministic function of the module's parameters.

`prepare` changes a newly built module to one where that is possible; its errors name the part that prevents it.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.parameter import is_lazy


def prepare(module: nn.Module, sample_shape: tuple[int, ...], empty: bool = False) -> nn.Module:
    """Prepare a module for the engine, in place; each part keeps its mode (training or evaluation).

    Lazy layers get their shapes from one dry run. Norms that would use the current batch in training and running
    statistics in evaluation use the current batch in both, as MAML's evaluation does: statistics over tasks before
    adaptation do not describe a task after it. A norm in evaluation mode keeps its running statistics.

    Raises ValueError if it cannot be used as a model. `empty`: its tensors may be without values (device meta).
    """
    if any(is_lazy(p) for p in (*module.parameters(), *module.buffers())):
        try:
            with torch.no_grad():
                try:
                    module(torch.zeros(2, *sample_shape))
                except Exception:  # such as that of an embedding, which takes whole numbers
                    module(torch.zeros(2, *sample_shape, dtype=torch.int64))
        except Exception as error:  # a module may fail in any way
            raise ValueError(
                f"model: its lazy layers cannot take samples {sample_shape}: {first_line(error.__context__ or error)}"
            ) from error
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.training:
            part.track_running_stats = False
            part.running_mean = part.running_var = part.num_batches_tracked = None
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.layout is torch.strided:  # an expanded one could not be written
                part._buffers[name] = buffer.contiguous()
    check(module, empty)
    copied(module)
    return module


def check(module: nn.Module, empty: bool = False) -> None:
    """Raise ValueError if a module cannot be used as a model. `empty`: its tensors may be without values."""
    for part in module.modules():
        compiled = type(part).__name__ == "OptimizedModule"  # of torch.compile, whose import takes seconds
        if compiled or isinstance(part, torch.jit.ScriptModule | nn.DataParallel):
            raise ValueError(f"model: {type(part).__name__} is not supported; give the module that it wraps")
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.max_norm is not None:
            raise ValueError(
                f"model: {type(part).__name__} with max_norm changes its weights when it is called, which would change the "
                "meta-model: leave max_norm out, and normalise what it gives in forward"
            )
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in named.items():
        if is_lazy(tensor):
            raise ValueError(f"model: {name} has no shape yet; call the module once on some samples")
        if tensor.is_meta and not empty:
            raise ValueError(f"model: {name} has no values (device meta)")
        if tensor.layout is not torch.strided:
            raise ValueError(f"model: {name} is sparse; only dense parameters and buffers are supported")
        if tensor.is_complex():
            raise ValueError(f"model: {name} is complex; only real parameters and buffers are supported")
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise ValueError(f"model: {name} has a gradient hook, which adaptation would not call; remove it")
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError("model: it has no parameters to learn")


def copied(module: nn.Module) -> nn.Module:
    """A deep copy of the module. Raises ValueError if it cannot be copied."""
    try:
        return copy.deepcopy(module)
    except Exception as error:  # any part of it may fail, in any way
        raise ValueError(
            f"model: {type(module).__name__} cannot be copied: {first_line(error)}. It may hold only data and modules: "
            "compute tensors that depend on parameters in forward (not by torch.nn.utils.weight_norm, which computes "
            "them before), and keep locks and open files out of it"
        ) from error


def depends_on(value: torch.Tensor, module: nn.Module) -> bool:
    """Whether a value, computed with gradients, depends on the module's own parameters."""
    if not value.requires_grad:
        return False
    learned = [p for p in module.parameters() if p.requires_grad]
    with torch.enable_grad():
        return any(each is not None for each in torch.autograd.grad(value.sum(), learned, allow_unused=True))


def check_apart(module: nn.Module, z: torch.Tensor) -> None:
    """Raise ValueError if outputs z of a copy of the module, computed with gradients, depend on the original's parameters."""
    if depends_on(z, module):
        raise ValueError(
            f"model: {type(module).__name__} holds a function that refers to its own parts, such as a lambda or a hook: a "
            "copy of the module, with other parameters, would still use these. Make it a method"
        )


def first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
