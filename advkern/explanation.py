"""``advkern.explain``: which backend every op of a call takes, and why not another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from advkern import backend


@dataclass(frozen=True)
class Choice:
    """What one op takes for tensors of one device, or of one type too where its kernels differ in it."""

    op: str
    device: str
    dtype: torch.dtype | None
    backend: str | None  # None: the call is an error
    because: str
    against: dict[str, str]  # every other backend -> the reason against it

    def __str__(self) -> str:
        tensors = f"{self.device} tensors" if self.dtype is None else f"{self.device} tensors of {self.dtype}"
        lines = [f"{self.op} takes {self.backend or 'no backend'} for {tensors}: {self.because}"]
        lines += [f"  not {name}: {reason}" for name, reason in self.against.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found: the choices in the order in which the call came to them, and the ops' own words."""

    called: str
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        if not self.choices and not self.notes:
            return f"{self.called}: no op of advkern was called"
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([f"{self.called}:", *map(str, self.choices), *notes])


def explain(op_or_module: Callable[..., Any], *inputs: Any, **kwargs: Any) -> Explanation:
    """Call an op or a module once, and tell which backend every op in it took and why not another.

    The call is a real one, of the given inputs in the current grad mode, but random state and the module's buffers are
    left as they were, compiled code runs uncompiled, and an op whose choice would be an error (an asked backend that
    cannot run, ``ADVKERN_STRICT``) is told as such and goes on in plain PyTorch, so that all are seen.

    Args:
        op_or_module: a function of ``advkern.ops``, a module, or any callable that uses them.
        inputs, kwargs: what it is called with.

    Returns:
        The explanation, which is printed as well.

    Raises:
        TypeError: something that cannot be called, or inputs of a wrong kind.
        ValueError: inputs that the op refuses, or a wrong ``ADVKERN_BACKEND``.
    """
    if not callable(op_or_module):
        raise TypeError(f"op_or_module: expected an op of advkern.ops or a module, got {type(op_or_module).__name__}")
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with backend.recording() as record, torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
        if isinstance(op_or_module, nn.Module):
            buffers = {name: buffer.clone() for name, buffer in op_or_module.named_buffers()}
            torch.func.functional_call(op_or_module, buffers, inputs, kwargs)
        else:
            op_or_module(*inputs, **kwargs)
    choices = tuple(_choice(*key, decision) for key, decision in record.decisions.items())
    called = getattr(op_or_module, "__name__", type(op_or_module).__name__)
    explanation = Explanation(called, choices, tuple(record.notes))
    print(explanation)
    return explanation


def _choice(op: str, device: str, dtype: torch.dtype | None, decision: backend.Decision) -> Choice:
    taken, because, _ = decision
    passed_over = f"can run, but {taken} comes first" if taken else "can run, but no fallback is allowed"
    others = (name for name in backend.BACKENDS if name != taken)
    against = {name: backend.why_not(op, name, device, dtype) or passed_over for name in others}
    return Choice(op, device, dtype, taken, because, against)
