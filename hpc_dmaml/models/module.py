"""Any `torch.nn.Module` of the user's: model-agnostic is the point."""

import inspect
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpc_dmaml.models.model import Model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Module(Model):
    """A module class or function of your own, by its import path.

    It is called with `arguments`, and with `sample_shape` and `outputs` where it takes parameters of these names.
    """

    path: str = "torch.nn.Linear"
    """Import path, such as my_models.MyNet; the folder that you start from is searched too."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments."""

    def build(self, sample_shape: tuple[int, ...], outputs: int) -> "nn.Module":
        from torch import nn

        package, _, name = self.path.rpartition(".")
        try:
            make = getattr(import_module(package), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"model.path: cannot import {self.path!r}: {error}") from error
        shapes = {"sample_shape": sample_shape, "outputs": outputs}
        try:
            accepted = inspect.signature(make).parameters
            module = make(**{name: value for name, value in shapes.items() if name in accepted}, **self.arguments)
        except TypeError as error:
            raise ValueError(f"model.arguments do not fit {self.path}: {error}") from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"model.path: {self.path} gives {type(module).__name__}, not a torch.nn.Module")
        return module
