"""``rk4`` in plain PyTorch: explicit Runge-Kutta steps, of any function and of ``W2 tanh(W1 y + b1) + b2``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Tableau(NamedTuple):
    """An explicit method. Row ``i`` says how much of each stage is in the next one's state, the last in the step."""

    rows: tuple[tuple[float, ...], ...]  # of 1, 2, ... numbers
    order: int

    @property
    def nodes(self) -> tuple[float, ...]:
        """At what part of the step each stage stands."""
        return (0.0, *(sum(row) for row in self.rows[:-1]))

    @property
    def numbers(self) -> list[float]:
        """The rows one after another, as the schema takes them."""
        return [number for row in self.rows for number in row]


TABLEAUS = {
    # Euler 1768, Institutiones calculi integralis
    "euler": Tableau(((1.0,),), 1),
    # Runge 1895, doi:10.1007/BF01446807
    "midpoint": Tableau(((1 / 2,), (0.0, 1.0)), 2),
    # Kutta 1901, Zeitschrift fuer Mathematik und Physik 46: the classical rule, and the 3/8 rule
    "rk4": Tableau(((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)), 4),
    "rk4_38": Tableau(((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0), (1 / 8, 3 / 8, 3 / 8, 1 / 8)), 4),
}


def rows_of(numbers: Sequence[float]) -> list[Sequence[float]]:
    """``Tableau.numbers`` as rows again."""
    rows: list[Sequence[float]] = []
    start = 0
    while start < len(numbers):
        rows.append(numbers[start : start + len(rows) + 1])
        start += len(rows[-1])
    return rows


def combine(y: Tensor, factor: Sequence[float | Tensor], *k: Tensor) -> Tensor:
    """``y + sum_j factor_j k_j``, half types summed in float32."""
    acc = accumulation_dtype(y.dtype)
    out = y.to(acc)
    for f, stage in zip(factor, k, strict=True):
        out = out + f * stage.to(acc)
    return out.to(y.dtype)


def rk4(
    y: Tensor,  # [samples, dim]
    weight1: Tensor,  # [hidden, dim]
    bias1: Tensor,  # [hidden]
    weight2: Tensor,  # [dim, hidden]
    bias2: Tensor,  # [dim]
    h: Tensor,  # [steps] or [steps, samples]
    save_at: Sequence[int],  # ascending, in [0, steps]
    tableau: Sequence[float],
    every: int = 0,
) -> tuple[Tensor, Tensor]:  # [len(save_at), samples, dim], [checkpoints, samples, dim]
    """The states after ``save_at`` steps, and those before each ``every``-th one for :func:`rk4_backward`."""
    network, rows = (weight1, bias1, weight2, bias2), rows_of(tableau)
    wanted = set(save_at)
    saved, checkpoints = {0: y}, []
    for n, length in enumerate(h):
        if every and n % every == 0:
            checkpoints.append(y)
        y, _ = _stages(y, network, length, rows)
        if n + 1 in wanted:
            saved[n + 1] = y
    none = y.new_empty(0, *y.shape)
    out = torch.stack([saved[n] for n in save_at]) if save_at else none
    return out, torch.stack(checkpoints) if checkpoints else none


def rk4_backward(
    grad: Tensor,  # [len(save_at), samples, dim]
    checkpoints: Tensor,  # [checkpoints, samples, dim]
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    h: Tensor,
    save_at: Sequence[int],
    tableau: Sequence[float],
    every: int,
) -> tuple[Tensor, ...]:
    """The gradients by y, the weights and h: each stretch between checkpoints is taken again, the last one first.

    With ``g_i`` the gradient by ``k_i`` and ``x_i`` the state that it was taken at: ``z_i = (W2^T g_i) (1 - a_i^2)``,
    ``grad x_i = W1^T z_i``, and by the weights the outer products of ``z_i`` and ``x_i``, of ``g_i`` and ``a_i``.
    """
    rows = rows_of(tableau)
    network = (weight1, bias1, weight2, bias2)
    grad_w1, grad_b1, grad_w2, grad_b2, grad_h = (torch.zeros_like(t) for t in (*network, h))
    grad_y = grad.new_zeros(grad.shape[1:])
    for begin in reversed(range(0, len(h), every or 1)):
        end = min(begin + every, len(h))
        taken, y = [], checkpoints[begin // every]
        for n in range(begin, end):
            y, stages = _stages(y, network, h[n], rows)
            taken.append(stages)
        for n in reversed(range(begin, end)):
            grad_y = grad_y + grad[[i for i, saved in enumerate(save_at) if saved == n + 1]].sum(0)
            grad_x: dict[int, Tensor] = {}
            for i, (x, a, k) in reversed(list(enumerate(taken[n - begin]))):
                # how much of k_i is in the step, and in the states after it
                share = rows[-1][i] * grad_y + sum(rows[j - 1][i] * grad_x[j] for j in grad_x)
                product = (share * k).sum(dim=-1)
                grad_h[n] += product if h.dim() > 1 else product.sum()
                g = _per_sample(h[n]) * share
                z = (g @ weight2) * (1 - a * a)
                grad_x[i] = z @ weight1
                grad_w1 += z.mT @ x
                grad_b1 += z.sum(0)
                grad_w2 += g.mT @ a
                grad_b2 += g.sum(0)
            grad_y = grad_y + sum(grad_x.values())
    grad_y = grad_y + grad[[i for i, saved in enumerate(save_at) if saved == 0]].sum(0)
    return grad_y, grad_w1, grad_b1, grad_w2, grad_b2, grad_h


def _stages(
    y: Tensor, network: tuple[Tensor, ...], h: Tensor, rows: Sequence[Sequence[float]]
) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """One step, and of each of its stages the state, the activations and the slope."""
    weight1, bias1, weight2, bias2 = network
    linear = torch.nn.functional.linear
    stages: list[tuple[Tensor, Tensor, Tensor]] = []
    state = y
    for row in rows:
        a = torch.tanh(linear(state, weight1, bias1))
        stages.append((state, a, linear(a, weight2, bias2)))
        state = y + _per_sample(h) * sum(factor * k for factor, (_, _, k) in zip(row, stages, strict=True) if factor)
    return state, stages


def _per_sample(h: Tensor) -> Tensor:
    return h[:, None] if h.dim() else h


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums of ``dtype`` are taken."""
    return torch.float64 if dtype == torch.float64 else torch.float32
