"""How one module is converted: the object stays, its class becomes a subclass of what it was.

Parameters, buffers, hooks, attributes, shared names and ``isinstance`` are then kept because nothing touches them, the
model itself can be converted as well as a child, and a call that the kernels do not serve goes to ``super().forward``,
which is the original's own code.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch import Tensor, nn

from advkern.nn._hooks import has_own_hooks


class Converted(nn.Module):
    """The base of the forwards that take an original's place; a converted module is an instance of one."""

    original: type[nn.Module]  # set in each class that `converted_class` makes

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the two classes that have names: the made one has none to be found by."""
        reduced: Any = super().__reduce_ex__(protocol)
        made = type(self)
        return (_make_empty, (made.__mro__[1], made.original), *reduced[2:])


@functools.cache
def converted_class(converted: Any, original: Any) -> type[Converted]:
    """Make the class of an ``original`` that runs with the forward of ``converted``.

    It goes by the original's name, which printed models, PyG's generated code and timm's patterns are made of.
    """
    names = {"__module__": original.__module__, "__qualname__": original.__qualname__, "__doc__": original.__doc__}
    return type(original.__name__, (converted, original), {**names, "original": original})


def _make_empty(converted: Any, original: Any) -> nn.Module:
    made = converted_class(converted, original)
    return made.__new__(made)


def swap(module: nn.Module, converted: Any) -> None:
    """Convert ``module``, in place."""
    original: Any = type(module)
    module.__class__ = converted_class(converted, original)


def swap_back(module: nn.Module) -> None:
    """Give a converted ``module`` the class it had."""
    module.__class__ = module.original  # type: ignore[assignment]  # a class attribute of Converted


def hooked(*modules: nn.Module | None) -> bool:
    """Whether a hook waits on one of the modules that a joined forward would not call.

    One on all modules there are does not count: torch's counter of FLOPs leaves such hooks, and the original's forward
    may not fit the memory.
    """
    return has_own_hooks(*(module for module in modules if module is not None))


@functools.cache
def eagerly(function: Any) -> Any:
    """Keep the compiler out of ``function``, which may be called between two compiled pieces of a model."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        compiler = sys.modules.get("torch._dynamo")  # slow to import, and absent where nothing is compiled
        return (function if compiler is None else _disabled(function))(*args, **kwargs)

    return call


@functools.cache
def _disabled(function: Any) -> Any:
    return torch.compiler.disable(function)


def is_plain_tensor(value: Any) -> bool:
    """A dense tensor and no subclass of it, whose operations may mean something else."""
    return type(value) in (Tensor, nn.Parameter) and not value.is_nested and not value.is_sparse
