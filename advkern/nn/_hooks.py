"""Who else is called when a module is called: where somebody is, its work cannot be done without calling it."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(*modules: nn.Module) -> bool:
    """Whether a hook waits on one of the modules, or on all modules there are."""
    return bool(nn.modules.module._has_any_global_hook()) or has_own_hooks(*modules)


def has_own_hooks(*modules: nn.Module) -> bool:
    """Whether a hook waits on one of the modules."""
    return any(getattr(module, hooks) for module in modules for hooks in _HOOKS)


def has_own_forward(*modules: nn.Module) -> bool:
    """Whether the ``forward`` of one of the modules was replaced, on it and not on its class."""
    return any("forward" in vars(module) for module in modules)


def is_untouched(module: nn.Module, kind: type[_Module]) -> TypeGuard[_Module]:
    """Whether it is of that very type (a parametrised module has one of its own) and calls nobody."""
    return type(module) is kind and not has_hooks(module) and not has_own_forward(module)
