"""Whatever may stand for an adjacency matrix, turned into a :class:`advkern.Graph`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from advkern.graph import Graph
from advkern.ops.coo_to_csr import coo_to_csr
from advkern.structure import Structure, lasting


def as_graph(adj: Any) -> Graph:
    """Turn ``adj`` into a graph: row *i* gathers from the columns it stores.

    Takes an :class:`advkern.Graph`, a dense, COO, CSR or CSC tensor, a scipy sparse matrix or a networkx graph.
    A tensor is converted once: the graph is kept as long as the tensor lives and its ``_version`` stays. Writes
    that autograd does not see (``.data``, ``.numpy()``) go unnoticed; inference tensors are not kept, and of a
    tensor that requires grad only the structure is.
    """
    if isinstance(adj, Graph):
        return adj
    if isinstance(adj, Tensor):
        return _matrix_as_graph(adj)
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
        try:
            graph = as_graph(edge_index)
        except (TypeError, ValueError) as error:
            raise type(error)(f"edge_index: expected ids of shape [2, num_edges] or an adjacency; {error}") from None
    return graph if edge_weight is None else graph._with_weight(edge_weight, "edge_weight")


# -- the cache: by a tensor's identity and version -------------------------------------------------------------

_cache: dict[tuple[int, Any], tuple[weakref.ref[Tensor], int, Graph]] = {}


def _cached(tensor: Tensor, build: Callable[[Tensor], Graph], extra: Any = None) -> Graph:
    if torch.compiler.is_compiling() or tensor.is_inference():
        return build(tensor)
    key = (id(tensor), extra)
    known = _cache.get(key)
    if known is not None and known[0]() is tensor and known[1] == tensor._version:
        return known[2]
    graph = lasting(lambda: build(tensor))
    _cache[key] = (weakref.ref(tensor, lambda _: _cache.pop(key, None)), tensor._version, graph)
    return graph


# -- one function a kind of input ------------------------------------------------------------------------------


def _matrix_as_graph(adj: Tensor) -> Graph:
    """What is kept is built from a detached tensor: it must hold neither ``adj`` alive nor its autograd graph."""
    if _is_transformed(adj):
        return _from_matrix(adj)
    graph = _cached(adj, lambda matrix: _from_matrix(matrix.detach()))
    return graph.with_weight(_as_float(_entries(adj, graph))) if adj.requires_grad else graph


def _is_transformed(adj: Tensor) -> bool:
    """Whether torch.func or forward-mode differentiation may be at work on ``adj``, which ``requires_grad`` hides."""
    if torch.compiler.is_compiling():
        return False
    return torch.autograd.forward_ad._current_level >= 0 or torch._C._functorch.is_functorch_wrapped_tensor(adj)


def _entries(adj: Tensor, graph: Graph) -> Tensor:
    """The stored values in the order of ``graph``, made from ``adj``, with gradients that lead back to ``adj``."""
    if adj.layout == torch.strided:
        return adj[graph.row.long(), graph.col.long()]
    if adj.layout == torch.sparse_coo:
        return adj.coalesce().values()
    if adj.layout == torch.sparse_csr:
        return adj.values()
    by_row = coo_to_csr(graph.col, graph.row, graph.num_nodes)[2]  # by columns, as ``adj`` holds its values
    return torch.empty_like(adj.values()).index_copy(0, by_row, adj.values())


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
    """Build from what :meth:`advkern.Graph.from_dense` takes."""
    _check_matrix(adj, torch.strided)
    row, col = adj.detach().nonzero(as_tuple=True)
    graph = _from_edges(row, col, adj.shape[0])
    return graph.with_weight(_as_float(adj[row, col]))


def from_coo(adj: Tensor) -> Graph:
    """Build from what :meth:`advkern.Graph.from_coo` takes."""
    _check_matrix(adj, torch.sparse_coo)
    if adj.is_coalesced() or adj.requires_grad:  # what is read below has no derivative
        return _from_coalesced(adj.coalesce())
    (row, col), values = adj._indices(), adj._values()
    _check_weight_values(values)
    num_nodes = adj.shape[0]
    by_col = coo_to_csr(col, row, num_nodes)[2]
    rowptr, col, by_row = coo_to_csr(row[by_col], col[by_col], num_nodes, narrow=_fits(num_nodes))
    graph = Graph._of(Structure(rowptr, col, None), None)
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
    """Build from what :meth:`advkern.Graph.from_csr` takes."""
    _check_matrix(adj, torch.sparse_csr)
    return Graph(adj.crow_indices(), adj.col_indices(), _as_float(adj.values()))


def from_csc(adj: Tensor) -> Graph:
    """Build from what :meth:`advkern.Graph.from_csc` takes."""
    _check_matrix(adj, torch.sparse_csc)
    transposed = Graph(adj.ccol_indices(), adj.row_indices())
    structure, perm = transposed._structure.transpose()
    plain = Structure(structure.rowptr, structure.col, None)  # the caller's order of a matrix is by rows
    return Graph._of(plain, _as_float(adj.values())[perm])


def from_scipy(adj: Any) -> Graph:
    """Build from what :meth:`advkern.Graph.from_scipy` takes."""
    if not hasattr(adj, "tocsr"):
        raise TypeError(f"adj: expected a scipy sparse matrix or array, got {type(adj).__name__}")
    matrix = adj.tocsr()
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"adj: expected a square matrix, got shape {tuple(matrix.shape)}")
    rowptr, col = torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices)
    return Graph(rowptr, col, _as_float(torch.from_numpy(matrix.data)))


def from_networkx(graph: Any, direction: str = "source_to_target", weight: str | None = "weight") -> Graph:
    """Build from what :meth:`advkern.Graph.from_networkx` takes."""
    directions = ("source_to_target", "target_to_source")
    if direction not in directions:
        raise ValueError(f"direction: expected one of {directions}, got {direction!r}")
    if not hasattr(graph, "is_directed"):
        raise TypeError(f"graph: expected a networkx graph, got {type(graph).__name__}")
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
    """Build from what :meth:`advkern.Graph.from_edge_index` takes."""
    if not isinstance(edge_index, Tensor):
        raise TypeError(f"edge_index: expected a tensor, got {type(edge_index).__name__}")
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"edge_index: expected int32 or int64 ids of shape [2, num_edges], "
            f"got {edge_index.dtype} of shape {tuple(edge_index.shape)}"
        )
    if num_nodes is None:
        num_nodes = max(int(edge_index.max()) + 1, 0) if edge_index.numel() else 0
    if not hasattr(num_nodes, "__index__"):
        raise TypeError(f"num_nodes: expected an integer, got {num_nodes!r}")
    if num_nodes < 0:
        raise ValueError(f"num_nodes: expected a count of at least 0, got {num_nodes}")
    source, target = edge_index
    return _from_edges(target, source, num_nodes, index_dtype, "edge_index")._with_weight(edge_weight, "edge_weight")


def batch(graphs: Sequence[Graph]) -> Graph:
    """Join graphs as :meth:`advkern.Graph.batch` does."""
    graphs = list(graphs)
    if not graphs:
        raise ValueError("graphs: expected at least one graph, got none")
    for graph in graphs:
        if not isinstance(graph, Graph):
            raise TypeError(f"graphs: expected advkern.Graph objects, got {type(graph).__name__}")
        if graph.device != graphs[0].device:
            raise ValueError(f"graphs: expected all on {graphs[0].device}, as the first, got one on {graph.device}")
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
        order = torch.cat([g._structure.order() + e for g, e in zip(graphs, edge_offsets, strict=False)])
    weight = torch.cat([g.weight for g in graphs]) if weighted else None  # type: ignore[misc]
    return Graph._of(Structure(rowptr, col, order), weight)


def add_self_loops(graph: Graph, value: float) -> Graph:
    """Add loops as :meth:`advkern.Graph.with_self_loops` does; only the weights are joined anew for other weights."""
    looped = graph._structure.with_self_loops()
    weight = graph.weight
    if weight is None and value != 1:
        weight = torch.ones(graph.num_edges, device=graph.device)
    if weight is not None:
        weight = looped.merge(weight, weight.new_full(looped.loops.shape, value))
    return Graph._of(looped.structure, weight)


# -- pieces ----------------------------------------------------------------------------------------------------


def _from_edges(
    row: Tensor, col: Tensor, num_nodes: int, index_dtype: torch.dtype | None = None, argument: str = "adj"
) -> Graph:
    """Sort the edges by row; where they came sorted, the caller's order is the graph's."""
    if index_dtype not in (None, torch.int32, torch.int64):
        raise ValueError(f"index_dtype: expected torch.int32 or torch.int64, got {index_dtype}")
    if index_dtype == torch.int32 and not _fits(num_nodes):
        raise ValueError(f"index_dtype: expected torch.int64 for {num_nodes} nodes, got torch.int32")
    narrow = index_dtype == torch.int32 or (index_dtype is None and _fits(num_nodes))
    if not narrow:
        row, col = row.long(), col.long()
    try:
        rowptr, col, perm = coo_to_csr(row, col, num_nodes, narrow=narrow)
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from None
    in_order = row.numel() < 2 or bool((row[1:] >= row[:-1]).all())
    return Graph._of(Structure(rowptr, col, None if in_order else perm), None)


def _fits(num_nodes: int) -> bool:
    return num_nodes <= torch.iinfo(torch.int32).max


def _offsets(counts: Any) -> list[int]:
    offsets = [0]
    for count in counts:
        offsets.append(offsets[-1] + count)
    return offsets


def _as_float(values: Tensor) -> Tensor:
    """Weights must be floats; networkx and scipy give integers for unweighted graphs."""
    if values.is_complex():
        raise ValueError(f"adj: expected real numbers, got {values.dtype}")
    return values if values.is_floating_point() else values.to(torch.float32)


def _check_matrix(adj: Tensor, layout: torch.layout) -> None:
    if not isinstance(adj, Tensor):
        raise TypeError(f"adj: expected a tensor, got {type(adj).__name__}")
    if adj.layout != layout:
        raise ValueError(f"adj: expected layout {layout}, got {adj.layout}")
    if adj.dim() != 2 or adj.shape[0] != adj.shape[1]:
        raise ValueError(f"adj: expected a square matrix, got shape {tuple(adj.shape)}")
    if layout == torch.sparse_coo and adj.sparse_dim() != 2:
        raise ValueError(f"adj: expected two sparse dimensions, got {adj.sparse_dim()}")


def _check_weight_values(values: Tensor) -> None:
    if values.dim() != 1:
        raise ValueError(f"adj: expected one number an entry, got values of shape {tuple(values.shape)}")
