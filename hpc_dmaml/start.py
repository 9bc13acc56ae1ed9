"""The model that a job starts from: newly built, or from a file; the same on every rank."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch

from hpc_dmaml import results
from hpc_dmaml.algorithms import Algorithm, whole_layout
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig, own_parts
from hpc_dmaml.engine import prepare
from hpc_dmaml.engine.layers import Normalize
from hpc_dmaml.importing import saying
from hpc_dmaml.parameters import Layout, constant_arrays, digest, set_constants
from hpc_dmaml.randomness import Purpose, generator, seeded
from hpc_dmaml.tasks import TaskFamily
from hpc_dmaml.tasks.image_classes import FewShotImages


def build_module(
    config: RunConfig, sample_shape: tuple[int, ...], outputs: int, empty: bool = False
) -> torch.nn.Module:
    """The configured model, initialised by the job's seed and ready for the engine. Raises ValueError.

    `empty`: without memory, only for its shapes.
    """
    seed = int(generator(config.seed, Purpose.INITIALISATION).integers(2**63))
    own = saying(f"model: {type(config.model).__name__} cannot be built")
    with own, seeded(seed), torch.device("meta") if empty else nullcontext():
        module = config.model.build(sample_shape, outputs)
        if is_normalized(config.task):
            module = torch.nn.Sequential(OrderedDict(normalize=Normalize(sample_shape[0]), model=module))
        module = prepare(module, sample_shape, empty)
        if odd := [name for name, _ in module.named_parameters() if ":" in name]:
            raise ValueError(
                f"model: the name of the parameter {odd[0]} has a colon, as in files those have that the algorithm "
                "learns besides the model's: give its module another name"
            )
    return module.to(getattr(torch, config.dtype))


def is_normalized(family: TaskFamily) -> bool:
    """Whether the model begins with the normalisation of images."""
    return isinstance(family, FewShotImages) and family.normalize


def stored_module(
    source: results.Results, config: RunConfig, sample_shape: tuple[int, ...], outputs: int
) -> torch.nn.Module:
    """Build the model of a file's configuration. Raises ValueError unless it fits the file's parameters.

    It is first built without memory, as a file can ask for a model that is larger than the machine; but not if it
    contains the user's own classes, which are trusted, and may not support that.
    """
    if not own_parts(config):
        check_layout(source, config, build_module(config, sample_shape, outputs, empty=True))
    module = build_module(config, sample_shape, outputs)
    check_layout(source, config, module)
    return module


def check_layout(source: results.Results, config: RunConfig, module: torch.nn.Module) -> None:
    """Raise ValueError unless a file's parameters are those that this algorithm learns for this model."""
    layout_of(source).check_same(whole_layout(config.algorithm, Layout.of(module)), str(source.path))


def stored_parameters(
    source: results.Results, parameters: np.ndarray, layout: Layout, otherwise: torch.Tensor, scale: float = 1.0
) -> torch.Tensor:
    """φ (P,) from the `parameters` of a file, in the order of this layout. Raises ValueError for another model's.

    What the algorithm learns besides the model's parameters is taken from `otherwise` (P,) if the file lacks it, and
    learned inner rates are multiplied by `scale`.
    """
    stored = layout_of(source)
    stored.model.check_same(layout.model, str(source.path))
    held, own = stored.views(torch.from_numpy(parameters)), layout.views(otherwise)
    fitting = {name: held[name] for name in own if name in held and held[name].shape == own[name].shape}
    fitting = {name: scale * each if name.startswith("inner_lr:") else each for name, each in fitting.items()}
    return layout.join({**own, **fitting})


def _scale_in(source: results.Results) -> float:
    """The unit of a file's learned inner rates."""
    scale: Any = source.config
    for name in ("algorithm", "init_args", "scale"):
        scale = scale.get(name) if isinstance(scale, dict) else None
    return float(scale) if isinstance(scale, int | float) and 0 < scale < float("inf") else 1.0


def layout_of(source: results.Results) -> Layout:
    """The layout of the parameters in a file."""
    shapes = tuple(tuple(int(n) for n in str(s).split(",") if n) for s in source["meta_model/shapes"])
    return Layout(tuple(map(str, source["meta_model/names"])), shapes)


class Start(NamedTuple):
    module: torch.nn.Module
    layout: Layout
    """Layout of φ; the model's parameters come first."""
    phi: torch.Tensor
    """(P,)"""
    warnings: list[str]


def start(
    config: RunConfig,
    sample_shape: tuple[int, ...],
    outputs: int,
    previous: results.Results | None,
    comm: Communicator,
) -> Start:
    """The model of a job that resumes `previous`, or starts from `init_from` or anew.

    Every rank's model has the parameters and constants of that file, as read by rank 0, or else those of rank 0. Raises
    Refusal where a rank has built another model, or the file holds another one.
    """
    source = previous
    with comm.raising_together():
        if previous is not None:
            module = stored_module(previous, config, sample_shape, outputs)
        else:
            module = build_module(config, sample_shape, outputs)
            if comm.rank == 0 and config.init_from is not None:
                source = results.read(config.init_from)
    layout: Layout = comm.broadcast_object(Layout.of(module) if previous is None else layout_of(previous).model)
    with comm.raising_together():
        layout.check_same(Layout.of(module), "rank 0")
        whole, phi = whole_layout(config.algorithm, layout), beginning(config.algorithm, layout, module)
    own = constant_arrays(module)  # they share its memory
    starts = comm.all_gather_objects([digest(phi.numpy()), *(digest(own[n]) for n in sorted(own))])
    with comm.raising_together():
        if comm.rank == 0 and source is not None:
            scale = _scale_in(source) / getattr(config.algorithm, "scale", 1.0)
            phi = stored_parameters(source, source["meta_model/parameters"], whole, phi, scale).to(phi.dtype)
            set_constants(module, source.group("meta_model/constants/"), str(source.path))
    comm.broadcast(phi.numpy())
    with comm.raising_together():
        layout.fill(module, phi[: layout.size])
        set_constants(module, comm.broadcast_object(own), "rank 0")
    if source is not None or all(other == starts[0] for other in starts):
        return Start(module, whole, phi, [])
    warning = (
        "the ranks built different models, as by random numbers that the seed does not control: rank 0's is used, and "
        "the next job will start from another one"
    )
    return Start(module, whole, phi, [warning])


def beginning(algorithm: Algorithm, layout: Layout, module: torch.nn.Module) -> torch.Tensor:
    """φ (P,) of a fresh job: the module's parameters, and what the algorithm learns besides."""
    theta = layout.flatten(module)
    return torch.cat([theta, *(each.reshape(-1).to(theta) for each in algorithm.learned(layout).values())])
