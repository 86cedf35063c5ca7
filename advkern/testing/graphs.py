"""Seeded synthetic graphs, among them ones with the sizes of the standard data sets."""

from __future__ import annotations

import torch
from torch import Tensor

from advkern.graph import Graph

SIZES = {  # name: (nodes, edges)
    "cora": (2_708, 10_556),
    "pubmed": (19_717, 88_648),
    "arxiv": (169_343, 1_166_243),
    "reddit": (232_965, 114_615_892),
    "products": (2_449_029, 61_859_140),
}
_HUBNESS = 2.2  # exponent of the power law; at arxiv size its largest hub has about 5,000 neighbours


def standard_graph(name: str, kind: str = "uniform", **options: object) -> Graph:
    """Return a directed graph of a standard data set's size: ``kind`` is "uniform" or "power-law"."""
    build = {"uniform": uniform_graph, "power-law": power_law_graph}[kind]
    return build(*SIZES[name], **options)  # type: ignore[arg-type]


def uniform_graph(
    num_nodes: int, num_edges: int, *, seed: int = 0, weighted: bool = False, index_dtype: torch.dtype | None = None
) -> Graph:
    """Both ends of every edge are drawn uniformly."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(max(num_nodes, 1), (2, num_edges if num_nodes else 0), generator=generator)
    return _build(ids, num_nodes, weighted, index_dtype, generator)


def power_law_graph(
    num_nodes: int, num_edges: int, *, seed: int = 0, weighted: bool = False, index_dtype: torch.dtype | None = None
) -> Graph:
    """Both ends follow a power law over nodes in random order: a few hubs of thousands of neighbours."""
    generator = torch.Generator().manual_seed(seed)
    rank = torch.rand(2, num_edges, generator=generator, dtype=torch.float64).pow(_HUBNESS)
    ids = (rank * num_nodes).long().clamp(max=num_nodes - 1)
    return _build(torch.randperm(num_nodes, generator=generator)[ids], num_nodes, weighted, index_dtype, generator)


def hub_graph(num_nodes: int, num_edges: int, *, seed: int = 0) -> Graph:
    """A uniform graph in which node 0 also gathers from half of all nodes, and half of them from it."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(num_nodes, (2, num_edges), generator=generator)
    half = torch.arange(0, num_nodes, 2)
    hub = torch.zeros_like(half)
    ids = torch.cat([ids, torch.stack([half, hub]), torch.stack([hub, half])], dim=1)
    return _build(ids, num_nodes, False, None, generator)


def isolated_graph(num_nodes: int, num_edges: int, *, seed: int = 0) -> Graph:
    """A uniform graph on the even nodes; the odd ones have no edges at all."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(num_nodes // 2, (2, num_edges), generator=generator) * 2
    return _build(ids, num_nodes, False, None, generator)


def _build(
    edge_index: Tensor, num_nodes: int, weighted: bool, index_dtype: torch.dtype | None, generator: torch.Generator
) -> Graph:
    weight = torch.rand(edge_index.shape[1], generator=generator) + 0.1 if weighted else None
    return Graph.from_edge_index(edge_index, weight, num_nodes, index_dtype=index_dtype)
