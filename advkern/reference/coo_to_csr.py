"""``coo_to_csr`` in plain PyTorch."""

import torch
from torch import Tensor


def coo_to_csr(
    row: Tensor,  # [num_edges]
    col: Tensor,  # [num_edges]
    num_nodes: int,
    narrow: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # [num_nodes + 1], [num_edges], [num_edges]
    """``rowptr, col[perm], perm`` with ``perm`` the stable order of the edges by row.

    ``narrow`` gives the sorted ``col`` as int32.
    """
    for name, ids in (("row", row), ("col", col)):
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= num_nodes):
            raise IndexError(f"advkern: {name} must lie in [0, {num_nodes})")
    perm = torch.argsort(row, stable=True)
    rowptr = torch.zeros(num_nodes + 1, dtype=torch.int64, device=row.device)
    torch.cumsum(torch.bincount(row, minlength=num_nodes), 0, out=rowptr[1:])
    col = col[perm]
    return rowptr, col.to(torch.int32) if narrow else col, perm
