"""The model that a job starts from: freshly built, or out of a file; the same on every rank."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext

import torch

from hpc_dmaml import results
from hpc_dmaml.communicator import Communicator
from hpc_dmaml.config import RunConfig, own_parts
from hpc_dmaml.engine import prepare
from hpc_dmaml.engine.layers import Normalize
from hpc_dmaml.importing import described
from hpc_dmaml.parameters import Layout, constant_arrays, digest, set_constants
from hpc_dmaml.randomness import Purpose, generator, seeded
from hpc_dmaml.tasks.image_classes import FewShotImages


def build_module(
    config: RunConfig, sample_shape: tuple[int, ...], outputs: int, empty: bool = False
) -> torch.nn.Module:
    """The configured model, initialised by the job's seed and ready for the engine. Raises ValueError.

    `empty`: without memory, to see its shapes alone.
    """
    seed = int(generator(config.seed, Purpose.INITIALISATION).integers(2**63))
    with seeded(seed), torch.device("meta") if empty else nullcontext():
        try:
            module = config.model.build(sample_shape, outputs)
            if isinstance(config.task, FewShotImages) and config.task.normalize:
                module = torch.nn.Sequential(OrderedDict(normalize=Normalize(sample_shape[0]), model=module))
            module = prepare(module, sample_shape, empty)
        except ValueError:  # a message to the user
            raise
        except Exception as error:
            raise ValueError(f"model: {type(config.model).__name__} cannot be built: {described(error)}") from error
    return module.to(getattr(torch, config.dtype))


def stored_module(
    source: results.Results, config: RunConfig, sample_shape: tuple[int, ...], outputs: int
) -> torch.nn.Module:
    """The model of a file's configuration, if it is one for the file's parameters. Raises ValueError.

    It is first built without memory: a file can ask for a model that is larger than the machine. What is the user's own
    is trusted, and may not know how to do that.
    """
    if not own_parts(config):
        check_layout(source, build_module(config, sample_shape, outputs, empty=True))
    module = build_module(config, sample_shape, outputs)
    check_layout(source, module)
    return module


def check_layout(source: results.Results, module: torch.nn.Module) -> None:
    """Raise ValueError unless a file holds the parameters of this model."""
    layout_of(source).check_same(Layout.of(module), str(source.path))


def stored_parameters(source: results.Results, layout: Layout, which: str) -> torch.Tensor:
    """The last or the best parameters (P,) of a file, in the order of this layout. Raises ValueError for other ones."""
    if which not in ("last", "best"):
        raise ValueError(f"which must be last or best, not {which!r}")
    stored = layout_of(source)
    stored.check_same(layout, str(source.path))
    theta = torch.from_numpy(source["meta_model/parameters" if which == "last" else "meta_model/best_parameters"])
    return layout.join(stored.views(theta))


def layout_of(source: results.Results) -> Layout:
    """The layout of the parameters in a file."""
    shapes = tuple(tuple(int(n) for n in str(s).split(",") if n) for s in source["meta_model/shapes"])
    return Layout(tuple(map(str, source["meta_model/names"])), shapes)


def start(
    config: RunConfig,
    sample_shape: tuple[int, ...],
    outputs: int,
    previous: results.Results | None,
    comm: Communicator,
) -> tuple[torch.nn.Module, Layout, list[str]]:
    """The model of a job that goes on with `previous`, or starts with `init_from` or anew; the layout of θ; warnings.

    Every rank's model has the parameters and constants of that file, which rank 0 has read, or else rank 0's own. Raises
    Refusal where a rank has built another model, or the file holds one.
    """
    source = previous
    with comm.agreeing():
        if previous is not None:
            module = stored_module(previous, config, sample_shape, outputs)
        else:
            module = build_module(config, sample_shape, outputs)
            if comm.rank == 0 and config.init_from is not None:
                source = results.read(config.init_from)
    layout: Layout = comm.broadcast_object(Layout.of(module) if previous is None else layout_of(previous))
    with comm.agreeing():
        layout.check_same(Layout.of(module), "rank 0")
    own = constant_arrays(module)  # which share its memory
    starts = comm.all_gather_objects([digest(layout.flatten(module).numpy()), *(digest(own[n]) for n in sorted(own))])
    with comm.agreeing():
        if comm.rank == 0 and source is not None:
            layout.fill(module, stored_parameters(source, layout, "last"))
            set_constants(module, source.group("meta_model/constants/"), str(source.path))
    theta = layout.flatten(module).numpy()
    comm.broadcast(theta)
    with comm.agreeing():
        layout.fill(module, torch.from_numpy(theta))
        set_constants(module, comm.broadcast_object(own), "rank 0")
    if source is not None or all(other == starts[0] for other in starts):
        return module, layout, []
    warning = (
        "the ranks built models that differ, as by random numbers that the seed does not reach: rank 0's counts, and the "
        "next job will start from another"
    )
    return module, layout, [warning]
