"""``gcn_aggregate`` beside torch's CSR and COO products, gather + index_add, and plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from advkern import Graph
from advkern.ops import gcn_aggregate
from advkern.reference import gcn_aggregate as reference
from advkern.testing import standard_graph

GRAPHS = {
    "arxiv-uniform": lambda: standard_graph("arxiv", "uniform"),
    "arxiv-power-law": lambda: standard_graph("arxiv", "power-law"),
    "cora": lambda: standard_graph("cora"),
    "pubmed": lambda: standard_graph("pubmed"),
}
WORKLOADS = [(g, f) for g in ("arxiv-uniform", "arxiv-power-law") for f in (16, 64, 128, 256)]
WORKLOADS += [(g, f) for g in ("cora", "pubmed") for f in (16, 64)]


@pytest.fixture(scope="module")
def graphs():
    return {name: build() for name, build in GRAPHS.items()}


def peers(graph: Graph) -> dict:
    """Each peer as a function of x, everything that can be prepared prepared. CSR takes the faster int32 ids."""
    n, e = graph.num_nodes, graph.num_edges
    values = torch.ones(e)
    csr = torch.sparse_csr_tensor(graph.rowptr.int(), graph.col.int(), values, (n, n))
    row, col = graph.row.long(), graph.col.long()
    coo = torch.sparse_coo_tensor(torch.stack([row, col]), values, (n, n)).coalesce()
    return {
        "torch_csr": lambda x: csr @ x,
        "torch_coo": lambda x: torch.sparse.mm(coo, x),
        "index_add": lambda x: torch.zeros_like(x).index_add(0, row, x.index_select(0, col)),
        "reference": lambda x: reference.gcn_aggregate(graph.rowptr, graph.col, x),
    }


@pytest.mark.parametrize(("graph_name", "channels"), WORKLOADS, ids=lambda v: str(v))
def bench_forward(compare, threads, graphs, graph_name, channels):
    graph = graphs[graph_name]
    x = torch.randn(graph.num_nodes, channels, generator=torch.Generator().manual_seed(0))
    candidates = {"advkern": lambda: gcn_aggregate(graph, x)}
    candidates |= {name: lambda f=f: f(x) for name, f in peers(graph).items()}
    compare(candidates, lambda: exact(graph, x), work="forward", graph=graph_name, channels=channels, threads=threads)


@pytest.mark.parametrize(("graph_name", "channels"), WORKLOADS, ids=lambda v: str(v))
def bench_forward_backward(compare, threads, graphs, graph_name, channels):
    graph = graphs[graph_name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(graph.num_nodes, channels, generator=generator).requires_grad_()
    cotangent = torch.randn(graph.num_nodes, channels, generator=generator)

    def both(function):
        out = function(x)
        return out.detach(), *torch.autograd.grad(out, x, cotangent)

    functions = {"advkern": lambda x: gcn_aggregate(graph, x)} | peers(graph)
    candidates = {name: lambda f=f: both(f) for name, f in functions.items()}
    truth = lambda: (exact(graph, x), exact(graph.t(), cotangent))  # noqa: E731
    compare(candidates, truth, work="forward+backward", graph=graph_name, channels=channels, threads=threads)


@pytest.mark.parametrize("threads", [1], ids=["1thread"], indirect=True)
def bench_overhead(compare, threads):
    """One call on Zachary's karate club, 34 nodes: what is left beyond the kernel is overhead."""
    networkx = pytest.importorskip("networkx")
    graph = Graph.from_networkx(networkx.karate_club_graph(), weight=None)
    x = torch.randn(34, 16)
    op = torch.ops.advkern.gcn_aggregate_fwd.default
    kernel = lambda: op(graph.rowptr, graph.col, graph.schedule, x, None, None, None, None, 0)  # noqa: E731
    candidates = {"advkern": lambda: gcn_aggregate(graph, x), "schema_op": kernel}
    candidates |= {name: lambda f=f: f(x) for name, f in peers(graph).items()}
    compare(candidates, lambda: exact(graph, x), work="overhead", graph="karate", channels=16, threads=threads)


def exact(graph: Graph, x: torch.Tensor) -> torch.Tensor:
    """The sum in float64, by gather and index_add."""
    x = x.detach().double()
    return torch.zeros_like(x).index_add(0, graph.row.long(), x[graph.col.long()])
