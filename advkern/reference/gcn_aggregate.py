"""``gcn_aggregate`` in plain PyTorch."""

import functools
import warnings

import torch
from torch import Tensor

ACTIVATIONS = {
    None: lambda out: out,
    "relu": torch.relu,
    "elu": torch.nn.functional.elu,
    "log_softmax": lambda out: torch.log_softmax(out, dim=1),
}
_EDGES_AT_ONCE = 1 << 16  # so that the messages of all edges are never there together
ACTIVATION_NAMES = tuple(ACTIVATIONS)  # an activation's place here is its code in the schema


def gcn_aggregate(
    rowptr: Tensor,  # [num_nodes + 1]
    col: Tensor,  # [num_edges]
    x: Tensor,  # [num_nodes, channels]
    weight: Tensor | None = None,  # [num_edges]
    row_scale: Tensor | None = None,  # [num_nodes]
    col_scale: Tensor | None = None,  # [num_nodes]
    bias: Tensor | None = None,  # [channels]
    activation: str | None = None,
) -> Tensor:  # [num_nodes, channels]
    """``out[i] = act(row_scale[i] * sum_e weight[e] * col_scale[col[e]] * x[col[e]] + bias)``.

    Half types are summed in float32, as the kernels do.
    """
    out = x.to(accumulation_dtype(x.dtype))
    if col_scale is not None:
        out = out * col_scale[:, None]
    out = _sparse_product(rowptr, col, weight, out)
    if row_scale is not None:
        out = out * row_scale[:, None]
    if bias is not None:
        out = out + bias
    return ACTIVATIONS[activation](out).to(x.dtype)


def activation_backward(grad: Tensor, out: Tensor, activation: str | None) -> Tensor:
    """The gradient before the activation, of the one after it and the result, all ``[num_nodes, channels]``."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward(grad, out, 0)  # in one pass, unlike a mask
    if activation == "elu":
        return grad * torch.where(out > 0, 1, out + 1)
    if activation == "log_softmax":
        return torch.ops.aten._log_softmax_backward_data(grad, out, 1, out.dtype)  # grad - exp(out) * sum(grad)
    return grad


def edge_dot(
    rowptr: Tensor,  # [num_nodes + 1]
    col: Tensor,  # [num_edges]
    a: Tensor,  # [num_nodes, channels]
    b: Tensor,  # [num_nodes, channels]
) -> Tensor:  # [num_edges]
    """``dot[e] = <a[row(e)], b[col[e]]>``: the derivative of the aggregation by its edge weights."""
    _check_structure(rowptr, col)
    acc = accumulation_dtype(a.dtype)
    row = torch.repeat_interleave(torch.diff(rowptr), output_size=col.numel())
    some = zip(row.split(_EDGES_AT_ONCE), col.split(_EDGES_AT_ONCE), strict=True)
    return torch.cat([(a[i].to(acc) * b[j].to(acc)).sum(dim=1) for i, j in some])


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums of ``dtype`` are taken."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check_structure(rowptr: Tensor, col: Tensor) -> None:
    num_nodes, num_edges = rowptr.numel() - 1, col.numel()
    if num_edges and (int(col.min()) < 0 or int(col.max()) >= num_nodes):
        raise IndexError(f"advkern: the graph is damaged: col must lie in [0, {num_nodes})")
    if int(rowptr[0]) != 0 or int(rowptr[-1]) != num_edges or bool((torch.diff(rowptr) < 0).any()):
        raise IndexError(f"advkern: the graph is damaged: rowptr must ascend from 0 to {num_edges}")


def _sparse_product(rowptr: Tensor, col: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
    """Torch's own CSR product: O(N F + E) memory, but it trusts the ids, so they are looked at first."""
    num_nodes, num_edges = x.shape[0], col.numel()
    if num_edges == 0 or x.numel() == 0:
        return torch.zeros_like(x)
    _check_structure(rowptr, col)
    values = x.new_ones(num_edges) if weight is None else weight
    _silence_beta_warning()
    size = (num_nodes, num_nodes)
    return torch.sparse_csr_tensor(rowptr, col.to(rowptr.dtype), values, size, check_invariants=False) @ x


@functools.cache
def _silence_beta_warning() -> None:
    """Torch warns once a process that its CSR is in beta: let it do so where nobody is told of what we chose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)
