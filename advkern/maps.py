"""Attention maps that take no time until they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

# What a wrapper tells of itself; whatever else is asked of it needs the values.
_KNOWN = {getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "layout", "requires_grad", "ndim")} | {
    Tensor.size,
    Tensor.dim,
    Tensor.ndimension,
    Tensor.numel,
    Tensor.nelement,
    Tensor.__len__,
    Tensor.is_floating_point,
    Tensor.is_complex,
    Tensor.get_device,
    Tensor.element_size,
}


class MapSource(Protocol):
    """What a forward keeps so that its attention can be computed afterwards."""

    def dense(self) -> Tensor:
        """Compute the map."""


class AttentionMap(torch.Tensor):
    """One attention map, a tensor that is computed when it is first read.

    ``shape``, ``dtype``, ``device``, ``dim()``, ``len()``, ``repr()`` and ``requires_grad`` compute nothing. Every
    other use computes the dense tensor, once, in the grad mode of the forward that gave the map, and goes on with it;
    what comes of it are plain tensors. Until then the map keeps what the forward saved for it, with its autograd graph:
    :meth:`release` lets go of that.
    """

    _source: MapSource | None
    _dense: Tensor | None
    _with_grad: bool

    @staticmethod
    def __new__(
        cls, source: MapSource, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, requires_grad: bool
    ) -> AttentionMap:
        """Make the map that ``source`` can compute."""
        wrapper = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device, requires_grad=requires_grad)
        wrapper._source, wrapper._dense, wrapper._with_grad = source, None, torch.is_grad_enabled()
        return wrapper

    def __init__(self, *args: Any) -> None:
        super().__init__()

    def dense(self) -> Tensor:
        """Return the values as a plain tensor; computed at the first call."""
        if self._dense is None:
            source = self._kept()
            with torch.set_grad_enabled(self._with_grad), torch.autocast(self.device.type, enabled=False):
                self._dense = source.dense()
        return self._dense

    def release(self) -> None:
        """Forget the values and what they would be computed from."""
        self._source = self._dense = None

    def _kept(self) -> Any:
        if self._source is None:
            raise RuntimeError("AttentionMap: release() was called on this map: its values are gone")
        return self._source

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # torch's is untyped
        state = "released" if self._source is None else "computed" if self._dense is not None else "not computed"
        return f"{type(self).__name__}({list(self.shape)}, {self.dtype}, {state})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer what is known of the map; for everything else put the values in its place."""
        if func in _KNOWN:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        return func(*_read(args, AttentionMap.dense), **_read(kwargs or {}, AttentionMap.dense))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub names other types
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Where only C++ saw the map: the values again, without a derivative."""
        values = lambda each: each.dense().detach()
        return func(*_read(args, values), **_read(kwargs or {}, values))


def _read(arguments: Any, values: Callable[[AttentionMap], Tensor]) -> Any:
    """Put values in the place of maps, also of those in lists (ours are no pytrees), tuples and dicts."""
    if isinstance(arguments, AttentionMap):
        return values(arguments)
    if isinstance(arguments, dict):
        return {key: _read(value, values) for key, value in arguments.items()}
    if isinstance(arguments, (list, tuple)):
        kind = tuple if isinstance(arguments, tuple) else list
        return kind(_read(each, values) for each in arguments)
    return arguments


class AttentionMaps(list):
    """The attention maps of a model, one a head or layer: a list of :class:`AttentionMap`."""

    def __init__(self, maps: Iterable[AttentionMap] = ()) -> None:
        super().__init__(maps)

    def release(self) -> None:
        """Forget the values of every map and what they would be computed from."""
        for each in self:
            each.release()


class EdgeAttentionMap(AttentionMap):
    """The ``[N, N]`` map of one head over a graph: row *i* holds what node *i* pays its neighbours, and sums to 1."""

    @property
    def edge_weights(self) -> Tensor:
        """``[E]``: the attention of each edge, in the order in which the edges were given."""
        source = self._kept()
        with torch.set_grad_enabled(self._with_grad), torch.autocast(self.device.type, enabled=False):
            return source.edge_weights()


class EdgeAttentionMaps(AttentionMaps):
    """The maps of all heads over a graph."""

    @property
    def edge_weights(self) -> Tensor:
        """``[E, H]``: the attention of each edge and head, in the order in which the edges were given."""
        return torch.stack([each.edge_weights for each in self], dim=1)
