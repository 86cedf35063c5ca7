"""Sorting edges by row: the step that builds and transposes every :class:`advkern.Graph`."""

from __future__ import annotations

import torch
from torch import Tensor

from advkern import backend
from advkern.ops._schema import define
from advkern.reference.coo_to_csr import coo_to_csr as reference


def _fake(row: Tensor, col: Tensor, num_nodes: int, narrow: bool) -> tuple[Tensor, Tensor, Tensor]:
    rowptr = row.new_empty(num_nodes + 1, dtype=torch.int64)
    sorted_col = col.new_empty(col.shape, dtype=torch.int32 if narrow else col.dtype)
    return rowptr, sorted_col, row.new_empty(row.shape, dtype=torch.int64)


_COO_TO_CSR = define(
    "coo_to_csr",
    "(Tensor row, Tensor col, int num_nodes, bool narrow) -> (Tensor, Tensor, Tensor)",
    reference,
    _fake,
)
backend.register_op("coo_to_csr", {"cpu": "cpu"})


def coo_to_csr(
    row: Tensor,  # [num_edges], int32 or int64
    col: Tensor,  # [num_edges], the same type
    num_nodes: int,
    *,
    narrow: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # [num_nodes + 1], [num_edges], [num_edges]
    """Sort edges by row, keeping the order within a row: return ``(rowptr, col[perm], perm)``.

    ``rowptr[i] : rowptr[i + 1]`` is the range of row ``i``'s edges (int64); ``perm`` (int64) is the place each of
    them had. ``narrow`` gives the sorted ``col`` as int32, whatever came in. A counting sort in O(N + E), the same on
    any number of threads.

    Raises:
        ValueError: an id outside ``[0, num_nodes)``, or ids of wrong shape or type.
    """
    _check(row, col, num_nodes, narrow)
    row, col = row.contiguous(), col.contiguous()
    try:
        return _COO_TO_CSR[backend.choose("coo_to_csr", row.device.type)](row, col, num_nodes, narrow)
    except (RuntimeError, IndexError):  # the kernel looks at every id anyway: only now is it worth a second look
        check_ids("row", row, num_nodes)
        check_ids("col", col, num_nodes)
        raise


def _check(row: Tensor, col: Tensor, num_nodes: int, narrow: bool) -> None:
    for name, ids in (("row", row), ("col", col)):
        if not isinstance(ids, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(ids).__name__}")
        if ids.dim() != 1 or ids.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"{name}: expected a vector of int32 or int64 ids, got {ids.dtype} of shape {tuple(ids.shape)}"
            )
    if row.shape != col.shape or row.dtype != col.dtype or row.device != col.device:
        raise ValueError(
            f"col: expected row's length, type and device ({row.numel()}, {row.dtype}, {row.device}), "
            f"got ({col.numel()}, {col.dtype}, {col.device})"
        )
    if num_nodes < 0:
        raise ValueError(f"num_nodes: expected a count of at least 0, got {num_nodes}")
    if narrow and num_nodes > torch.iinfo(torch.int32).max:
        raise ValueError(f"narrow: expected no more nodes than int32 counts, got num_nodes = {num_nodes}")


def check_ids(name: str, ids: Tensor, num_nodes: int) -> None:
    """Raise a ValueError that names the first id outside ``[0, num_nodes)``."""
    bad = ids[(ids < 0) | (ids >= num_nodes)]
    if bad.numel():
        raise ValueError(f"{name}: expected ids in [0, {num_nodes}), got {int(bad[0])}")
