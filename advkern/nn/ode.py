"""Neural ordinary differential equations (Chen et al. 2018, arXiv:1806.07366)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from advkern.nn._hooks import has_hooks, has_own_forward
from advkern.ops._odeint import check_method, check_step_size, integrate


class ODEFunc(nn.Module):
    """The right-hand side ``f(t, x) = W2 tanh(W1 x + b1) + b2``, which does not depend on t.

    ``t: [], x: [..., dim] -> [..., dim]``.

    Args:
        dim: channels of the state.
        hidden_dim: channels between; None: ``2 * dim``.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, dim: int, *, hidden_dim: int | None = None) -> None:
        super().__init__()
        hidden_dim = 2 * dim if hidden_dim is None else hidden_dim
        for name, size in (("dim", dim), ("hidden_dim", hidden_dim)):
            if size < 1:
                raise ValueError(f"{name}: expected a size of at least 1, got {size}")
        self.net = nn.Sequential(nn.Linear(dim, hidden_dim), nn.Tanh(), nn.Linear(hidden_dim, dim))

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """Return the slope at ``x``."""
        return self.net(x)

    def fused_weights(self) -> tuple[Tensor, ...] | str:
        """Weights and biases where this is the network above and nothing else, else why it is not."""
        if type(self) is not ODEFunc:
            return f"{type(self).__name__} has a forward of its own"
        return network_weights(self)


def network_weights(func: nn.Module) -> tuple[Tensor, ...] | str:
    """Weights and biases of a ``func`` that calls its ``net``, a Linear, Tanh, Linear, else why it is none."""
    net = func._modules.get("net")
    if has_own_forward(func):
        return f"{type(func).__name__} has a forward of its own"
    if type(net) is not nn.Sequential or [type(m) for m in net] != [nn.Linear, nn.Tanh, nn.Linear]:
        return "its net is not Linear, Tanh, Linear any more"
    modules = (func, net, *net)
    if has_hooks(*modules):
        return "a hook is registered on it"
    if has_own_forward(*modules):
        return "a forward was replaced"
    weights = tuple(getattr(layer, name) for layer in (net[0], net[2]) for name in ("weight", "bias"))
    return "a bias is missing" if any(w is None for w in weights) else weights


class NeuralODE(nn.Module):
    """The state at the end of ``dx/dt = func(t, x)``, or at several times.

    ``x: [..., dim], t_span: (t0, t1) -> [..., dim]``; more than two times give the trajectory ``[T, ...]``, the first
    of it ``x``. Gradients are exact for the scheme, for ``x``, ``func`` and times that are tensors; with an
    :class:`ODEFunc` they take the memory of ``sqrt(steps)`` states.

    Args:
        func: called as ``func(t, x)`` with t a tensor ``[]``; an :class:`ODEFunc` runs inside one kernel.
        solver: "euler", "midpoint", "rk4" or "rk4_38", as in :func:`advkern.ops.odeint`.
        step_size: length of the steps; the last one is shortened so as to land on each time.

    Raises:
        ValueError: an unknown solver, a step size that is not positive; in the call, repeated or unordered times.

    Chen, Rubanova, Bettencourt and Duvenaud 2018, "Neural ordinary differential equations", arXiv:1806.07366.
    """

    def __init__(self, func: nn.Module, solver: str = "euler", step_size: float = 0.1) -> None:
        super().__init__()
        check_method("solver", solver)
        check_step_size(step_size)
        self.func = func
        self.solver = solver
        self.step_size = step_size

    def forward(self, x: Any, t_span: Tensor | Sequence[float | Tensor]) -> Any:
        """Integrate from the first time of ``t_span`` to the last."""
        if len(t_span) < 2:
            raise ValueError(f"t_span: expected at least two times, got {len(t_span)}")
        check_method("solver", self.solver)
        return integrate(self.func, x, t_span, self.solver, self.step_size, final_only=len(t_span) == 2)

    def extra_repr(self) -> str:
        """The method, for ``print(model)``."""
        return f"solver={self.solver!r}, step_size={self.step_size}"
