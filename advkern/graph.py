"""The graph that every graph op and module takes: an immutable CSR matrix by target row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from advkern.structure import Structure, is_lasting, is_traced, lasting

if TYPE_CHECKING:
    import networkx
    import scipy.sparse

_T = TypeVar("_T")

NORMALIZATIONS = (None, "sym", "row")


class Graph:
    """A graph of N nodes and E edges, as the CSR matrix of which row *i* gathers from the columns it stores.

    Args:
        rowptr: ``[N + 1]`` ids, ascending from 0 to E: row *i* owns the edges ``rowptr[i] : rowptr[i + 1]``.
        col: ``[E]`` int32 or int64: the source node of each edge. int32 is faster.
        weight: ``[E]`` floats in the order of ``col``, or None for ones. May require grad.

    Rows may hold their columns in any order and more than once. A graph never changes; what is derived from it
    (transpose, degrees, normalisation, work schedule) is computed once and kept. It is a pytree of plain
    tensors, so it goes through ``torch.compile``, ``torch.export``, ``torch.save`` and pickle.

    Edge values that you pass to any function are in the order in which you gave the edges; the attributes
    ``col``, ``row`` and ``weight`` are in CSR order, and ``edge_order`` leads from one to the other.

    Raises:
        ValueError: ids out of range, a ``rowptr`` that does not ascend from 0 to E, wrong lengths or types,
            tensors on different devices. Values are looked at on the CPU only: elsewhere that would synchronise.
    """

    def __init__(self, rowptr: Tensor, col: Tensor, weight: Tensor | None = None) -> None:
        _check_vector("rowptr", rowptr, (torch.int32, torch.int64))
        _check_vector("col", col, (torch.int32, torch.int64), rowptr.device)
        rowptr = rowptr.to(torch.int64)
        if rowptr.device.type == "cpu" and not is_traced():
            _check_structure(rowptr, col)
        self._structure = Structure(rowptr.contiguous(), col.contiguous(), None)
        self._weight = _checked_weight(weight, self._structure)
        self._derived: dict[Any, Any] = {}

    @classmethod
    def _of(cls, structure: Structure, weight: Tensor | None) -> Graph:
        """Wrap parts that are known to be good."""
        graph = object.__new__(cls)
        graph._structure = structure
        graph._weight = weight
        graph._derived = {}
        return graph

    # -- building ------------------------------------------------------------------------------------------

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,  # [2, num_edges]: source, target
        edge_weight: Tensor | None = None,  # [num_edges]
        num_nodes: int | None = None,
        *,
        index_dtype: torch.dtype | None = None,
    ) -> Graph:
        """Build from PyTorch Geometric's ``edge_index``: node ``edge_index[1, e]`` gathers from ``edge_index[0, e]``.

        ``num_nodes`` defaults to the largest id plus one. Multiple edges are kept. ``index_dtype`` defaults to
        int32 where the ids fit.
        """
        from advkern import adjacency

        return adjacency.from_edge_index(edge_index, edge_weight, num_nodes, index_dtype)

    @classmethod
    def from_dense(cls, adj: Tensor) -> Graph:  # [N, N]
        """Build from a dense matrix: every entry that is not zero is an edge, its value the weight."""
        from advkern import adjacency

        return adjacency.from_dense(adj)

    @classmethod
    def from_coo(cls, adj: Tensor) -> Graph:  # [N, N], torch.sparse_coo
        """Build from a COO matrix; entries of the same place are added first, as torch does."""
        from advkern import adjacency

        return adjacency.from_coo(adj)

    @classmethod
    def from_csr(cls, adj: Tensor) -> Graph:  # [N, N], torch.sparse_csr
        """Build from a CSR matrix, without a copy where its ids are already int32 or int64."""
        from advkern import adjacency

        return adjacency.from_csr(adj)

    @classmethod
    def from_csc(cls, adj: Tensor) -> Graph:  # [N, N], torch.sparse_csc
        """Build from a CSC matrix."""
        from advkern import adjacency

        return adjacency.from_csc(adj)

    @classmethod
    def from_scipy(cls, adj: scipy.sparse.spmatrix) -> Graph:  # [N, N]
        """Build from any scipy sparse matrix or array; row *i* gathers from the columns it stores."""
        from advkern import adjacency

        return adjacency.from_scipy(adj)

    @classmethod
    def from_networkx(
        cls, graph: networkx.Graph, *, direction: str = "source_to_target", weight: str | None = "weight"
    ) -> Graph:
        """Build from a networkx graph; nodes are numbered in the order of ``graph.nodes``.

        Args:
            graph: undirected (both directions are stored) or directed, multiple edges kept.
            direction: what an edge u -> v means. ``"source_to_target"``: v gathers from u, as in PyTorch
                Geometric. ``"target_to_source"``: u gathers from v, as with ``nx.adjacency_matrix``.
            weight: the edge attribute to read; where no edge has it, the graph has no weights.
        """
        from advkern import adjacency

        return adjacency.from_networkx(graph, direction, weight)

    @classmethod
    def batch(cls, graphs: Sequence[Graph]) -> Graph:
        """Join graphs into one block-diagonal graph; nodes and edges keep their order."""
        from advkern import adjacency

        return adjacency.batch(graphs)

    # -- looking at it -------------------------------------------------------------------------------------

    @property
    def rowptr(self) -> Tensor:
        """``[N + 1]`` int64."""
        return self._structure.rowptr

    @property
    def col(self) -> Tensor:
        """``[E]`` int32 or int64, the source of each edge, in CSR order."""
        return self._structure.col

    @property
    def row(self) -> Tensor:
        """``[E]``, the target of each edge, in CSR order."""
        return self._structure.row()

    @property
    def weight(self) -> Tensor | None:
        """``[E]`` floats in CSR order, or None for ones."""
        return self._weight

    @property
    def edge_order(self) -> Tensor | None:
        """``[E]`` int64: the place that each edge of the CSR had in the caller's list; None where it is the same."""
        return self._structure.edge_order

    @property
    def schedule(self) -> Tensor:
        """How the kernels split the work, int64. On the CPU ``[blocks + 1]``: bounds of blocks of rows that hold about
        the same work (rows plus edges). On CUDA ``[chunks, 2]``: row and first edge of each chunk of the long rows."""
        return self._structure.schedule()

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.rowptr.shape[0] - 1

    @property
    def num_edges(self) -> int:
        """E."""
        return self.col.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.col.device

    @property
    def edge_index(self) -> Tensor:
        """``[2, E]`` int64 (source, target) in the caller's order."""
        pairs = torch.stack([self.col.long(), self.row.long()])
        if self.edge_order is None:
            return pairs
        return torch.empty_like(pairs).index_copy_(1, self.edge_order, pairs)

    def __repr__(self) -> str:
        weight = "none" if self._weight is None else str(self._weight.dtype).removeprefix("torch.")
        ids = str(self.col.dtype).removeprefix("torch.")
        return (
            f"Graph(num_nodes={self.num_nodes}, num_edges={self.num_edges}, ids={ids}, "
            f"weight={weight}, device={self.device})"
        )

    # -- what is derived from it, computed once ------------------------------------------------------------

    def t(self) -> Graph:
        """Return the transposed graph."""
        structure, perm = self._structure.transpose()
        return Graph._of(structure, None if self._weight is None else self._weight[perm])

    def degree(self, dtype: torch.dtype = torch.float32) -> Tensor:  # [num_nodes]
        """Return the sum of each row's weights in ``dtype`` (float32 or float64); differentiable in the weights."""
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
        return self._once(("degree", dtype), lambda: self._make_degree(dtype))

    def _make_degree(self, dtype: torch.dtype) -> Tensor:
        if self._weight is None:
            return torch.diff(self.rowptr).to(dtype)
        from advkern.ops.gcn_aggregate import gcn_aggregate

        ones = torch.ones(self.num_nodes, 1, dtype=dtype, device=self.device)
        with torch.autocast(self.device.type, enabled=False):  # a degree in a half type would be of no use
            return gcn_aggregate(self, ones)[:, 0]

    def normalization(self, mode: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor | None]:
        """Return the factors of rows and columns: ``(d^-1/2, d^-1/2)`` for "sym", ``(1/d, None)`` for "row".

        ``d`` is the degree; where it is 0 the factor is 0. A negative or NaN degree is a ValueError on the CPU and
        gives the factor 0 where a look at the values would synchronise.
        """
        if mode not in NORMALIZATIONS[1:]:
            raise ValueError(f"normalize: expected one of {NORMALIZATIONS}, got {mode!r}")
        factor = self._once((mode, dtype), lambda: self._make_normalization(mode, dtype))
        if mode == "row":
            return factor, None
        # a view, made anew: torch.compile refuses a Function that gets one tensor twice, and keeps no view as one
        return factor, factor.view_as(factor) if torch.compiler.is_compiling() else factor

    def _make_normalization(self, mode: str, dtype: torch.dtype) -> Tensor:
        degree = self.degree(dtype)
        if self._weight is not None and self.device.type == "cpu" and not is_traced():
            _check_degree(degree)
        positive = degree > 0
        safe = torch.where(positive, degree, 1)
        return torch.where(positive, safe.rsqrt() if mode == "sym" else safe.reciprocal(), 0)

    def _once(self, key: Any, make: Callable[[], _T]) -> _T:
        """Compute what follows from structure and weights, and keep it, unless the weights belong to an autograd
        graph, a transform or inference mode, which it must not outlive."""
        weight = self._weight
        if weight is not None and not is_lasting(weight):
            return make()
        version = None if weight is None or torch.compiler.is_compiling() else weight._version
        if version is not None and self._derived.get("version") != version:  # the caller's tensor, written in place
            self._derived = {"version": version}
        known = self._derived.get(key)
        if known is None:
            known = self._derived[key] = lasting(make)
        return known

    # -- other graphs from it ------------------------------------------------------------------------------

    def with_weight(self, weight: Tensor | None) -> Graph:
        """Return the same structure with other weights, ``[E]`` in the caller's order of edges."""
        return self._with_weight(weight, "weight")

    def _with_weight(self, weight: Tensor | None, argument: str) -> Graph:
        weight = _checked_weight(weight, self._structure, argument)
        if weight is not None and self.edge_order is not None:
            weight = weight[self.edge_order]
        return Graph._of(self._structure, weight)

    def with_self_loops(self, weight: float = 1.0) -> Graph:
        """Add a self loop of ``weight`` to every node that has none (PyTorch Geometric's rule).

        Added loops come last: in their row, and in the caller's order of edges.
        """
        from advkern import adjacency

        return self._once(("self_loops", weight), lambda: adjacency.add_self_loops(self, weight))

    def to(self, device: torch.device | str) -> Graph:
        """Return the graph on ``device``; itself where it is there already."""
        if not isinstance(device, (str, int, torch.device)):
            raise TypeError(f"device: expected a device, got {device!r}")
        device = torch.device(device)
        if self.col.to(device) is self.col:
            return self
        return torch.utils._pytree.tree_map(lambda t: None if t is None else t.to(device), self)

    def to_dense(self, dtype: torch.dtype | None = None) -> Tensor:  # [N, N]
        """Return the dense matrix; values of multiple edges are added."""
        dtype = dtype or (torch.float32 if self._weight is None else self._weight.dtype)
        values = torch.ones(self.num_edges, device=self.device) if self._weight is None else self._weight
        dense = torch.zeros(self.num_nodes, self.num_nodes, dtype=dtype, device=self.device)
        return dense.index_put((self.row.long(), self.col.long()), values.to(dtype), accumulate=True)

    # -- protocols -----------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {"tensors": _flatten(self)[0]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        other = _unflatten(state["tensors"], None)
        self._structure, self._weight, self._derived = other._structure, other._weight, {}


def _check_vector(
    name: str, value: Tensor, dtypes: tuple[torch.dtype, ...], device: torch.device | None = None
) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.dim() != 1 or value.dtype not in dtypes:
        expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(f"{name}: expected a vector of {expected}, got {value.dtype} of shape {tuple(value.shape)}")
    if device is not None and value.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, as rowptr, got one on {value.device}")


def _check_structure(rowptr: Tensor, col: Tensor) -> None:
    num_edges = col.shape[0]
    if rowptr.numel() == 0 or int(rowptr[0]) != 0 or int(rowptr[-1]) != num_edges:
        ends = (int(rowptr[0]), int(rowptr[-1])) if rowptr.numel() else "no entries"
        raise ValueError(f"rowptr: expected it to lead from 0 to len(col) = {num_edges}, got {ends}")
    falls = torch.diff(rowptr) < 0
    if falls.any():
        raise ValueError(f"rowptr: expected ascending offsets, got a fall after row {int(falls.nonzero()[0])}")
    from advkern.ops.coo_to_csr import check_ids

    if num_edges and (int(col.min()) < 0 or int(col.max()) >= rowptr.numel() - 1):
        check_ids("col", col, rowptr.numel() - 1)


def _checked_weight(weight: Tensor | None, structure: Structure, name: str = "weight") -> Tensor | None:
    if weight is None:
        return None
    if not isinstance(weight, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(weight).__name__}")
    if weight.shape != structure.col.shape or not weight.is_floating_point():
        raise ValueError(
            f"{name}: expected floats of shape ({structure.col.shape[0]},), one an edge, "
            f"got {weight.dtype} of shape {tuple(weight.shape)}"
        )
    if weight.device != structure.col.device:
        raise ValueError(f"{name}: expected a tensor on {structure.col.device}, as col, got one on {weight.device}")
    return weight.contiguous()


def _check_degree(degree: Tensor) -> None:
    if degree.numel() and not bool(degree.min() >= 0):  # NaN fails the comparison too
        bad = int((~(degree >= 0)).nonzero()[0])
        raise ValueError(
            "weight: expected every node's degree (its row's sum) to be at least 0 for a normalisation, "
            f"got {float(degree.detach()[bad])} at node {bad}"
        )


def _flatten(graph: Graph) -> tuple[list[Any], None]:
    return [graph.rowptr, graph.col, graph.weight, graph.edge_order], None


def _flatten_with_keys(graph: Graph) -> tuple[list[tuple[Any, Any]], None]:
    names = ("rowptr", "col", "weight", "edge_order")
    children, context = _flatten(graph)
    return [(torch.utils._pytree.GetAttrKey(n), c) for n, c in zip(names, children, strict=True)], context


def _unflatten(children: Any, context: None) -> Graph:
    rowptr, col, weight, edge_order = children
    return Graph._of(Structure(rowptr, col, edge_order), weight)


torch.utils._pytree.register_pytree_node(
    Graph,
    _flatten,
    _unflatten,
    serialized_type_name="advkern.Graph",
    flatten_with_keys_fn=_flatten_with_keys,
)
torch.serialization.add_safe_globals([Graph])
