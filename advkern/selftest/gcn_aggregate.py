"""``gcn_aggregate`` beside the product with a dense matrix."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from advkern.graph import Graph
from advkern.ops import gcn_aggregate
from advkern.selftest._case import Case, Draw
from advkern.testing import power_law_graph


def cases(scale: int, device: torch.device) -> list[Case]:
    """A layer of Kipf and Welling 2017 on a graph with hubs and isolated nodes, without edge weights and with them."""
    draw, num_nodes, channels = Draw(device), 300 * scale, 33
    graph = power_law_graph(num_nodes, 10 * num_nodes).to(device)
    layer = {"x": draw.normal(num_nodes, channels), "bias": draw.normal(channels)}
    weighted = layer | {"weight": draw.uniform(graph.num_edges, low=0.1, high=1.1)}
    call, formula = partial(_call, graph), partial(_formula, graph)
    return [
        Case("gcn_aggregate", layer, call, formula),
        Case("gcn_aggregate, weights", weighted, call, formula),
    ]


def _call(graph: Graph, x: Tensor, bias: Tensor, weight: Tensor | None = None) -> Tensor:
    return gcn_aggregate(graph, x, weight=weight, normalize="sym", bias=bias, activation="relu")


def _formula(graph: Graph, x: Tensor, bias: Tensor, weight: Tensor | None = None) -> Tensor:
    source, target = graph.edge_index
    weight = x.new_ones(graph.num_edges) if weight is None else weight
    adj = x.new_zeros(graph.num_nodes, graph.num_nodes).index_put((target, source), weight, accumulate=True)
    degree = adj.sum(dim=1)
    scale = degree.masked_fill(degree == 0, torch.inf).rsqrt()
    return torch.relu(scale[:, None] * (adj @ (scale[:, None] * x)) + bias)
