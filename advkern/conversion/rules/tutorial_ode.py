"""The tutorial's ``NeuralODE`` around its ``ODEFunc``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from advkern.conversion.rule import Rule, tutorial_class
from advkern.conversion.swap import Converted, is_plain_tensor
from advkern.nn.ode import network_weights
from advkern.ops._odeint import integrate


class ConvertedNeuralODE(Converted):
    """All steps in one kernel, as many as the tutorial takes: ``int((t1 - t0) / step_size)``, the last one dropped."""

    def forward(self, x: Tensor, t_span: Any) -> Tensor:
        """Integrate ``x: [..., dim]`` from ``t_span[0]`` on."""
        own: Any = self
        t0, t1 = t_span
        numbers = isinstance(t0, (int, float)) and isinstance(t1, (int, float))
        steps = int((t1 - t0) / own.step_size) if numbers and own.step_size > 0 else 0
        network = _Network(own.func)
        if steps < 1 or not is_plain_tensor(x) or isinstance(network.fused_weights(), str):
            return super().forward(x, t_span)
        span = (t0, t0 + steps * own.step_size)
        return integrate(network, x, span, own.solver, own.step_size, final_only=True)  # type: ignore[return-value]


class _Network:
    """A user's ``ODEFunc`` for the integrator: its forward was seen to be its net's."""

    def __init__(self, func: nn.Module) -> None:
        self.func = func

    def __call__(self, t: Tensor, x: Tensor) -> Any:
        return self.func(t, x)

    def fused_weights(self) -> tuple[Tensor, ...] | str:
        return network_weights(self.func)


def _refusal(module: Any) -> str | None:
    if module.solver not in ("euler", "rk4"):
        return f"solver {module.solver!r} is none of the tutorial's"
    if type(module.func).__name__ != "ODEFunc":
        return f"its func is a {type(module.func).__name__}, no ODEFunc: its steps have no kernel"
    weights = network_weights(module.func)
    return weights if isinstance(weights, str) else None


def _probe(module: Any, generator: torch.Generator) -> tuple[Any, ...]:
    width = module.func.net[0].in_features
    x = torch.randn(3, width, generator=generator, dtype=torch.float64)
    return x, (0.25, 0.25 + 3.5 * module.step_size)  # of three and a half steps it takes three


RULES = [
    Rule(
        tutorial_class("NeuralODE", modules=("func",)),
        ConvertedNeuralODE,
        _refusal,
        _probe,
        "all steps in one kernel, as many as it took; its own lines where times are tensors or no step fits",
        dropouts=lambda module: [],
    )
]
