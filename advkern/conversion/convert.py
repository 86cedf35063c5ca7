"""``convert`` and ``revert``: one walk over one model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from advkern.conversion.probe import difference, disagreement, outputs
from advkern.conversion.report import Entry, Report
from advkern.conversion.rule import Rule, rules
from advkern.conversion.swap import Converted, swap, swap_back


def convert(model: nn.Module, *inputs: Any, **kwargs: Any) -> Report:
    """Let the modules of ``model`` that advkern computes faster run on its kernels, in place and nowhere else.

    Converted are ``torch.nn.MultiheadAttention``, timm's ``Attention``, PyTorch Geometric's ``GCNConv`` and ``GATConv``
    and the tutorial's classes, each only where both forms gave the same on a small input in float64. The modules stay
    the objects they were, with their parameters, keys, hooks and attributes: optimisers, checkpoints and references go
    on. Calls that the kernels do not serve run the original's code. What cannot be converted exactly is left.

    Args:
        model: may be convertible itself. Compiled and scripted modules are left: convert first, then compile.
        inputs, kwargs: sample inputs. A copy of the model without hooks is run on them in eval mode, in the current
            grad mode, before and after; random state, buffers and flags stay as they are.

    Returns:
        A line a module: name, action, reason; and the largest difference on the sample inputs.

    Raises:
        TypeError: a model that is no ``torch.nn.Module``.
    """
    _check(model)
    sampled = bool(inputs or kwargs)
    before = outputs(model, inputs, kwargs) if sampled else None
    entries = tuple(entry for name, module in _walk(model) for entry in _converted(name, module))
    if not sampled:
        return Report(entries)
    return Report(entries, difference(outputs(model, inputs, kwargs), before))


def revert(model: nn.Module) -> Report:
    """Undo :func:`convert`: every converted module of ``model`` gets its class back. Raises as it does."""
    _check(model)
    entries = []
    for name, module in model.named_modules():
        if isinstance(module, Converted):
            swap_back(module)
            entries.append(Entry(name, type(module).__name__, "reverted", "runs its own code again"))
    return Report(tuple(entries))


def _check(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")


def _walk(module: nn.Module, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Every module once under its first name, children first: a class of many looks at what they became."""
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    if _closed(module) is None:
        for key, child in module.named_children():
            yield from _walk(child, f"{name}.{key}" if name else key, seen)
    yield name, module


def _closed(module: nn.Module) -> str | None:
    """Why nothing inside ``module`` may change any more, if so."""
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted: convert the model before it is scripted"
    if type(module).__module__.startswith("torch._dynamo") or module._compiled_call_impl is not None:
        return "compiled: convert the model before it is compiled"
    return None


def _converted(name: str, module: nn.Module) -> Iterator[Entry]:
    """Convert one module where a rule knows it; nothing is said of those that none knows."""
    kind = type(module).__name__
    if isinstance(module, Converted):
        yield Entry(name, kind, "left", "is converted already")
        return
    closed = _closed(module)
    if closed is not None:
        yield Entry(name, kind, "left", closed)
        return
    for rule in rules():
        nearly = rule.kind(module)
        if nearly is None:
            continue
        reason = nearly or _obstacle(module, rule)
        if reason is None:
            swap(module, rule.converted)
        yield Entry(name, kind, "left" if reason else "converted", reason or rule.says)
        return


def _obstacle(module: nn.Module, rule: Rule) -> str | None:
    """Why a module of a known class cannot be converted exactly, or None."""
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    for parameter in module.parameters():
        if nn.parameter.is_lazy(parameter) or parameter.is_meta:
            return "its parameters have no values yet"
        if parameter.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            return f"the kernels do not take parameters of {parameter.dtype}"
    reason = rule.refusal(module)
    if reason is not None:
        return reason
    try:
        return disagreement(module, rule)
    except Exception as error:  # a user's class may fail in any way
        return f"it could not be tried on a small input: {type(error).__name__}: {error}"
