"""Which calls are worth a kernel: where a call is small, what surrounds a kernel costs more than it wins.

The limits were measured on two cores, at one and two threads; a call below them runs the original's code.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_QUERIES = 1024  # batch x heads x length
_EDGES_AT_FIRST_SIGHT = 32768  # from here on one call pays for building the graph

_always = False  # no ContextVar, which torch.compile does not trace; that another thread sees it costs time, no digit
_met: weakref.WeakKeyDictionary[nn.Module, tuple[weakref.ref[Tensor], int]] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def whatever_the_size() -> Iterator[None]:
    """Small calls take the kernels too: to see that they compute the same."""
    global _always
    before, _always = _always, True
    try:
        yield
    finally:
        _always = before


def pays(amount: float, limit: float) -> bool:
    """Whether a call is at least as large as ``limit``."""
    return _always or amount >= limit


def attention_pays(x: Tensor, heads: int) -> bool:
    """Whether self-attention of a batch of sequences is large enough."""
    return pays(x.shape[0] * x.shape[1] * heads, _QUERIES)


def graph_pays(layer: nn.Module, matrix: Tensor, num_edges: int) -> bool:
    """Whether the graph of ``matrix``, edge ids or an adjacency, is worth building for this layer.

    It is at once where it is large, else when the layer meets the same tensor a second time: the graph is then kept,
    while small graphs that come once, as in mini-batches, never pay for it.
    """
    if pays(num_edges, _EDGES_AT_FIRST_SIGHT):
        return True
    if matrix.is_inference():  # has no version, and no graph of it is kept
        return False
    now = matrix._version
    before: Any = _met.get(layer)
    if before is not None and before[0]() is matrix and before[1] == now:
        return True
    _met[layer] = (weakref.ref(matrix), now)
    return False


def takes_gradients(layer: nn.Module, x: Tensor) -> bool:
    """Whether a backward may follow."""
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in layer.parameters()))
