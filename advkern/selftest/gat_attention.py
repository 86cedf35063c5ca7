"""``gat_attention`` beside its formula, edge by edge."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from advkern.graph import Graph
from advkern.ops import gat_attention
from advkern.reference.gat_attention import dropout_factor
from advkern.selftest._case import Case, Draw
from advkern.testing import power_law_graph

_SEED, _HEADS, _CHANNELS = 5, 8, 8


def cases(scale: int, device: torch.device) -> list[Case]:
    """Eight heads of eight channels on a graph with hubs and isolated nodes, without dropout and with it."""
    draw, num_nodes = Draw(device), 300 * scale
    graph = power_law_graph(num_nodes, 10 * num_nodes).to(device)
    tensors = {
        "h": draw.normal(num_nodes, _HEADS, _CHANNELS),
        "score_dst": draw.normal(num_nodes, _HEADS),
        "score_src": draw.normal(num_nodes, _HEADS),
    }
    return [
        Case(name, tensors, partial(_call, graph, p), partial(_formula, graph, p))
        for name, p in (("gat_attention", 0.0), ("gat_attention, dropout", 0.5))
    ]


def _call(graph: Graph, p: float, h: Tensor, score_dst: Tensor, score_src: Tensor) -> Tensor:
    torch.manual_seed(_SEED)
    out = gat_attention(graph, h, score_dst, score_src, dropout=p, training=True)
    assert isinstance(out, Tensor)  # a tuple only with return_lse
    return out


def _formula(graph: Graph, p: float, h: Tensor, score_dst: Tensor, score_src: Tensor) -> Tensor:
    target, source = graph.row.long(), graph.col.long()
    score = torch.nn.functional.leaky_relu(score_dst[target] + score_src[source], 0.2)
    places = target[:, None].expand_as(score)
    greatest = torch.full_like(score_dst, -torch.inf).scatter_reduce(0, places, score.detach(), "amax")
    weight = torch.exp(score - greatest[target])
    weight = weight / torch.zeros_like(score_dst).index_add(0, target, weight)[target]
    return torch.zeros_like(h).index_add(0, target, (weight * _keep(weight, p))[..., None] * h[source])


def _keep(weight: Tensor, p: float) -> Tensor | float:
    """What dropout multiplies with, from the seed that the op draws after the same ``manual_seed``."""
    if p == 0:
        return 1.0
    torch.manual_seed(_SEED)
    seed = torch.ops.advkern.seed(weight)
    return dropout_factor(weight, torch.arange(len(weight), device=weight.device), seed, round(p * 2**32))
