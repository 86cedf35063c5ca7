"""How an op enters torch: one schema, two overloads, one reference."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

FLOPS: dict[str, Callable[..., int]] = {}  # op -> its formula; see advkern.flops


def define(
    name: str,
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    flops: Callable[..., int] | None = None,
) -> dict[str, Any]:
    """Define ``advkern::<name>`` and ``advkern::<name>.torch``; return ``{backend: overload}``.

    The default overload is resolved by torch's dispatcher: a compiled kernel where one has registered itself,
    else the reference. ``.torch`` is always the reference. ``flops`` takes the arguments, each tensor's shape in its
    place, and counts as torch does: two for a multiplication and its addition, nothing for what is done elementwise.
    """
    for qualified in (f"advkern::{name}", f"advkern::{name}.torch"):
        torch.library.define(qualified, schema)
        torch.library.impl(qualified, "CompositeExplicitAutograd")(_as_kernel(reference))
        torch.library.register_fake(qualified)(fake)
    if flops is not None:
        FLOPS[name] = flops
    packet = getattr(torch.ops.advkern, name)
    for op in (packet.default, packet.torch):
        torch.library.register_vmap(op, _loop(op))
    return {"cpu": packet.default, "cuda": packet.default, "triton": packet.default, "torch": packet.torch}


class EagerFunction(torch.autograd.Function):
    """Base of the Functions that run eagerly, with the fixed cost of a call taken out.

    ``torch.autograd.Function.apply`` binds the arguments to the signature of ``forward`` anew at every call, two
    thirds of what a call on a small graph costs. ``torch.compile`` refuses such a class, and refuses a ``jvp``:
    compiled code gets the plain Functions, and these subclasses of them add both.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Call without binding, unless one of torch.func's transforms has to see the call."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)
        args = torch._functorch.utils.unwrap_dead_wrappers(args)
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]  # missing in torch's stubs


def _as_kernel(reference: Callable[..., Any]) -> Callable[..., Any]:
    """Let plain PyTorch behave as a kernel does.

    Without ``no_grad`` its lines would be a second, hidden derivative beside the autograd Function's; without
    ``autocast`` off its products would be taken in another type than the one the caller chose.
    """

    @functools.wraps(reference)
    def kernel(first: torch.Tensor, *rest: Any) -> Any:
        with torch.no_grad(), torch.autocast(first.device.type, enabled=False):
            return reference(first, *rest)

    return kernel


def _loop(op: Callable[..., Any]) -> Callable[..., Any]:
    """A batching rule that calls the op once a batch entry: the ops have no batch axis to fold it into."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        if info.batch_size == 0:
            raise ValueError("vmap: expected a batch of at least 1 entry, got 0")

        def entry(b: int) -> list[Any]:
            return [
                arg if dim is None else arg.select(dim, b).contiguous() for arg, dim in zip(args, in_dims, strict=True)
            ]

        results = [op(*entry(b)) for b in range(info.batch_size)]
        if isinstance(results[0], tuple):
            return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])
        return torch.stack(results), 0

    return rule
