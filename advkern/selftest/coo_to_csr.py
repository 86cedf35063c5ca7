"""``coo_to_csr`` beside a stable sort."""

from __future__ import annotations

import torch
from torch import Tensor

from advkern.ops import coo_to_csr
from advkern.selftest._case import Case, Draw


def cases(scale: int, device: torch.device) -> list[Case]:
    """Ten edges a node, of which one node in ten has none."""
    draw, num_nodes = Draw(device), 400 * scale
    row = draw.ids(4000 * scale, num_nodes)
    tensors = {"row": row - row % 10 // 9, "col": draw.ids(4000 * scale, num_nodes)}

    def call(row: Tensor, col: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return coo_to_csr(row, col, num_nodes)

    def formula(row: Tensor, col: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        order = row.argsort(stable=True)
        starts = torch.arange(num_nodes + 1, device=row.device)
        return torch.searchsorted(row[order], starts), col[order], order

    return [Case("coo_to_csr", tensors, call, formula)]
