"""Any `torch.nn.Module` of the user's as a model."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from hpc_dmaml.importing import described, imported
from hpc_dmaml.models.model import Model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Module(Model):
    """A class or function of your own that makes a module, by its import path.

    It is called with `arguments`, and with `sample_shape` and `outputs` if it has parameters of these names.
    """

    imports: ClassVar[tuple[str, ...]] = ("path",)

    path: str = "torch.nn.Linear"
    """Import path, such as my_models.MyNet; the current folder is searched too."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class or function."""

    def build(self, sample_shape: tuple[int, ...], outputs: int) -> "nn.Module":
        from torch import nn

        make = self._found()
        shapes = {"sample_shape": sample_shape, "outputs": outputs}
        try:
            accepted = inspect.signature(make).parameters
            module = make(**{name: value for name, value in shapes.items() if name in accepted}, **self.arguments)
        except TypeError as error:
            raise ValueError(f"model.arguments do not fit {self.path}: {described(error)}") from error
        except Exception as error:
            raise ValueError(f"model: {self.path} cannot be made: {described(error)}") from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"model.path: {self.path} gives {type(module).__name__}, not a torch.nn.Module")
        return module

    def _found(self) -> Callable[..., Any]:
        """The class or function. torch.nn's own are looked up, not imported: even an untrusted file may name them."""
        from torch import nn

        if not self.path.startswith("torch.nn."):
            made = imported("model.path", self.path)
            if not callable(made):
                raise ValueError(f"model.path: {self.path} is a {type(made).__name__}, not a class or function")
            return made
        found = getattr(nn, self.path.rpartition(".")[2], None)
        if (
            isinstance(found, type)
            and issubclass(found, nn.Module)
            and found.__module__.startswith("torch.nn.modules.")
        ):
            if found.__module__.endswith((".rnn", ".sparse", ".transformer")):
                raise ValueError(f"model.path: {self.path} is not a model by itself: it does not map one tensor to one")
            if "device" in self.arguments:
                raise ValueError("model.arguments: the device is set for the job, not the model: use --device")
            if self.path in (f"torch.nn.{found.__name__}", f"{found.__module__}.{found.__name__}"):
                return found
        raise ValueError(f"model.path: cannot import {self.path!r}: torch.nn has no such module")
