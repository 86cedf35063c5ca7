"""Whether two forms of a module compute the same: copies of them are run, so that nothing of the model is disturbed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from advkern.conversion.rule import Rule
from advkern.conversion.swap import Converted, swap, swap_back
from advkern.maps import AttentionMap

_ALLOWED = 1e-9  # of the largest value, in float64: rounding is 1e-15, another formula is not
_CONTAINERS = (list, dict, set)


def bare_copy(module: nn.Module, dtype: torch.dtype | None = None, memo: dict[int, Any] | None = None) -> Any:
    """Copy ``module`` without its hooks; with ``dtype`` the parameters are copied to the CPU in it, else shared."""
    memo = {} if memo is None else memo
    if id(module) in memo:
        return memo[id(module)]
    bare = memo[id(module)] = object.__new__(type(module))
    bare.__dict__ = {k: copy.copy(v) if type(v) in _CONTAINERS else v for k, v in module.__dict__.items()}
    for name, value in module.__dict__.items():
        if name.endswith("_hooks"):
            bare.__dict__[name] = type(value)()
    held: Any = module._parameters
    bare._parameters = {k: _copied(p, dtype) for k, p in held.items()} if dtype else dict(held)
    bare._buffers = {k: _copied(b, dtype) for k, b in module._buffers.items()}
    bare._modules = {k: m if m is None else bare_copy(m, dtype, memo) for k, m in module._modules.items()}
    return bare


def _copied(tensor: Tensor | None, dtype: torch.dtype | None) -> Any:
    if tensor is None or dtype is None:
        return tensor if tensor is None else tensor.detach().clone()
    copied = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
    return nn.Parameter(copied) if isinstance(tensor, nn.Parameter) else copied


class _WithoutDropout(TorchFunctionMode):
    """Dropout gives back what it gets; its probabilities are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.dropout:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("input", "p", "training"), args, strict=False)) | (kwargs or {})
        if given.get("training", True) and given.get("p", 0.5) > 0:
            self.seen.append(given.get("p", 0.5))
        return given["input"]


def disagreement(module: nn.Module, rule: Rule) -> str | None:
    """Run both forms in float64 on small inputs; say where they part, or None."""
    original = bare_copy(module, torch.float64).eval()
    inputs = rule.probe(original, torch.Generator().manual_seed(0))
    ours = bare_copy(original)
    swap(ours, rule.converted)
    for part in original.modules():
        if isinstance(part, Converted):
            swap_back(part)
    with torch.random.fork_rng(devices=()), torch.no_grad(), torch.autocast("cpu", enabled=False):
        expected = original(*inputs)
        largest = max((float(t.abs().max()) for t in tensors_of(expected) if t.numel()), default=0.0)
        actual = ours(*inputs)
        if not difference(actual, expected) <= _ALLOWED * max(largest, 1.0):
            return "on a small input its results are others than those of the class it looks like"
        if rule.dropouts is None:
            return None
        with _WithoutDropout() as dropout:
            in_training = original.train()(*inputs)
    if not difference(in_training, expected) <= _ALLOWED * max(largest, 1.0):
        return "in training it does more than drop out"
    if sorted(dropout.seen) != sorted(p for p in rule.dropouts(module) if p > 0):
        return f"in training it drops out with {sorted(dropout.seen)}, its class with {sorted(rule.dropouts(module))}"
    return None


def outputs(model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a copy of the model in eval mode; random state, buffers, flags and hooks stay as they are."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        return bare_copy(model).eval()(*inputs, **kwargs)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor of a result."""
    if isinstance(value, AttentionMap):
        yield value.dense().detach()
    elif isinstance(value, Tensor):
        yield value.detach()
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors_of(each)
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))


def difference(actual: Any, expected: Any) -> float:
    """The largest difference between two results; infinite where shapes or numbers of tensors differ."""
    pairs = list(tensors_of(actual)), list(tensors_of(expected))
    if [t.shape for t in pairs[0]] != [t.shape for t in pairs[1]]:
        return float("inf")
    apart = [(a.double() - e.double()).abs().max() for a, e in zip(*pairs, strict=True) if a.numel()]
    return float(torch.stack([each.cpu() for each in apart]).max()) if apart else 0.0
