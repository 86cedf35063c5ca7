"""What an op is tested with: tensors, the public call, and the same written out in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    """One use of an op; of tensors that are no floats, results are compared bit by bit and have no gradient."""

    name: str
    tensors: dict[str, Tensor]  # float64, or ids
    call: Callable[..., Tensor | tuple[Tensor, ...]]  # the public function, of the tensors by name
    formula: Callable[..., Tensor | tuple[Tensor, ...]]  # plain PyTorch, of the tensors by name, in their type

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """The types to test."""
        kinds = {t.dtype for t in self.tensors.values()}
        return FLOATS if torch.float64 in kinds else tuple(kinds)

    def to(self, dtype: torch.dtype) -> Case:
        """Return the case with its tensors in another type."""
        return replace(self, tensors={name: t.to(dtype) for name, t in self.tensors.items()})

    def prepared(self, function: Callable[..., Tensor | tuple[Tensor, ...]]) -> Callable[[], dict[str, Tensor]]:
        """Return a call that gives what ``function`` returns, and the gradients of its product with fixed numbers."""
        leaves = {name: t.clone().requires_grad_(t.is_floating_point()) for name, t in self.tensors.items()}
        cotangent: list[Tensor] = []  # drawn once, so that a timed call is free of it

        def call() -> dict[str, Tensor]:
            returned = function(**leaves)
            if isinstance(returned, tuple):
                return {f"output {k}": part for k, part in enumerate(returned)}
            if not cotangent:
                drawn = torch.rand(returned.shape, generator=torch.Generator().manual_seed(1))
                cotangent.append((0.5 + drawn).to(returned))  # positive: sums over samples cancel less
            grads = torch.autograd.grad(returned, list(leaves.values()), cotangent[0])
            return {"output": returned.detach()} | {f"grad_{name}": g for name, g in zip(leaves, grads, strict=True)}

        return call

    def results(self, function: Callable[..., Tensor | tuple[Tensor, ...]]) -> dict[str, Tensor]:
        """Output and gradients by name."""
        return self.prepared(function)()


class Draw:
    """Random numbers that are the same on every device: drawn on the CPU, float64."""

    def __init__(self, device: torch.device) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._device = device

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normally distributed, of deviation ``scale``."""
        return (scale * torch.randn(*shape, generator=self._generator, dtype=torch.float64)).to(self._device)

    def uniform(self, *shape: int, low: float, high: float) -> Tensor:
        """Uniform in ``[low, high)``."""
        drawn = torch.rand(*shape, generator=self._generator, dtype=torch.float64)
        return (low + (high - low) * drawn).to(self._device)

    def ids(self, count: int, end: int) -> Tensor:
        """Integers in ``[0, end)``, int64."""
        return torch.randint(end, (count,), generator=self._generator).to(self._device)
