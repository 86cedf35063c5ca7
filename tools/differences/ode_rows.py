"""Neural ODE."""

from __future__ import annotations

from typing import Any

import torch
from rows import refusal, rows_of
from torch import Tensor, nn

ode = rows_of("Neural ODE")


class Decay(nn.Module):
    """dx/dt = -x, which counts its calls and keeps the times."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[Any] = []

    def forward(self, t: Any, x: Tensor) -> Tensor:
        """Return the slope."""
        self.times.append(t)
        return -x


ONE = torch.ones(1, 1, dtype=torch.float64)


@ode
def steps(lib: Any) -> str:
    """dx/dt = -x from 1, in the tutorial's ten segments of ten steps of 0.01: steps taken, x(1) for 0.3679

    `int((t1 - t0) / h)` drops steps. Here the last one is shortened so as to land on t1.
    """
    func = Decay()
    model, x = lib.NeuralODE(func, "rk4", 0.01), ONE
    for k in range(10):
        x = model(x, (k / 10, (k + 1) / 10))
    return f"{len(func.times) // 4} of 100, {x.item():.4f}"


@ode
def in_place(lib: Any) -> str:
    """a tensor t0 = 0, after a call up to 1; and what a second call then makes of x = 1

    `t0 += h` changes the caller's tensor.
    """
    model, t0, t1 = lib.NeuralODE(Decay(), "rk4", 0.1), torch.tensor(0.0), torch.tensor(1.0)
    model(ONE, (t0, t1))
    return f"t0 = {t0.item():.1f}, {model(ONE, (t0, t1)).item():.4f}"


@ode
def backwards(lib: Any) -> str:
    """from 1 back to 0: x = 1 becomes

    e = 2.7183.
    """
    return f"{lib.NeuralODE(Decay(), 'rk4', 0.1)(ONE, (1.0, 0.0)).item():.4f}"


@ode
def long_step(lib: Any) -> str:
    """a step of 1 over a span of 0.5: x = 1 becomes

    exp(-0.5) = 0.6065; one step of the span's length.
    """
    return f"{lib.NeuralODE(Decay(), 'rk4', 1.0)(ONE, (0.0, 0.5)).item():.4f}"


@ode
def no_step(lib: Any) -> str:
    """`step_size=0`

    Here in the constructor.
    """
    return f"{lib.NeuralODE(Decay(), 'rk4', 0.0)(ONE, (0.0, 1.0)).item()}"


@ode
def time_type(lib: Any) -> str:
    """what `func` gets as t; its gradients to t0 and t1

    A tensor on x's device.
    """
    func = Decay()
    lib.NeuralODE(func, "rk4", 0.5)(ONE, (0.0, 1.0))
    t0, t1 = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (0.0, 1.0))
    x = ONE.clone().requires_grad_()
    out = lib.NeuralODE(Decay(), "rk4", 0.5)(x, (t0 + 0, t1 + 0))
    grads = torch.autograd.grad(out.sum(), (t0, t1), allow_unused=True)
    return f"{type(func.times[0]).__name__}; {sum(grad is not None for grad in grads)} of 2"


@ode
def equal_times(lib: Any) -> str:
    """t0 = t1"""
    return f"x comes back: {lib.NeuralODE(Decay(), 'rk4', 0.1)(ONE, (1.0, 1.0)).item()}"


@ode
def solver(lib: Any) -> str:
    """an unknown solver"""
    return refusal(lambda: lib.NeuralODE(Decay(), "heun"), lambda model: model(ONE, (0.0, 1.0)))


@ode
def autocast(lib: Any) -> str:
    """an `ODEFunc` under bfloat16 autocast: largest change of the result

    Integrated in the state's own type.
    """
    model, x = lib.NeuralODE(lib.ODEFunc(4), "rk4", 0.1), torch.randn(64, 4)
    with torch.no_grad():
        exact = model(x, (0.0, 1.0))
        with torch.autocast("cpu", torch.bfloat16):
            change = (model(x, (0.0, 1.0)) - exact).abs().max().item()
    return f"{change:.0e}" if change else "0"
