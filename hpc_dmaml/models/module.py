"""Any `torch.nn.Module` of the user's: model-agnostic is the point."""

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
    """A module class or function of your own, by its import path.

    It is called with `arguments`, and with `sample_shape` and `outputs` where it takes parameters of these names.
    """

    imports: ClassVar[tuple[str, ...]] = ("path",)

    path: str = "torch.nn.Linear"
    """Import path, such as my_models.MyNet; the folder that you start from is searched too."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments."""

    def build(self, sample_shape: tuple[int, ...], outputs: int) -> "nn.Module":
        from torch import nn

        make = self._found()
        shapes = {"sample_shape": sample_shape, "outputs": outputs}
        try:
            accepted = inspect.signature(make).parameters
            module = make(**{name: value for name, value in shapes.items() if name in accepted}, **self.arguments)
        except TypeError as error:
            raise ValueError(f"model.arguments do not fit {self.path}: {error}") from error
        except Exception as error:
            raise ValueError(f"model: {self.path} cannot be made: {described(error)}") from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"model.path: {self.path} gives {type(module).__name__}, not a torch.nn.Module")
        return module

    def _found(self) -> Callable[..., Any]:
        """What makes the module. torch.nn's own are looked up and never imported: a file may name them, trusted or not."""
        from torch import nn

        made: Any
        if self.path.startswith("torch.nn."):
            made = getattr(nn, self.path.rpartition(".")[2], None)
            if not (isinstance(made, type) and issubclass(made, nn.Module) and made.__module__.startswith("torch.nn.")):
                raise ValueError(f"model.path: torch.nn has no module {self.path!r}")
            if self.path not in (f"torch.nn.{made.__name__}", f"{made.__module__}.{made.__name__}"):
                raise ValueError(
                    f"model.path: torch.nn has no module {self.path!r}; do you mean torch.nn.{made.__name__}?"
                )
        else:
            made = imported("model.path", self.path)
        if not callable(made):
            raise ValueError(f"model.path: {self.path} is a {type(made).__name__}, not a class or function")
        return made
