"""Losses: what a task family asks the model to minimise, and the metric that its tasks are judged by.

One file each. A family brings one as its `loss`; a result file names it, so that a trained model can be adapted without
the family's data.
"""

from __future__ import annotations

from dataclasses import asdict

from hpc_dmaml.importing import Trusted, find, path_of
from hpc_dmaml.losses.cross_entropy import CrossEntropy
from hpc_dmaml.losses.loss import Loss
from hpc_dmaml.losses.metric import ACCURACY, Metric
from hpc_dmaml.losses.policy_gradient import CategoricalPolicyGradient, GaussianPolicyGradient, PolicyGradient
from hpc_dmaml.losses.squared_error import SquaredError
from hpc_dmaml.plain_yaml import dump_yaml, load_yaml

__all__ = [
    "ACCURACY",
    "LOSSES",
    "CategoricalPolicyGradient",
    "CrossEntropy",
    "GaussianPolicyGradient",
    "Loss",
    "Metric",
    "PolicyGradient",
    "SquaredError",
    "described",
    "named",
]

LOSSES: dict[str, Loss] = {"cross_entropy": CrossEntropy(), "squared_error": SquaredError()}
"""Short names of losses without settings, which a family and a file may use."""


def named(loss: object, trusted: Trusted = lambda path: True) -> Loss:
    """The loss that is given, or that `described` has described. Raises ValueError where it is none."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    try:
        content = load_yaml(loss) if isinstance(loss, str) else None
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.keys() != {"class_path", "init_args"}:
        raise ValueError(f"task: there is no loss {loss!r}; there are {', '.join(LOSSES)}, or a Loss of your own")
    kind = find("loss", Loss, content["class_path"], trusted)
    try:
        made: Loss = kind(**content["init_args"])
    except Exception as error:
        raise ValueError(f"loss: {content['class_path']} cannot be made of {content['init_args']}: {error}") from error
    return made


def described(loss: Loss) -> str:
    """A loss as text, for a file. Raises ValueError where its settings are no plain values."""
    for name, known in LOSSES.items():
        if loss == known:
            return name
    try:
        text = dump_yaml({"class_path": path_of(type(loss)), "init_args": asdict(loss)})  # type: ignore[call-overload]
        if named(text) == loss:
            return text
    except Exception as error:  # whatever keeps it from being written down
        raise ValueError(f"task: the loss {loss!r} cannot be named in a file: {error}") from error
    raise ValueError(f"task: the loss {loss!r} is another when it is made anew from its fields")
