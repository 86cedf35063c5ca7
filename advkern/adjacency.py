"""Whatever may stand for an adjacency matrix, turned into a :class:`advkern.Graph`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from advkern.graph import Graph, _lasting, _Structure
from advkern.ops.coo_to_csr import coo_to_csr


def as_graph(adj: Any) -> Graph:
    """Turn ``adj`` into a graph: row *i* gathers from the columns it stores.

    Takes an :class:`advkern.Graph`, a dense, COO, CSR or CSC tensor, a scipy sparse matrix or a networkx graph.
    A tensor is converted once: the graph is kept as long as the tensor lives and its ``_version`` stays. Writes
    that autograd does not see (``.data``, ``.numpy()``) go unnoticed; inference tensors are not kept.
    """
    if isinstance(adj, Graph):
        return adj
    if isinstance(adj, Tensor):
        return _cached(adj, _from_matrix)
    if type(adj).__module__.startswith("scipy.sparse"):
        return from_scipy(adj)
    if type(adj).__module__.startswith("networkx") or hasattr(adj, "adjacency"):
        return from_networkx(adj)
    raise TypeError(
        "adj: expected an advkern.Graph, a dense, COO, CSR or CSC tensor, a scipy sparse matrix or a networkx "
        f"graph, got {type(adj).__name__}"
    )


def edge_index_as_graph(edge_index: Any, edge_weight: Tensor | None, num_nodes: int) -> Graph:
    """Turn what PyTorch Geometric's layers call ``edge_index`` into a graph: ``[2, E]`` ids, or an adjacency."""
    if isinstance(edge_index, Tensor) and edge_index.layout == torch.strided and not edge_index.is_floating_point():
        graph = _cached(edge_index, lambda ids: from_edge_index(ids, None, num_nodes), num_nodes)
    else:
        graph = as_graph(edge_index)
    return graph if edge_weight is None else graph.with_weight(edge_weight)


# -- the cache: by a tensor's identity and version -------------------------------------------------------------

_cache: dict[tuple[int, Any], tuple[weakref.ref[Tensor], int, Graph]] = {}


def _cached(tensor: Tensor, build: Callable[[Tensor], Graph], extra: Any = None) -> Graph:
    if torch.compiler.is_compiling() or tensor.is_inference() or tensor.requires_grad:
        return build(tensor)
    key = (id(tensor), extra)
    known = _cache.get(key)
    if known is not None and known[0]() is tensor and known[1] == tensor._version:
        return known[2]
    graph = _lasting(lambda: build(tensor))
    _cache[key] = (weakref.ref(tensor, lambda _: _cache.pop(key, None)), tensor._version, graph)
    return graph


# -- one function a kind of input ------------------------------------------------------------------------------


def _from_matrix(adj: Tensor) -> Graph:
    builders = {
        torch.strided: from_dense,
        torch.sparse_coo: from_coo,
        torch.sparse_csr: from_csr,
        torch.sparse_csc: from_csc,
    }
    if adj.layout not in builders:
        raise ValueError(f"adj: expected a dense, COO, CSR or CSC tensor, got {adj.layout}")
    return builders[adj.layout](adj)


def from_dense(adj: Tensor) -> Graph:
    _check_square(adj)
    row, col = adj.detach().nonzero(as_tuple=True)
    graph = _from_edges(row, col, adj.shape[0])
    return graph.with_weight(_as_float(adj[row, col]))


def from_coo(adj: Tensor) -> Graph:
    _check_square(adj)
    if adj.is_coalesced():
        return _from_coalesced(adj)
    indices, values = adj._indices(), adj._values()
    _check_weight_values(values)
    num_nodes = adj.shape[0]
    by_col = coo_to_csr(indices[1], indices[0], num_nodes)[2]
    rowptr, col, by_row = coo_to_csr(indices[0][by_col], indices[1][by_col], num_nodes, narrow=_fits(num_nodes))
    graph = Graph._of(_Structure(rowptr, col, None), None)
    same = (torch.diff(col) == 0) & (torch.diff(graph.row) == 0)
    if bool(same.any()):  # only now are there values to add
        return _from_coalesced(adj.coalesce())
    return graph.with_weight(_as_float(values[by_col[by_row]]))


def _from_coalesced(adj: Tensor) -> Graph:
    values = adj.values()
    _check_weight_values(values)
    row, col = adj.indices()
    return _from_edges(row, col, adj.shape[0]).with_weight(_as_float(values))


def from_csr(adj: Tensor) -> Graph:
    _check_square(adj)
    return Graph(adj.crow_indices(), adj.col_indices(), _as_float(adj.values()))


def from_csc(adj: Tensor) -> Graph:
    _check_square(adj)
    transposed = Graph(adj.ccol_indices(), adj.row_indices(), _as_float(adj.values()))
    structure, perm = transposed._structure.transpose()
    plain = _Structure(structure.rowptr, structure.col, None)  # the caller's order of a matrix is by rows
    return Graph._of(plain, transposed.weight[perm])


def from_scipy(adj: Any) -> Graph:
    matrix = adj.tocsr()
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"adj: expected a square matrix, got shape {tuple(matrix.shape)}")
    rowptr, col = torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices)
    return Graph(rowptr, col, _as_float(torch.from_numpy(matrix.data)))


def from_networkx(graph: Any, direction: str = "source_to_target", weight: str | None = "weight") -> Graph:
    directions = ("source_to_target", "target_to_source")
    if direction not in directions:
        raise ValueError(f"direction: expected one of {directions}, got {direction!r}")
    number = {node: i for i, node in enumerate(graph.nodes)}
    edges = [(number[u], number[v], data.get(weight)) for u, v, data in graph.edges(data=True)]
    if not graph.is_directed():
        edges += [(v, u, value) for u, v, value in edges if u != v]
    pairs = torch.tensor([(u, v) for u, v, _ in edges], dtype=torch.int64).reshape(-1, 2).t()
    if direction == "target_to_source":
        pairs = pairs.flip(0)
    weighted = any(value is not None for _, _, value in edges)
    values = torch.tensor([1.0 if v is None else float(v) for _, _, v in edges]) if weighted else None
    return from_edge_index(pairs, values, len(number))


def from_edge_index(
    edge_index: Tensor,
    edge_weight: Tensor | None = None,
    num_nodes: int | None = None,
    index_dtype: torch.dtype | None = None,
) -> Graph:
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"edge_index: expected int32 or int64 ids of shape [2, num_edges], "
            f"got {edge_index.dtype} of shape {tuple(edge_index.shape)}"
        )
    if num_nodes is None:
        num_nodes = int(edge_index.max()) + 1 if edge_index.numel() else 0
    source, target = edge_index
    return _from_edges(target, source, num_nodes, index_dtype, "edge_index").with_weight(edge_weight)


def batch(graphs: Sequence[Graph]) -> Graph:
    graphs = list(graphs)
    if not graphs:
        raise ValueError("graphs: expected at least one graph, got none")
    weighted = sum(g.weight is not None for g in graphs)
    if weighted not in (0, len(graphs)):
        raise ValueError(f"graphs: expected all or none to have weights, got {weighted} of {len(graphs)} with")
    node_offsets = _offsets(g.num_nodes for g in graphs)
    edge_offsets = _offsets(g.num_edges for g in graphs)
    ids = max((g.col.dtype for g in graphs), key=lambda dtype: dtype.itemsize)
    ids = ids if _fits(node_offsets[-1]) else torch.int64
    rowptr = torch.cat([g.rowptr[min(k, 1) :] + e for k, (g, e) in enumerate(zip(graphs, edge_offsets, strict=False))])
    col = torch.cat([g.col.to(ids) + n for g, n in zip(graphs, node_offsets, strict=False)])
    order = None
    if any(g.edge_order is not None for g in graphs):
        order = torch.cat([_edge_order(g) + e for g, e in zip(graphs, edge_offsets, strict=False)])
    weight = torch.cat([g.weight for g in graphs]) if weighted else None  # type: ignore[misc]
    return Graph._of(_Structure(rowptr, col, order), weight)


def add_self_loops(graph: Graph, value: float) -> Graph:
    num_nodes, device = graph.num_nodes, graph.device
    missing = torch.ones(num_nodes, dtype=torch.bool, device=device)
    missing[graph.row[graph.row == graph.col].long()] = False
    shift = torch.zeros(num_nodes + 1, dtype=torch.int64, device=device)
    torch.cumsum(missing, 0, out=shift[1:])
    rowptr = graph.rowptr + shift
    nodes = missing.nonzero()[:, 0]
    old = torch.arange(graph.num_edges, device=device) + shift[graph.row.long()]  # where each edge goes
    new = rowptr[nodes + 1] - 1  # the last place of its row

    def merge(edges: Tensor, loops: Tensor) -> Tensor:
        return edges.new_empty(rowptr[-1]).index_copy(0, old, edges).index_copy(0, new, loops)

    col = merge(graph.col, nodes.to(graph.col.dtype))
    added = torch.arange(len(nodes), device=device) + graph.num_edges
    order = merge(_edge_order(graph), added)
    weight = graph.weight
    if weight is not None:
        weight = merge(weight, weight.new_full((len(nodes),), value))
    elif value != 1:
        weight = merge(torch.ones(graph.num_edges, device=device), torch.full((len(nodes),), value, device=device))
    return Graph._of(_Structure(rowptr, col, order), weight)


# -- pieces ----------------------------------------------------------------------------------------------------


def _from_edges(
    row: Tensor, col: Tensor, num_nodes: int, index_dtype: torch.dtype | None = None, argument: str = "adj"
) -> Graph:
    """Sort the edges by row; where they came sorted, the caller's order is the graph's."""
    if index_dtype not in (None, torch.int32, torch.int64):
        raise ValueError(f"index_dtype: expected torch.int32 or torch.int64, got {index_dtype}")
    narrow = index_dtype == torch.int32 or (index_dtype is None and _fits(num_nodes))
    if not narrow:
        row, col = row.long(), col.long()
    try:
        rowptr, col, perm = coo_to_csr(row.contiguous(), col.contiguous(), num_nodes, narrow=narrow)
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from None
    in_order = row.numel() < 2 or bool((row[1:] >= row[:-1]).all())
    return Graph._of(_Structure(rowptr, col, None if in_order else perm), None)


def _fits(num_nodes: int) -> bool:
    return num_nodes <= torch.iinfo(torch.int32).max


def _edge_order(graph: Graph) -> Tensor:
    if graph.edge_order is not None:
        return graph.edge_order
    return torch.arange(graph.num_edges, device=graph.device)


def _offsets(counts: Any) -> list[int]:
    offsets = [0]
    for count in counts:
        offsets.append(offsets[-1] + count)
    return offsets


def _as_float(values: Tensor) -> Tensor:
    """Weights must be floats; networkx and scipy give integers for unweighted graphs."""
    return values if values.is_floating_point() else values.to(torch.float32)


def _check_square(adj: Tensor) -> None:
    if adj.dim() != 2 or adj.shape[0] != adj.shape[1]:
        raise ValueError(f"adj: expected a square matrix, got shape {tuple(adj.shape)}")


def _check_weight_values(values: Tensor) -> None:
    if values.dim() != 1:
        raise ValueError(f"adj: expected one number an entry, got values of shape {tuple(values.shape)}")
