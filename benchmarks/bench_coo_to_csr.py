"""Building and transposing a graph, beside torch's own coalesce, transposition and scipy."""

from __future__ import annotations

import pytest
import torch

from advkern import Graph
from advkern.testing import standard_graph


@pytest.fixture(scope="module", params=["arxiv", "cora"])
def edges(request):
    """Edges in random order, as a data set on disk has them."""
    edge_index = standard_graph(request.param).edge_index
    shuffle = torch.randperm(edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    return request.param, edge_index[:, shuffle].contiguous(), standard_graph(request.param).num_nodes


def bench_build(compare, threads, edges):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    name, edge_index, n = edges
    values = torch.ones(edge_index.shape[1])
    target_source = edge_index.flip(0)
    source, target = edge_index.numpy()
    candidates = {
        "advkern": lambda: Graph.from_edge_index(edge_index, None, n),
        "torch_coalesce": lambda: torch.sparse_coo_tensor(target_source, values, (n, n)).coalesce(),
        "torch_to_csr": lambda: torch.sparse_coo_tensor(target_source, values, (n, n)).to_sparse_csr(),
        "scipy_csr": lambda: scipy_sparse.coo_matrix((values.numpy(), (target, source)), (n, n)).tocsr(),
    }
    keys = (edge_index[1] * n + edge_index[0]).unique()
    compare(candidates, lambda: keys, wrong_entries, tolerance=0, work="build", graph=name, threads=threads)


def bench_transpose(compare, threads, edges):
    name, edge_index, n = edges
    graph = Graph.from_edge_index(edge_index, None, n)
    coo = torch.sparse_coo_tensor(edge_index.flip(0), torch.ones(edge_index.shape[1]), (n, n)).coalesce()
    csr = coo.to_sparse_csr()
    candidates = {
        "advkern": lambda: Graph(graph.rowptr, graph.col).t(),  # a fresh graph: nothing is kept from before
        "torch_csr": lambda: csr.t().to_sparse_csr(),
        "torch_coalesce": lambda: coo.t().coalesce(),
    }
    keys = (edge_index[0] * n + edge_index[1]).unique()
    compare(candidates, lambda: keys, wrong_entries, tolerance=0, work="transpose", graph=name, threads=threads)


def wrong_entries(matrix, keys: torch.Tensor) -> float:
    """How many entries (row * N + column, ascending) are not where they should be: must be 0."""
    if isinstance(matrix, Graph):
        rowptr, col = matrix.rowptr, matrix.col
    elif isinstance(matrix, torch.Tensor):
        csr = matrix.to_sparse_csr()
        rowptr, col = csr.crow_indices(), csr.col_indices()
    else:
        rowptr, col = torch.from_numpy(matrix.indptr).long(), torch.from_numpy(matrix.indices)
    row = torch.repeat_interleave(torch.diff(rowptr))
    found = (row * (rowptr.numel() - 1) + col).sort().values.unique()  # torch adds multiple edges, we keep them
    return float((found != keys).sum()) if found.shape == keys.shape else float("inf")
