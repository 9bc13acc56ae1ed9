"""Compiled functions give what the functions themselves give, also for numbers that they were not traced with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hpc_dmaml.engine import Compiler, Engine, InnerLoop, compiled, meta_gradient, objective_for, rates
from hpc_dmaml.models import MLP, Conv4, Model
from hpc_dmaml.parameters import Layout, flatten
from hpc_dmaml.tasks import Samples, TaskBatch

needs_a_compiler = pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler")


def batch(sample_shape: tuple[int, ...], outputs: int, seed: int) -> TaskBatch:
    """Three tasks, with classes where the samples are images."""
    rng = torch.Generator().manual_seed(seed)

    def samples(n: int) -> Samples:
        x = torch.randn(3, n, *sample_shape, generator=rng, dtype=torch.float64)
        numbers = torch.randn(3, n, outputs, generator=rng, dtype=torch.float64)
        return Samples(x, numbers.argmax(-1) if len(sample_shape) == 3 else numbers)

    return TaskBatch(samples(4), samples(5))


@needs_a_compiler
@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "sample_shape", "loss"),
    [(MLP((5,)), (2,), "squared_error"), (Conv4(2, "max_pool", 2), (1, 6, 6), "cross_entropy")],
    ids=["vectors", "images"],
)
def test_a_compiled_meta_gradient_is_that_of_the_formulas(
    model: Model, sample_shape: tuple[int, ...], loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    module = model.build(sample_shape, 2).double()
    learned = rates(Layout.of(module), 0.1, "layer", steps=2, learned=True)
    theta = flatten(module)
    plain = Engine(objective_for(module, sample_shape, loss), chunk=2)
    compiler = Compiler()
    for seed in range(3):  # other batches, and norms with negative scales
        inner = InnerLoop(learned.to(theta)._replace(values=torch.full((len(learned.values),), 0.1 + seed).double()), 2)
        at = theta + seed * torch.randn(theta.shape, generator=torch.Generator().manual_seed(seed)).double()
        given, expected = (
            meta_gradient(engine, at, batch(sample_shape, 2, seed), inner)
            for engine in (plain._replace(compiler=compiler), plain)
        )
        for mine, other in zip(given, expected, strict=True):
            assert mine is not None
            assert other is not None
            torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-10, equal_nan=True)
        if seed == 0:
            seconds = compiler.seconds
    assert compiler.failure is None
    assert seconds > 0
    assert compiler.seconds == seconds  # nothing is compiled again


def double(x: Tensor) -> tuple[Tensor]:
    return (2 * x,)


def broken(function: object, tensors: object) -> Callable[..., tuple[Tensor, ...]]:
    raise OSError("no compiler here")


def wrong(function: object, tensors: object) -> Callable[..., tuple[Tensor, ...]]:
    return lambda x: (3 * x,)


@pytest.mark.parametrize(("compile_", "why"), [(broken, "no compiler here"), (wrong, "it gives other numbers")])
def test_what_cannot_be_compiled_runs_as_it_is(
    compile_: Callable[..., object], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_compiled", compile_)
    compiler = Compiler()
    for _ in range(2):
        assert torch.equal(compiler("double", double, torch.ones(3))[0], torch.full((3,), 2.0))
    assert compiler.failure == why
