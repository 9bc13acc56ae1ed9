"""Speed, accuracy and memory of one meta-gradient on one core, compared with other ways to compute it.

    python benchmarks/meta_gradient.py                      the five small cases, every method that is installed
    python benchmarks/meta_gradient.py --cases 5w1s mini    some of them
    python benchmarks/meta_gradient.py --compile            also ours compiled, see the field `compile`
    python benchmarks/meta_gradient.py --cases resnet12 --methods "plain loop"    a large case, which runs only if named
    python benchmarks/meta_gradient.py --steps              time and memory over 1, 5, 10 and 20 inner steps
    python benchmarks/meta_gradient.py --end-to-end         a whole training step against its meta-gradient alone

`pip install "hpc_dmaml[bench]"` installs the peers `higher` and `torchopt`, `[bench-jax]` JAX. All methods of a case
run in turn, repeatedly, in one process with the same threads and allocator settings; JAX in its own, on as many cores
as there are threads. The tables (Markdown) show medians. Ratios are more reliable: other cores affect a core's speed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from itertools import accumulate, count
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jax_peer import JaxProcess
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.flop_counter import FlopCounterMode

from hpc_dmaml.config import RunConfig
from hpc_dmaml.engine import Compiler, Engine, InnerLoop, default_chunk, meta_gradient, objective_for
from hpc_dmaml.engine.allocator import keep_freed_memory
from hpc_dmaml.models import MLP, Conv4, Model, ResNet12
from hpc_dmaml.parameters import flatten
from hpc_dmaml.placement import Placement
from hpc_dmaml.randomness import Purpose, generator
from hpc_dmaml.setup import make_learner
from hpc_dmaml.start import build_module
from hpc_dmaml.tasks import Glyphs, Samples, Sinusoid, TaskBatch
from hpc_dmaml.worker import Learner, work

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "squared_error": F.mse_loss,
}


@dataclass(frozen=True)
class Case:
    """One meta-gradient of a published experiment; `shots` and `queries` are totals of a task, not per class."""

    name: str
    model: Model
    sample_shape: tuple[int, ...]
    outputs: int
    tasks: int
    shots: int
    queries: int
    inner: InnerLoop
    loss: str = "cross_entropy"
    keep: Literal["activations", "parameters"] = "activations"
    repeats: int = 5
    """Least number of timed calls of each method."""

    @property
    def lr(self) -> float:
        assert isinstance(self.inner.lr, float)
        return self.inner.lr

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        return self.model.build(self.sample_shape, self.outputs)

    def batch(self) -> TaskBatch:
        """Random inputs, with every class equally often, as in a few-shot task."""
        rng = torch.Generator().manual_seed(0)

        def samples(n: int) -> Samples:
            x = torch.rand(self.tasks, n, *self.sample_shape, generator=rng)
            if self.loss == "squared_error":
                return Samples(10 * x - 5, torch.sin(10 * x - 5))
            return Samples(x, (torch.arange(n) % self.outputs).repeat(self.tasks, 1))

        return TaskBatch(samples(self.shots), samples(self.queries))

    def flops(self) -> int:
        """Number of necessary floating-point operations; a multiplication and an addition count as 2.

        With F for one sample's forward pass and F₁ for its first layer, the layers' products with input and weights
        cost 3F − F₁ for a gradient (the data needs none), and 6F − 4F₁ more for a Hessian-vector product.
        """
        module, x = self.module(), torch.zeros(1, *self.sample_shape).expand(2, *self.sample_shape)
        first_layer = next(part for part in module.modules() if part._parameters)
        forward, first = (_flops(part, x) // 2 for part in (module, first_layer))
        step = 9 * forward - 5 * first
        return self.tasks * (self.inner.steps * self.shots * step + self.queries * (3 * forward - first))


def _flops(module: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops()


CASES = [
    Case("sinusoid", MLP(), (1,), 1, 25, 10, 10, InnerLoop(0.01, 1), "squared_error"),
    Case("5w1s", Conv4(), (1, 28, 28), 5, 32, 5, 5, InnerLoop(0.4, 1)),
    Case("5w5s", Conv4(), (1, 28, 28), 5, 32, 25, 25, InnerLoop(0.4, 1)),
    Case("20w1s", Conv4(), (1, 28, 28), 20, 16, 20, 20, InnerLoop(0.1, 5)),
    Case("mini", Conv4(32, "max_pool"), (3, 84, 84), 5, 4, 5, 75, InnerLoop(0.01, 5)),
]
LARGE_CASES = [
    Case("resnet12", ResNet12(), (3, 84, 84), 5, 1, 5, 75, InnerLoop(0.01, 5), keep="parameters", repeats=1),
]
"""Cases that take minutes, instead of seconds, for each method."""

Method = Callable[[Case, nn.Module, TaskBatch], Tensor]
"""The meta-gradient summed over the tasks, (P,), at the module's parameters and in their precision."""


def ours(case: Case, module: nn.Module, batch: TaskBatch) -> Tensor:
    engine, theta = _prepared(case, module)
    return meta_gradient(engine, theta, batch, case.inner).gradient


def ours_compiled(case: Case, module: nn.Module, batch: TaskBatch) -> Tensor:
    engine, theta = _prepared(case, module)
    engine = engine._replace(compiler=_compiler(theta.dtype))
    return meta_gradient(engine, theta, batch, case.inner).gradient


def plain_loop(case: Case, module: nn.Module, batch: TaskBatch) -> Tensor:
    """One task after another, each with one autograd graph through all of its inner steps."""

    def gradient(loss: Callable[[dict[str, Tensor]], Tensor], theta: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(theta, torch.autograd.grad(loss(theta), list(theta.values()), create_graph=True), strict=True))

    total = torch.zeros_like(flatten(module))
    for support, query in _tasks(module, batch):
        theta = {name: p.detach().requires_grad_() for name, p in module.named_parameters()}
        loss = _query_loss(case, module, theta, support, query, gradient)
        total += _flat(torch.autograd.grad(loss, list(theta.values())))
    return total


def vmap_tasks(case: Case, module: nn.Module, batch: TaskBatch) -> Tensor:
    """All tasks at once. Its second derivative of batch norm has been wrong: check the error in the table."""
    theta = {name: p.detach() for name, p in module.named_parameters()}
    batch = batch.to(torch.device("cpu"), flatten(module).dtype)

    def task(theta: dict[str, Tensor], *data: Tensor) -> Tensor:
        return _query_loss(case, module, theta, Samples(*data[:2]), Samples(*data[2:]), lambda loss, at: grad(loss)(at))

    gradients = vmap(grad(task), in_dims=(None, 0, 0, 0, 0))(theta, *batch.support_set, *batch.query_set)
    return _flat(g.sum(0) for g in gradients.values())


def higher_loop(case: Case, module: nn.Module, batch: TaskBatch) -> Tensor:
    import higher

    loss, optimizer = LOSSES[case.loss], torch.optim.SGD(module.parameters(), case.lr)
    module.zero_grad()
    for support, query in _tasks(module, batch):
        with higher.innerloop_ctx(module, optimizer, copy_initial_weights=False) as (adapted, inner):
            for _ in range(case.inner.steps):
                inner.step(loss(adapted(support.x), support.y))
            loss(adapted(query.x), query.y).backward()
    return _flat(p.grad for p in module.parameters() if p.grad is not None)


def torchopt_loop(case: Case, module: nn.Module, batch: TaskBatch) -> Tensor:
    import torchopt

    loss, inner = LOSSES[case.loss], torchopt.MetaSGD(module, lr=case.lr)
    start = [torchopt.extract_state_dict(each, by="reference") for each in (module, inner)]
    theta, total = list(module.parameters()), torch.zeros_like(flatten(module))
    for support, query in _tasks(module, batch):
        for _ in range(case.inner.steps):
            inner.step(loss(module(support.x), support.y))
        total += _flat(torch.autograd.grad(loss(module(query.x), query.y), theta))
        for each, state in zip((module, inner), start, strict=True):
            torchopt.recover_state_dict(each, state)
    return total


def jax_tasks(case: Case, module: nn.Module, batch: TaskBatch) -> Tensor:
    """`vmap` and `jit` in JAX, compiled again for every call."""
    _compile_in_jax(case, module, batch)
    return torch.from_numpy(_jax().gradient())


COMPILED = "**ours, compiled**"
METHODS: dict[str, tuple[Method, str]] = {
    "**ours**": (ours, "hpc_dmaml"),
    COMPILED: (ours_compiled, "hpc_dmaml"),
    "plain loop": (plain_loop, "torch"),
    "higher": (higher_loop, "higher"),
    "torchopt": (torchopt_loop, "torchopt"),
    "vmap": (vmap_tasks, "torch"),
    "JAX": (jax_tasks, "jax"),
}
"""For each name in the tables, the function and the package that it needs."""


def _query_loss(
    case: Case,
    module: nn.Module,
    theta: dict[str, Tensor],
    support: Samples,
    query: Samples,
    gradient: Callable[..., Any],
) -> Tensor:
    """A task's query loss after adaptation; `gradient(loss, θ)` differentiates the support loss."""

    def loss(theta: dict[str, Tensor], at: Samples) -> Tensor:
        return LOSSES[case.loss](functional_call(module, theta, at.x), at.y)

    for _ in range(case.inner.steps):
        gradients = gradient(lambda theta: loss(theta, support), theta)
        theta = {name: p - case.lr * gradients[name] for name, p in theta.items()}
    return loss(theta, query)


def _tasks(module: nn.Module, batch: TaskBatch) -> Iterator[tuple[Samples, Samples]]:
    batch = batch.to(torch.device("cpu"), flatten(module).dtype)
    for b in range(len(batch)):
        yield Samples(*(each[b] for each in batch.support_set)), Samples(*(each[b] for each in batch.query_set))


def _flat(gradients: Iterable[Tensor]) -> Tensor:
    return torch.cat([g.detach().reshape(-1) for g in gradients])


@cache
def _prepared(case: Case, module: nn.Module) -> tuple[Engine, Tensor]:
    """The engine and θ, as a job makes them once at its start."""
    objective = objective_for(module, case.sample_shape, case.loss)
    chunk = default_chunk(objective, case.shots + case.queries, torch.device("cpu"))
    return Engine(objective, min(case.tasks, chunk), case.keep), flatten(module)


@cache
def _compiler(dtype: torch.dtype) -> Compiler:
    """One compiler for each precision of a case."""
    return Compiler()


@cache
def _jax() -> JaxProcess:
    return JaxProcess(torch.get_num_threads())


def _compile_in_jax(case: Case, module: nn.Module, batch: TaskBatch) -> tuple[float, float]:
    """Compile in JAX; returns the seconds that it takes, and the MiB of the gradient."""
    data = tuple(each.numpy() for each in (*batch.support_set, *batch.query_set))
    return _jax().compile(module, data, case.lr, case.inner.steps, case.loss)


def medians(calls: dict[str, Callable[[], object]], seconds: float, repeats: int = 5) -> dict[str, float]:
    """Median seconds of each call, all called in turn for about `seconds`, at least `repeats` times.

    Only the second of two calls in a row is timed: the first reallocates memory that the method before it has freed. A
    call that returns a float has measured its own time.

    On one thread, this is CPU time of this process, which other processes on the same core do not increase.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < repeats:
        for name, call in calls.items():
            measured = call()
            start = clock()
            if not isinstance(measured, float):
                call()
                measured = clock() - start
            times[name].append(measured)
    return {name: statistics.median(each) for name, each in times.items()}


def gemm() -> Callable[[], Tensor]:
    """A matrix product of GEMM_FLOPS operations that stays in cache: the core's peak performance."""
    a, b = torch.rand(2, 1024, 1024)
    return lambda: a @ b


GEMM_FLOPS = 2 * 1024**3


def peak_memory_mib(call: Callable[[], object]) -> float:
    """Peak memory of torch's tensors during a call, beyond that before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes)) / 2**20


def where_time_goes(call: Callable[[], object]) -> dict[str, float]:
    """Shares of a call's profiled time by kind of operator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    total_us = dict.fromkeys(("products and convolutions", "unfolding and folding", "all else"), 0.0)
    for operator in profile.key_averages():
        product, fold = any(part in operator.key for part in ("mm", "conv")), "embedding_bag" in operator.key
        kind = "products and convolutions" if product else "unfolding and folding" if fold else "all else"
        total_us[kind] += operator.self_cpu_time_total
    return {kind: us / sum(total_us.values()) for kind, us in total_us.items()}


def compare(case: Case, seconds: float, methods: list[str]) -> None:
    """Print the table of all methods on one case."""
    wanted = {name: METHODS[name] for name in METHODS if name in ("**ours**", *methods)}
    available = {name: method for name, (method, package) in wanted.items() if find_spec(package)}
    columns = "tasks/s", "ours is", "share of GEMM peak", "error, float64", "error, float32", "peak MiB"
    module, exact, batch = case.module(), case.module().double(), case.batch()
    checked = case if case.repeats > 1 else replace(case, queries=case.outputs)  # must fit in double precision
    checked_batch = checked.batch()
    truth = plain_loop(checked, exact, checked_batch)
    errors = {
        name: [_error(method(checked, each, checked_batch), truth) for each in (exact, module)]
        for name, method in available.items()
    }
    calls: dict[str, Callable[[], object]] = {
        name: partial(method, case, module, batch) for name, method in available.items()
    }
    if "JAX" in calls:
        compiled_s, jax_mib = _compile_in_jax(case, module, batch)
        calls["JAX"] = _jax().seconds
    wall_s = medians({**calls, "gemm": gemm()}, seconds, case.repeats)
    peak = GEMM_FLOPS / wall_s["gemm"]
    inner = f"{case.tasks} tasks, {case.inner.steps} inner step{'s' * (case.inner.steps > 1)}"
    print(f"\n{case.name}: {inner}, {case.shots} + {case.queries} samples; GEMM peak {peak / 1e9:.0f} GFLOP/s\n")
    _row("", *columns)
    _row(*["---"] + ["---:"] * len(columns))
    for name, (error_64, error_32) in errors.items():
        _row(
            name,
            f"{rate:,.3g}" if (rate := case.tasks / wall_s[name]) < 999 else f"{rate:,.0f}",
            f"{wall_s[name] / wall_s['**ours**']:.2f} ×",
            f"{case.flops() / wall_s[name] / peak:.0%}",
            f"{error_64:.0e}" + " (wrong)" * (error_64 > 1e-9),
            f"{error_32:.0e}",
            f"{jax_mib if name == 'JAX' else peak_memory_mib(calls[name]):,.0f}",
        )
    if COMPILED in calls:
        compiler = _compiler(torch.float32)
        print(f"\nOurs took {compiler.seconds:.1f} s to compile{f': {f}' if (f := compiler.failure) else ''}")
    if "JAX" in calls:
        print(f"\nJAX took {compiled_s:.1f} s to compile")
    shares = where_time_goes(calls["**ours**"])
    print("\nOur time:", ", ".join(f"{share:.0%} on {kind}" for kind, share in shares.items()), flush=True)


def over_steps(case: Case, seconds: float) -> None:
    """Print time and memory of both values of `keep` over the number of inner steps, for one chunk of tasks."""
    module, theta = case.module(), flatten(case.module())
    chunk = _prepared(case, module)[0].chunk
    case = replace(case, tasks=chunk)
    batch = case.batch()
    print(f"\n{case.name}, chunks of {chunk}: all of each inner step kept, or its parameters alone (lean)\n")
    columns = "s", "lean s", "time", "peak MiB", "lean MiB", "lean less stored θ", "of 1 step", "difference"
    _row("inner steps", *columns)
    _row(*["---:"] * (1 + len(columns)))
    at_one_step = None
    for steps in (1, 5, 10, 20):
        full = replace(case, inner=replace(case.inner, steps=steps))
        lean = replace(full, keep="parameters")
        calls: dict[str, Callable[[], object]] = {
            name: partial(ours, each, module, batch) for name, each in (("full", full), ("lean", lean))
        }
        wall_s = medians(calls, seconds / 4)
        full_mib, lean_mib = (peak_memory_mib(call) for call in calls.values())
        rest = lean_mib - (steps - 1) * chunk * theta.nbytes / 2**20  # θ_0 is shared: it is stored once
        at_one_step = at_one_step or rest
        _row(
            f"{steps}",
            *(f"{wall_s[name]:.3g}" for name in calls),
            f"{wall_s['lean'] / wall_s['full']:.2f} ×",
            *(f"{mib:,.1f}" for mib in (full_mib, lean_mib, rest)),
            f"{rest / at_one_step:.2f} ×",
            f"{_error(ours(lean, module, batch), ours(full, module, batch)):.0e}",
        )


def end_to_end(seconds: float) -> None:
    """Print the time of a worker's whole step, with sampling and reports, against that of its meta-gradient."""
    print("\nA training step, sampling included\n")
    _row("task", "step, ms", "meta-gradient, ms", "ratio")
    _row("---", "---:", "---:", "---:")
    for task, model, tasks in ((Sinusoid(), MLP(), 25), (Glyphs(), Conv4(), 32)):
        task.prepare()
        config = RunConfig(task=task, model=model, tasks=tasks)
        sampler = task.load()
        module = build_module(config, sampler.sample_shape, sampler.outputs)
        learner = make_learner(config, sampler, module, torch.device("cpu"))
        batch = sampler.sample("train", generator(0, Purpose.TRAINING), tasks)
        times = sampler.block_runs
        step, bare = (s / times for s in step_and_gradient(learner, flatten(module), batch, times, seconds))
        _row(type(task).__name__, f"{step * 1e3:.3g}", f"{bare * 1e3:.3g}", f"{step / bare:.2f} ×")


def step_and_gradient(
    learner: Learner, theta: Tensor, batch: TaskBatch, times: int, seconds: float
) -> tuple[float, float]:
    """Median seconds of `times` steps, each of another run, and of as many meta-gradients of one batch."""
    alone, runs = Placement(ranks=1, workers=1, rank=0), count()

    def step() -> None:
        for _ in range(times):
            work(learner, theta, next(runs), 0, alone, None)

    def bare() -> None:
        for _ in range(times):
            learner.config.algorithm.update(learner.engine, theta, batch, run=0)

    wall_s = medians({"step": step, "bare": bare}, seconds)
    return wall_s["step"], wall_s["bare"]


def _error(value: Tensor, truth: Tensor) -> float:
    truth = truth.double()
    return ((value.double() - truth).norm() / truth.norm()).item()


def _row(*cells: str) -> None:
    print("|", " | ".join(cells), "|", flush=True)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = {case.name: case for case in (*CASES, *LARGE_CASES)}
    parser.add_argument("--cases", nargs="+", choices=cases, default=[case.name for case in CASES])
    peers = [name for name in METHODS if name not in ("**ours**", COMPILED)]
    parser.add_argument("--methods", nargs="+", choices=peers, default=peers, help="besides ours")
    parser.add_argument(
        "--compile", action="store_true", help="also ours compiled, which takes minutes before it starts"
    )
    parser.add_argument("--steps", action="store_true", help="time and memory over 1, 5, 10 and 20 inner steps")
    parser.add_argument("--end-to-end", action="store_true", help="a whole training step")
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time of each case (default: 20)")
    parser.add_argument("--threads", type=int, default=1, help="threads of every method (default: 1)")
    arguments = parser.parse_args()
    os.environ |= {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}  # silence the profiler's messages
    if len(arguments.cases) > 1 and not arguments.end_to_end:
        for name in arguments.cases:  # each in a new process, whose heap no other case has fragmented
            subprocess.run([sys.executable, *sys.argv, "--cases", name], check=True)
        return
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    warnings.simplefilter("ignore")
    if arguments.end_to_end:
        end_to_end(arguments.seconds)
        return
    case = cases[arguments.cases[0]]
    if arguments.steps:
        over_steps(case, arguments.seconds)
    else:
        compare(case, arguments.seconds, arguments.methods + [COMPILED] * arguments.compile)


if __name__ == "__main__":
    main()
