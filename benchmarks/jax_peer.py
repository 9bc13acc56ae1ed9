"""The meta-gradient in JAX, by `vmap` and `jit`, in a separate process, for the table of `meta_gradient.py`.

The network is that of the torch module, layer by layer, with the same parameter names.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from torch import nn

from hpc_dmaml.engine.layers import Residual

Arrays = tuple[np.ndarray, ...]


class JaxProcess:
    """A process that runs JAX, on as many cores as each method has threads."""

    def __init__(self, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, threads), daemon=True)
        self._process.start()
        theirs.close()

    def compile(self, module: nn.Module, data: Arrays, lr: float, steps: int, loss: str) -> tuple[float, float]:
        """Compile the meta-gradient for `data`: support x and y, query x and y. Returns seconds taken, and its MiB."""
        return self._ask("compile", pickle.dumps(module), data, lr, steps, loss)

    def gradient(self) -> np.ndarray:
        """The last compiled meta-gradient: Σ over the tasks of dL_q/dθ, (P,), in the module's order and precision."""
        return self._ask("gradient")

    def seconds(self) -> float:
        """Time of one call in seconds: CPU time on one thread, else wall-clock time."""
        return self._ask("seconds")

    def _ask(self, *request: object) -> Any:
        try:
            self._connection.send(request)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("JAX's process has ended") from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(connection: Connection, threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_enable_x64", True)  # allows float64; float32 inputs stay float32
    clock = time.process_time if threads == 1 else time.perf_counter
    call: Callable[[], Any] = lambda: None  # noqa: E731
    while True:
        try:
            what, *arguments = connection.recv()
        except EOFError:
            return
        answer: Any
        try:
            if what == "compile":
                call, *answer = _compiled(*arguments)
            elif what == "gradient":
                answer = np.concatenate([np.asarray(each).ravel() for each in call().values()])
            else:
                jax.block_until_ready(call())
                start = clock()
                jax.block_until_ready(call())
                answer = clock() - start
        except Exception as error:  # the other side raises it
            answer = RuntimeError(f"JAX: {error}")
        connection.send(answer)


def _compiled(
    pickled: bytes, data: Arrays, lr: float, steps: int, loss: str
) -> tuple[Callable[[], dict[str, Any]], float, float]:
    """The compiled meta-gradient with its arguments bound, seconds of compiling, and MiB of temporaries and output."""
    import jax

    module: nn.Module = pickle.loads(pickled)
    theta = {name: jax.numpy.asarray(p.detach().numpy()) for name, p in module.named_parameters()}
    precision = next(iter(theta.values())).dtype
    arrays = [jax.numpy.asarray(each, precision if each.dtype.kind == "f" else None) for each in data]

    def task(theta: dict[str, Any], *data: Any) -> Any:
        inner = partial(_loss, module, loss)
        for _ in range(steps):
            gradient = jax.grad(inner)(theta, *data[:2])
            theta = {name: p - lr * gradient[name] for name, p in theta.items()}
        return inner(theta, *data[2:])

    def total(theta: dict[str, Any], *data: Any) -> Any:
        return jax.vmap(task, (None, 0, 0, 0, 0))(theta, *data).sum()

    start = time.perf_counter()
    compiled = jax.jit(jax.grad(total)).lower(theta, *arrays).compile()
    took_s, memory = time.perf_counter() - start, compiled.memory_analysis()
    order = list(theta)

    def call() -> dict[str, Any]:
        gradient = compiled(theta, *arrays)
        return {name: gradient[name] for name in order}

    return call, took_s, (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2**20


def _loss(module: nn.Module, loss: str, theta: dict[str, Any], x: Any, y: Any) -> Any:
    import jax

    z = _outputs(module, theta, "", x)
    if loss == "squared_error":
        return ((z - y) ** 2).mean()
    return -jax.numpy.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()


def _outputs(module: nn.Module, theta: dict[str, Any], prefix: str, x: Any) -> Any:
    """The module in JAX, on samples (n, ...), images channels first.

    A convolution is one matrix product: XLA's own, with other weights per task, is 14 times as slow on a CPU (5w1s).
    """
    import jax

    def own(name: str) -> Any:
        return theta[prefix + name]

    def part(name: str, x: Any) -> Any:
        return _outputs(module.get_submodule(name), theta, f"{prefix}{name}.", x)

    match module:
        case nn.Sequential():
            for name, _ in module.named_children():
                x = part(name, x)
            return x
        case Residual():
            return part("body", x) + part("shortcut", x)
        case nn.Identity():
            return x
        case nn.Linear():
            return x @ own("weight").T + own("bias")
        case nn.Conv2d(bias=None, padding=(height, width), kernel_size=(rows, columns), stride=(down, right)):
            x = jax.numpy.pad(x, [(0, 0), (0, 0), (height, height), (width, width)])
            ends = x.shape[2] - rows + 1, x.shape[3] - columns + 1
            shifts = [(i, j) for i in range(rows) for j in range(columns)]
            x = jax.numpy.stack([x[:, :, i : i + ends[0] : down, j : j + ends[1] : right] for i, j in shifts], 2)
            return jax.numpy.einsum("nckhw,ock->nohw", x, own("weight").reshape(*own("weight").shape[:2], -1))
        case nn.BatchNorm2d():
            x = x - x.mean((0, 2, 3), keepdims=True)
            scale = own("weight")[:, None, None] * jax.lax.rsqrt((x * x).mean((0, 2, 3), keepdims=True) + module.eps)
            return x * scale + own("bias")[:, None, None]
        case nn.ReLU():
            return jax.nn.relu(x)
        case nn.LeakyReLU():
            return jax.nn.leaky_relu(x, module.negative_slope)
        case nn.MaxPool2d(kernel_size=2, stride=2):
            n, channels, height, width = x.shape
            x = x[:, :, : height // 2 * 2, : width // 2 * 2]
            return x.reshape(n, channels, height // 2, 2, width // 2, 2).max((3, 5))
        case nn.AdaptiveAvgPool2d(output_size=1):
            return x.mean((2, 3), keepdims=True)
        case nn.Flatten():
            return x.reshape(len(x), -1)
    raise NotImplementedError(f"no {type(module).__name__} like this")
