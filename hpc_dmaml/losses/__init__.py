"""Losses: what the tasks of a family minimise, and the metric that they are evaluated by.

One file each. A task family has one as its `loss`; a result file records it, so that a trained model can be adapted
without the family's data.
"""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any

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
"""Losses without settings by short name, as task families and result files may give them."""


def named(loss: object, trusted: Trusted = lambda path: True) -> Loss:
    """Return a loss as it is, or make it from a short name or the text of `described`. Raises ValueError for others."""
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
    from hpc_dmaml.config.values import hints, typed  # which imports the losses

    try:
        kinds, given = hints(kind) if is_dataclass(kind) else {}, content["init_args"]
        made: Loss = kind(**{name: typed(name, value, kinds.get(name, Any)) for name, value in given.items()})
    except Exception as error:
        raise ValueError(f"loss: {content['class_path']} cannot be made of {content['init_args']}: {error}") from error
    return made


def described(loss: Loss) -> str:
    """A loss as text, for a result file. Raises ValueError if its settings are not plain values."""
    for name, known in LOSSES.items():
        if loss == known:
            return name
    try:
        text = dump_yaml({"class_path": path_of(type(loss)), "init_args": asdict(loss)})  # type: ignore[call-overload]
        if named(text) == loss:
            return text
    except Exception as error:  # a user's own loss may fail in any way
        raise ValueError(f"task: the loss {loss!r} cannot be named in a file: {error}") from error
    raise ValueError(f"task: the loss {loss!r} is not equal to a new one made from its fields")
