"""Sparse graph-convolution aggregation: normalisation, bias and activation in one pass over the edges."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from advkern import backend
from advkern.graph import Graph
from advkern.ops._derivatives import is_plain, sum_of_rows
from advkern.ops._schema import EagerFunction, define
from advkern.reference import gcn_aggregate as reference
from advkern.reference.gcn_aggregate import ACTIVATION_NAMES, accumulation_dtype

_GRAPH = "Tensor rowptr, Tensor col, Tensor schedule"


def _name_of(activation: int, least: int = 0) -> str | None:
    if not least <= activation < len(ACTIVATION_NAMES):
        raise RuntimeError(f"advkern: activation must lie in [{least}, {len(ACTIVATION_NAMES) - 1}], got {activation}")
    return ACTIVATION_NAMES[activation]


def _fwd_reference(rowptr, col, schedule, x, weight, row_scale, col_scale, bias, activation):
    return reference.gcn_aggregate(rowptr, col, x, weight, row_scale, col_scale, bias, _name_of(activation))


def _fwd_fake(rowptr, col, schedule, x, weight, row_scale, col_scale, bias, activation):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _flops(rowptr, col, schedule, x, *rest, **options):
    return 2 * col[0] * x[1]


def _activation_bwd_reference(grad, out, activation):
    return reference.activation_backward(grad, out, _name_of(activation, least=1))


def _activation_bwd_fake(grad, out, activation):
    return torch.empty_like(grad)


def _edge_dot_reference(rowptr, col, schedule, a, b):
    return reference.edge_dot(rowptr, col, a, b)


def _edge_dot_fake(rowptr, col, schedule, a, b):
    return a.new_empty(col.shape, dtype=accumulation_dtype(a.dtype))


_FWD = define(
    "gcn_aggregate_fwd",
    f"({_GRAPH}, Tensor x, Tensor? weight, Tensor? row_scale, Tensor? col_scale, Tensor? bias, int activation)"
    " -> Tensor",
    _fwd_reference,
    _fwd_fake,
    _flops,
)
_EDGE_DOT = define(
    "gcn_aggregate_edge_dot", f"({_GRAPH}, Tensor a, Tensor b) -> Tensor", _edge_dot_reference, _edge_dot_fake, _flops
)
_ACTIVATION_BWD = define(
    "gcn_aggregate_activation_bwd",
    "(Tensor grad, Tensor out, int activation) -> Tensor",
    _activation_bwd_reference,
    _activation_bwd_fake,
)
backend.register_op("gcn_aggregate", {"cpu": "cpu", "cuda": "cuda"})


_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class _Adjacency(NamedTuple):
    """The tensors of a matrix A and of its transpose; ``perm`` takes edge values of A to those of A^T."""

    rowptr: Tensor  # [num_nodes + 1]
    col: Tensor  # [num_edges]
    schedule: Tensor  # [blocks + 1] on the CPU, [chunks, 2] on CUDA
    rowptr_t: Tensor | None = None  # None, and so on down, where no gradient will need it
    col_t: Tensor | None = None
    schedule_t: Tensor | None = None
    perm: Tensor | None = None  # [num_edges]

    def transpose(self) -> _Adjacency:
        assert self.rowptr_t is not None and self.col_t is not None and self.schedule_t is not None
        inverse = None
        if self.perm is not None and torch.is_grad_enabled():  # else nothing will go back through the transpose
            inverse = torch.empty_like(self.perm)
            inverse[self.perm] = torch.arange(self.perm.numel(), device=self.perm.device)
        return _Adjacency(self.rowptr_t, self.col_t, self.schedule_t, *self[:3], inverse)


# The aggregation and the edge dot product are each other's derivatives, so two Functions, each calling the
# other, give derivatives of every order, and every order runs on the kernels. (An activation's gradient does so
# where no further derivative is asked for.)


class GcnAggregateFunction(torch.autograd.Function):
    """``act(r * A(w) (c * x) + b)``, differentiable in x, w, r, c and b."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, row_scale, col_scale, bias, activation, where, adjacency):
        return _FWD[where](*adjacency[:3], x, weight, row_scale, col_scale, bias, activation)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, _bias, ctx.activation, ctx.where, ctx.adjacency = inputs
        ctx.save_for_backward(*tensors, None if ctx.activation == 0 else output)

    @staticmethod
    def backward(ctx, grad):
        x, weight, row_scale, col_scale, out = ctx.saved_tensors
        adjacency, where = ctx.adjacency, ctx.where
        needs_x, needs_weight, needs_row, needs_col, needs_bias, *_ = ctx.needs_input_grad
        grad = _activation_backward(grad.contiguous(), out, ctx.activation, where)
        acc = accumulation_dtype(x.dtype)

        grad_x = grad_weight = grad_row = grad_col = None
        if needs_x:
            weight_t = None if weight is None else weight[adjacency.perm]
            grad_x = _aggregate(adjacency.transpose(), grad, where, weight_t, col_scale, row_scale)
        if needs_weight or needs_row or needs_col:
            dot = _edge_dot(adjacency, grad, x, where)
            weighted = dot if weight is None else dot * weight
            ones = torch.ones(x.shape[0], 1, dtype=acc, device=x.device)
            row_column = ones if row_scale is None else row_scale[:, None]
            column = ones if col_scale is None else col_scale[:, None]
            if needs_weight:  # dot[e] r[i] c[j]: the edge dot product of one-channel matrices
                grad_weight = dot * _edge_dot(adjacency, row_column, column, where)
            if needs_row:
                grad_row = _aggregate(adjacency, column, where, weighted)[:, 0]
            if needs_col:
                grad_col = _aggregate(adjacency.transpose(), row_column, where, weighted[adjacency.perm])[:, 0]
        grad_bias = sum_of_rows(grad, acc) if needs_bias else None
        return grad_x, grad_weight, grad_row, grad_col, grad_bias, None, None, None


class EdgeDotFunction(torch.autograd.Function):
    """``<a[i], b[j]>`` for every stored entry (i, j), differentiable in a and b."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a, b, where, adjacency):
        return _EDGE_DOT[where](*adjacency[:3], a, b)

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, b, ctx.where, ctx.adjacency = inputs
        ctx.save_for_backward(a, b)

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        adjacency = ctx.adjacency
        grad_a = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_a = _aggregate(adjacency, b, ctx.where, grad)
        if ctx.needs_input_grad[1]:
            grad_b = _aggregate(adjacency.transpose(), a, ctx.where, grad[adjacency.perm])
        return grad_a, grad_b, None, None


class _EagerGcnAggregate(EagerFunction, GcnAggregateFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        GcnAggregateFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:4], None if ctx.activation == 0 else output)

    @staticmethod
    def jvp(ctx, x_t, weight_t, row_t, col_t, bias_t, *_):
        x, weight, row_scale, col_scale, out = ctx.saved_tensors

        def product(x, weight, row_scale, col_scale):
            return _aggregate(ctx.adjacency, x, ctx.where, weight, row_scale, col_scale)

        terms = []  # one for each factor that moves: the aggregation is linear in each
        if x_t is not None:
            terms.append(product(x_t.contiguous(), weight, row_scale, col_scale))
        if weight_t is not None:
            terms.append(product(x, weight_t, row_scale, col_scale))
        if row_t is not None:
            terms.append(product(x, weight, row_t, col_scale))
        if col_t is not None:
            terms.append(product(x, weight, row_scale, col_t))
        if bias_t is not None:
            terms.append(bias_t.to(x.dtype).expand_as(x))
        tangent = sum(terms)
        if ACTIVATION_NAMES[ctx.activation] == "log_softmax":  # the one whose Jacobian is not its own transpose
            return tangent - (out.exp() * tangent).sum(dim=1, keepdim=True)
        return reference.activation_backward(tangent, out, ACTIVATION_NAMES[ctx.activation])


class _EagerEdgeDot(EagerFunction, EdgeDotFunction):
    @staticmethod
    def setup_context(ctx, inputs, output):
        EdgeDotFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def jvp(ctx, a_t, b_t, *_):
        a, b = ctx.saved_tensors
        terms = [] if a_t is None else [_edge_dot(ctx.adjacency, a_t, b, ctx.where)]
        if b_t is not None:
            terms.append(_edge_dot(ctx.adjacency, a, b_t, ctx.where))
        return sum(terms)


def _aggregate(
    adjacency: _Adjacency,
    x: Tensor,
    where: str,
    weight: Tensor | None = None,
    row_scale: Tensor | None = None,
    col_scale: Tensor | None = None,
    bias: Tensor | None = None,
    activation: int = 0,
) -> Tensor:
    if is_plain(x, weight, row_scale, col_scale, bias):
        return _FWD[where](*adjacency[:3], x, weight, row_scale, col_scale, bias, activation)
    function = GcnAggregateFunction if torch.compiler.is_compiling() else _EagerGcnAggregate
    return function.apply(x, weight, row_scale, col_scale, bias, activation, where, adjacency)


def _edge_dot(adjacency: _Adjacency, a: Tensor, b: Tensor, where: str) -> Tensor:
    a, b = a.contiguous(), b.contiguous()
    if is_plain(a, b):
        return _EDGE_DOT[where](*adjacency[:3], a, b)
    function = EdgeDotFunction if torch.compiler.is_compiling() else _EagerEdgeDot
    return function.apply(a, b, where, adjacency)


def _activation_backward(grad: Tensor, out: Tensor | None, activation: int, where: str) -> Tensor:
    if out is None:
        return grad
    if is_plain(grad, out):
        return _ACTIVATION_BWD[where](grad, out, activation)
    return reference.activation_backward(grad, out, ACTIVATION_NAMES[activation])


def gcn_aggregate(
    graph: Graph,  # N nodes, E edges
    x: Tensor,  # [num_nodes, channels]
    *,
    weight: Tensor | None = None,  # [num_edges]
    normalize: str | None = None,
    bias: Tensor | None = None,  # [channels]
    activation: str | None = None,
) -> Tensor:  # [num_nodes, channels]
    """Aggregate the features of each node's neighbours, as a graph convolution does.

    ``out[i] = act(r[i] * sum_{e in row i} w[e] * c[j] * x[j] + bias)`` with ``j = col[e]``, and ``d`` the sum of a
    row's weights:

    * ``normalize=None``: ``r = c = 1``
    * ``"sym"``: ``r = c = d^-1/2`` (Kipf and Welling 2017, arXiv:1609.02907)
    * ``"row"``: ``r = 1/d``, ``c = 1``, the mean (Hamilton et al. 2017, arXiv:1706.02216)

    A row without edges aggregates to 0, and a degree of 0 gives the factor 0. Differentiable any number of times
    in ``x``, the weights (through the degrees too) and ``bias``. Results and gradients are bitwise the same run after
    run and on any number of threads. Memory: O(N F + E).

    Args:
        graph: row *i* gathers from the columns it stores.
        x: float16, bfloat16, float32 or float64; half types are summed in float32. Under autocast ``x`` takes the
            autocast type.
        weight: edge weights in the order in which the edges were given, in place of the graph's own.
        normalize: None, "sym" or "row".
        bias: added to each row.
        activation: None, "relu", "elu" or "log_softmax" (over a row's channels; of half types, of the row as it is
            stored in that type).

    A graph that was damaged after its construction, with ids or offsets out of range, is a RuntimeError on the CPU. On
    CUDA, where an error would need a synchronisation, the rows concerned are NaN; nothing foreign is read.

    Raises:
        ValueError: a wrong shape, type, device or name, or a negative degree with a normalisation (on the CPU).
        TypeError: an argument of another kind.
    """
    _check(graph, x, bias, activation)
    if weight is not None:
        graph = graph.with_weight(weight)
    x = _under_autocast(x)
    acc = accumulation_dtype(x.dtype)
    edge_weight = graph.weight
    row_scale = col_scale = None
    if normalize is not None:
        row_scale, col_scale = graph.normalization(normalize, acc)
    if edge_weight is not None:
        edge_weight = edge_weight.to(acc)
    if bias is not None:
        bias = bias.to(acc).contiguous()
    where = backend.choose("gcn_aggregate", x.device.type)
    tensors = (x.contiguous(), edge_weight, row_scale, col_scale, bias)
    code = ACTIVATION_NAMES.index(activation)
    if is_plain(*tensors):  # asked here and not once more in _aggregate: a call on a small graph is all overhead
        return _FWD[where](*_adjacency(graph, with_transpose=False)[:3], *tensors, code)
    adjacency = _adjacency(graph, with_transpose=not is_plain(*tensors[:4]))
    return _aggregate(adjacency, tensors[0], where, *tensors[1:], code)


def _adjacency(graph: Graph, with_transpose: bool) -> _Adjacency:
    structure = graph._structure
    forward = (structure.rowptr, structure.col, structure.schedule())
    if not with_transpose:
        return _Adjacency(*forward)
    transposed, perm = structure.transpose()
    return _Adjacency(*forward, transposed.rowptr, transposed.col, transposed.schedule(), perm)


def _under_autocast(x: Tensor) -> Tensor:
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.is_floating_point() and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(kind))
    return x


def _check(graph: Graph, x: Tensor, bias: Tensor | None, activation: str | None) -> None:
    if not isinstance(graph, Graph):
        raise TypeError(f"graph: expected an advkern.Graph, got {type(graph).__name__}")
    for name, value in (("x", x), ("bias", bias)):
        if not isinstance(value, Tensor) and not (name == "bias" and value is None):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if x.dim() != 2 or x.shape[0] != graph.num_nodes:
        raise ValueError(f"x: expected [num_nodes = {graph.num_nodes}, channels], got shape {tuple(x.shape)}")
    if x.dtype not in _FLOATS:
        raise ValueError(f"x: expected float16, bfloat16, float32 or float64, got {x.dtype}")
    if x.device != graph.device:
        raise ValueError(f"x: expected a tensor on {graph.device}, as the graph, got one on {x.device}")
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != x.shape[1] or bias.device != x.device):
        raise ValueError(
            f"bias: expected [channels = {x.shape[1]}] on {x.device}, got shape {tuple(bias.shape)} on {bias.device}"
        )
    if activation not in ACTIVATION_NAMES:
        raise ValueError(f"activation: expected one of {ACTIVATION_NAMES}, got {activation!r}")
