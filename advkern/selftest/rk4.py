"""``odeint`` and ``rk4_step`` beside the classical rule as textbooks write it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from advkern.nn import ODEFunc
from advkern.ops import odeint, rk4_step
from advkern.selftest._case import Case, Draw

_DIM, _HIDDEN, _STEPS, _STEP = 6, 12, 16, 0.125


def cases(scale: int, device: torch.device) -> list[Case]:
    """A network's integration in one kernel, any function's over times that have gradients, and one step of it."""
    samples = 100 * scale
    return [_network(Draw(device), samples), _any_function(Draw(device), samples), _one_step(Draw(device), samples)]


def _network(draw: Draw, samples: int) -> Case:
    tensors = {
        "y": draw.normal(samples, _DIM),
        "weight1": draw.normal(_HIDDEN, _DIM, scale=_DIM**-0.5),
        "bias1": draw.normal(_HIDDEN),
        "weight2": draw.normal(_DIM, _HIDDEN, scale=_HIDDEN**-0.5),
        "bias2": draw.normal(_DIM),
    }

    def call(y: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        func = ODEFunc(_DIM, hidden_dim=_HIDDEN)
        for layer, weight, bias in ((func.net[0], weight1, bias1), (func.net[2], weight2, bias2)):
            del layer.weight, layer.bias
            layer.weight, layer.bias = weight, bias  # no parameters: the caller's own tensors get the gradients
        return _tensor(odeint(func, y, (0.0, _STEPS * _STEP), step_size=_STEP))

    def formula(y: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        func = lambda t, x: linear(torch.tanh(linear(x, weight1, bias1)), weight2, bias2)
        end = y
        for _ in range(_STEPS):
            end = _classical(func, 0.0, end, _STEP)
        return torch.stack([y, end])

    return Case("odeint of a network", tensors, call, formula)


def _any_function(draw: Draw, samples: int) -> Case:
    tensors = {"y": draw.uniform(samples, _DIM, low=1, high=2), "t": draw.uniform(5, low=0.25, high=0.5).cumsum(0)}

    def call(y: Tensor, t: Tensor) -> Tensor:
        return _tensor(odeint(_swing, y, t))

    def formula(y: Tensor, t: Tensor) -> Tensor:
        states = [y]
        for k in range(len(t) - 1):
            states.append(_classical(_swing, t[k], states[-1], t[k + 1] - t[k]))
        return torch.stack(states)

    return Case("odeint of any function", tensors, call, formula)


def _one_step(draw: Draw, samples: int) -> Case:
    tensors = {"y": draw.uniform(samples, _DIM, low=1, high=2), "dt": draw.uniform(1, low=0.25, high=0.5)}

    def call(y: Tensor, dt: Tensor) -> Tensor:
        return rk4_step(_swing, 0.5, y, dt[0])

    def formula(y: Tensor, dt: Tensor) -> Tensor:
        return _classical(_swing, 0.5, y, dt[0])

    return Case("rk4_step", tensors, call, formula)


def _swing(t: float | Tensor, y: Tensor) -> Tensor:  # negative for y above 1: no gradient is a small difference
    return torch.sin(y) * t - y


def _classical(func: Callable[..., Tensor], t: float | Tensor, y: Tensor, dt: float | Tensor) -> Tensor:
    k1 = func(t, y)
    k2 = func(t + dt / 2, y + dt * k1 / 2)
    k3 = func(t + dt / 2, y + dt * k2 / 2)
    k4 = func(t + dt, y + dt * k3)
    return y + dt * (k1 + 2 * k2 + 2 * k3 + k4) / 6


def _tensor(states: Tensor | tuple[Tensor, ...]) -> Tensor:
    assert isinstance(states, Tensor)  # a tuple only for a tuple of states
    return states
