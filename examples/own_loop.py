"""MAML in your own training loop: `hpc_dmaml.meta_gradient` and any optimizer of torch, without MPI and files.

    python examples/own_loop.py

learns to fit sine waves from ten points in about 15 seconds.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from hpc_dmaml import InnerLoop, meta_gradient


def waves(tasks: int, points: int = 10) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Support and query points of sine waves of random amplitude and phase: x and y, each (tasks, points, 1)."""
    amplitude, phase = 0.1 + 4.9 * torch.rand(tasks, 1, 1), torch.pi * torch.rand(tasks, 1, 1)
    x = 10 * torch.rand(tasks, 2 * points, 1) - 5
    y = amplitude * torch.sin(x - phase)
    return (x[:, :points], y[:, :points]), (x[:, points:], y[:, points:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=5000, help="number of optimizer steps")
    steps = parser.parse_args().steps

    torch.manual_seed(0)
    torch.set_num_threads(1)  # the tensors are small
    model = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        found = meta_gradient(model, "squared_error", *waves(25), InnerLoop(lr=0.01))
        optimizer.zero_grad()
        found.accumulate(model)
        optimizer.step()
        if step % 1000 == 0:
            print(f"step {step}: loss after adaptation {found.losses.mean():.3f}")

    support, query = waves(1000)
    for inner_steps in (0, 1):
        losses = meta_gradient(model, "squared_error", support, query, InnerLoop(0.01, inner_steps)).losses
        print(f"new waves, after {inner_steps} inner steps: loss {losses.mean():.3f}")


if __name__ == "__main__":
    main()
