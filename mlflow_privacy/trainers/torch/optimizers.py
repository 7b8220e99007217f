"""Optimizers of `torch.optim` whose steps do not import `torch._dynamo`.

`zero_grad`, `add_param_group` and `step` of `torch.optim` are wrapped so that `torch.compile` leaves them alone, and
the wrappers import the compiler (about 1,000 modules, SymPy among them: a second) even where nothing is compiled. What
they wrap is kept in `__wrapped__`; a subclass that calls it directly computes the same numbers.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from mlflow_privacy.trainers.torch.private import unwrapped


@functools.cache
def without_compiler(cls: Any) -> Any:
    """A subclass of an optimizer's class that does the same without `torch._dynamo`; `cls` itself if it cannot be had.

    The class keeps its name; its instances are instances of `cls`, with the same state and the same hooks. A method in
    an unknown wrapper, as another version of torch may have it, is left as it is, and the class with it.

    Args:
      cls: a class of `torch.optim`.

    Example:
      >>> weight = torch.nn.Parameter(torch.ones(1))
      >>> optimizer = without_compiler(torch.optim.SGD)([weight], lr=0.5)
      >>> (3 * weight).sum().backward()
      >>> optimizer.step()
      >>> weight.item(), isinstance(optimizer, torch.optim.SGD)
      (-0.5, True)
    """
    bare = {name: unwrapped(getattr(cls, name, None)) for name in ("step", "zero_grad", "add_param_group")}
    if None in bare.values():
        return cls

    def step(self: Any, closure: Any = None) -> Any:
        """As the wrapper does it: gradients of the step itself are kept only for a differentiable optimizer."""
        with torch.set_grad_enabled(bool(self.defaults.get("differentiable", False))):
            return bare["step"](self, closure)  # type: ignore[misc]

    methods = {**bare, "step": functools.wraps(bare["step"])(step)}  # type: ignore[arg-type]
    return type(cls.__name__, (cls,), {**methods, "__module__": __name__, "__doc__": cls.__doc__})
