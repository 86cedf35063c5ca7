"""The part of a graph that does not depend on weights, and what is derived from it once and kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T")

_BLOCK_WORK = 2048  # rows plus edges of one block of the schedule: some microseconds of work
_MAX_BLOCKS = 1024
_CHUNK_EDGES = 256  # as kChunkEdges in csrc: a CUDA device cuts a longer row into chunks of so many


class Structure:
    """CSR ids, shared by graphs that differ only in weights."""

    def __init__(self, rowptr: Tensor, col: Tensor, edge_order: Tensor | None) -> None:
        self.rowptr, self.col, self.edge_order = rowptr, col, edge_order
        self._row: Tensor | None = None
        self._schedule: Tensor | None = None
        self._transpose: tuple[Structure, Tensor] | None = None
        self._looped: Looped | None = None

    def row(self) -> Tensor:
        if self._row is None:
            self._row = lasting(self._make_row)
        return self._row

    def schedule(self) -> Tensor:
        if self._schedule is None:
            self._schedule = lasting(self._make_schedule)
        return self._schedule

    def transpose(self) -> tuple[Structure, Tensor]:
        """The transposed structure, and the order in which it holds this one's edges."""
        if self._transpose is None:
            self._transpose = lasting(self._make_transpose)
        return self._transpose

    def with_self_loops(self) -> Looped:
        """The structure with a self loop at every node that had none."""
        if self._looped is None:
            self._looped = lasting(self._make_looped)
        return self._looped

    def order(self) -> Tensor:
        """``edge_order``, also where that is None."""
        if self.edge_order is not None:
            return self.edge_order
        return torch.arange(self.col.shape[0], device=self.col.device)

    def _make_row(self) -> Tensor:
        counts = torch.diff(self.rowptr)
        ids = torch.arange(counts.shape[0], dtype=self.col.dtype, device=self.col.device)
        return torch.repeat_interleave(ids, counts, output_size=self.col.shape[0])

    def _make_schedule(self) -> Tensor:
        make = chunks_of_long_rows if self.rowptr.device.type == "cuda" else _blocks_of_rows
        return make(self.rowptr, self.col.shape[0])

    def _make_transpose(self) -> tuple[Structure, Tensor]:
        from advkern.ops.coo_to_csr import coo_to_csr

        rowptr, col, perm = coo_to_csr(self.col, self.row(), self.rowptr.shape[0] - 1)
        order = perm if self.edge_order is None else self.edge_order[perm]
        return Structure(rowptr, col, order), perm

    def _make_looped(self) -> Looped:
        num_nodes, num_edges, device = self.rowptr.shape[0] - 1, self.col.shape[0], self.col.device
        row = self.row()
        missing = torch.ones(num_nodes, dtype=torch.bool, device=device)
        missing[row[row == self.col].long()] = False
        shift = torch.zeros(num_nodes + 1, dtype=torch.int64, device=device)
        torch.cumsum(missing, 0, out=shift[1:])
        rowptr = self.rowptr + shift
        nodes = missing.nonzero()[:, 0]
        edges = torch.arange(num_edges, device=device) + shift[row.long()]
        loops = rowptr[nodes + 1] - 1  # the last place of its row
        added = torch.arange(nodes.shape[0], device=device) + num_edges
        col = merge(edges, self.col, loops, nodes.to(self.col.dtype))
        return Looped(Structure(rowptr, col, merge(edges, self.order(), loops, added)), edges, loops)


class Looped(NamedTuple):
    """A structure with self loops added, and the places there of what was there before and of what came."""

    structure: Structure
    edges: Tensor  # [num_edges]
    loops: Tensor  # [num_loops]

    def merge(self, edges: Tensor, loops: Tensor) -> Tensor:
        """Join values of the edges and of the added loops in the order of ``structure``."""
        return merge(self.edges, edges, self.loops, loops)


def merge(places: Tensor, values: Tensor, more_places: Tensor, more_values: Tensor) -> Tensor:
    """The vector that holds ``values`` at ``places`` and ``more_values`` at ``more_places``."""
    out = values.new_empty(places.shape[0] + more_places.shape[0])  # len() would make the compiler want to know it
    return out.index_copy(0, places, values).index_copy(0, more_places, more_values)


def _blocks_of_rows(rowptr: Tensor, num_edges: int) -> Tensor:  # [blocks + 1]
    num_nodes = rowptr.shape[0] - 1
    work = rowptr + torch.arange(num_nodes + 1, device=rowptr.device)
    total = num_nodes + num_edges
    blocks = max(1, min(_MAX_BLOCKS, total // _BLOCK_WORK))
    bounds = torch.arange(blocks + 1, device=rowptr.device) * total // blocks
    return torch.searchsorted(work, bounds)


def chunks_of_long_rows(rowptr: Tensor, num_edges: int) -> Tensor:  # [chunks, 2]
    """Row and first edge of every chunk of the rows of more than ``_CHUNK_EDGES`` edges, in order.

    The length is the largest that so many edges can need, so that nothing has to be looked at (on a GPU that would
    synchronise, in the compiler break the graph); the pairs that are left over have the row ``num_nodes``.
    """
    counts = torch.diff(rowptr)
    chunks = torch.where(counts > _CHUNK_EDGES, (counts + _CHUNK_EDGES - 1) // _CHUNK_EDGES, 0)
    bounds = torch.nn.functional.pad(chunks.cumsum(0), (1, 0))  # [N + 1]: the first chunk of each row
    chunk = torch.arange(2 * num_edges // (_CHUNK_EDGES + 1), device=rowptr.device)
    row = torch.searchsorted(bounds[1:], chunk, right=True)
    return torch.stack([row, rowptr[row] + _CHUNK_EDGES * (chunk - bounds[row])], dim=1)


def in_transform() -> bool:
    """Whether one of torch.func's transforms is at work."""
    return bool(torch._C._are_functorch_transforms_active())


def is_traced() -> bool:
    """Values cannot be looked at here."""
    return torch.compiler.is_compiling() or in_transform()


def is_lasting(weight: Tensor) -> bool:
    """Whether what follows from ``weight`` can be kept: it is of no autograd graph, transform or inference mode."""
    if weight.requires_grad or torch.compiler.is_compiling():
        return not weight.requires_grad  # the compiler cannot trace the other questions, nor be in such a mode
    return not (weight.is_inference() or in_transform())


def lasting(make: Callable[[], _T]) -> _T:
    """Compute outside of torch.func's transforms and of inference mode, so that the result can be kept."""
    if torch.compiler.is_compiling():
        return make()
    with torch.inference_mode(False), torch._C._DisableFuncTorch() if in_transform() else nullcontext():
        return make()
