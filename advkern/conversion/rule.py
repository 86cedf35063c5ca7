"""What a source of convertible modules declares, and how its rules are found."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from advkern.conversion.swap import Converted


@dataclass(frozen=True)
class Rule:
    """One class that can be converted. ``advkern/conversion/rules`` holds one list ``RULES`` a file."""

    kind: Callable[[nn.Module], str | None]  # "": one of them; a reason: nearly one; None: something else
    converted: type[Converted]
    refusal: Callable[[nn.Module], str | None]  # why this one cannot be converted exactly
    probe: Callable[[Any, torch.Generator], tuple[Any, ...]]  # inputs on which copies of both forms must agree
    says: str  # what runs once it is converted, and when the original does
    dropouts: Callable[[Any], list[float]] | None = None  # what a user's class must draw in training; None: a library's


@functools.cache
def rules() -> tuple[Rule, ...]:
    """Every rule there is."""
    package = importlib.import_module("advkern.conversion.rules")
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    found = [importlib.import_module(f"{package.__name__}.{name}").RULES for name in names]
    return tuple(rule for each in found for rule in each)


def library_class(*paths: str) -> Callable[[nn.Module], str | None]:
    """Recognise exactly the class at one of ``paths``, by name: the library is not imported."""

    def kind(module: nn.Module) -> str | None:
        mro = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(module).__mro__]
        if mro[0] in paths:
            return ""
        parents = [path for path in mro[1:] if path in paths]
        return f"a subclass of {parents[0]}, whose forward may be another" if parents else None

    return kind


def tutorial_class(name: str, *, parameters: tuple[str, ...] = (), modules: tuple[str, ...] = ()) -> Any:
    """Recognise a class that somebody typed: by its name, the parameters and modules it holds, and by no more."""

    def kind(module: nn.Module) -> str | None:
        if type(module).__name__ != name or type(module).__module__.startswith("advkern."):
            return None
        own = ({k for k, p in module._parameters.items() if p is not None}, set(module._modules))
        if own != (set(parameters), set(modules)) or any(True for _ in module.buffers(recurse=False)):
            return f"a {name} of another structure than the tutorial's: holds {sorted(own[0] | own[1])}"
        return ""

    return kind
