"""Graph attention: ``softmax_j(leaky_relu(a_dst . W x_i + a_src . W x_j)) W x_j`` (Veličković et al. 2018,
arXiv:1710.10903)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from advkern.adjacency import as_graph, edge_index_as_graph
from advkern.graph import Graph
from advkern.maps import EdgeAttentionMap, EdgeAttentionMaps
from advkern.nn._checks import check_probability, check_size
from advkern.nn._linear import linear
from advkern.nn.gcn import _check_features
from advkern.ops.gat_attention import attend, edge_attention
from advkern.reference.gcn_aggregate import accumulation_dtype


class GraphAttentionLayer(nn.Module):
    """One head of graph attention with ELU: ``elu(sum_j alpha_ij W x_j)``.

    ``x: [N, in_features], adj: [N, N] -> ([N, out_features], [N, N])``; row *i* of ``adj`` attends to the columns whose
    entries are positive, of an ``advkern.Graph`` to every stored edge. A node without neighbours gives 0.

    The attention is an :class:`advkern.maps.EdgeAttentionMap`: nothing of N x N exists until it is read. It is taken
    before dropout, and keeps four numbers a node alive (and the autograd graph) until ``release()``.

    Args:
        in_features, out_features: channels in and out.
        dropout: the probability of dropping an edge's attention in training.
        alpha: the slope of the leaky ReLU for negative scores.

    Raises:
        ValueError: a size below 1, a dropout outside ``[0, 1]``; in the call, shapes that do not fit.

    Veličković et al. 2018, "Graph attention networks", arXiv:1710.10903.
    """

    def __init__(self, in_features: int, out_features: int, dropout: float = 0.6, alpha: float = 0.2) -> None:
        super().__init__()
        check_size("in_features", in_features)
        check_size("out_features", out_features)
        check_probability("dropout", dropout)
        self.in_features, self.out_features = in_features, out_features
        self.dropout, self.alpha = dropout, alpha
        # drawn twice, as the tutorial does, so that one seed gives both the same weights
        self.W = nn.Parameter(torch.randn(in_features, out_features))
        self.a = nn.Parameter(torch.randn(2 * out_features, 1))
        nn.init.xavier_uniform_(self.W)
        nn.init.xavier_uniform_(self.a)

    def forward(self, x: Tensor, adj: Any, *, need_weights: bool = True) -> tuple[Tensor, EdgeAttentionMap | None]:
        """Return the new features and the attention; None in its place where ``need_weights`` is False."""
        _check_features(x, self.in_features)
        out, maps = _attend_as_the_tutorial([self], x, _positive(adj), need_weights)
        return nn.functional.elu(out[:, 0]), None if maps is None else maps[0]

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(layer)``."""
        return f"{self.in_features}, {self.out_features}, dropout={self.dropout}, alpha={self.alpha}"


class GAT(nn.Module):
    """Two layers of graph attention: ``num_heads`` heads side by side, then one; log-softmax at the end.

    ``x: [N, input_dim], adj: [N, N] -> ([N, output_dim] log-probabilities, maps)`` with ``maps`` the first layer's
    attention, a list with one ``[N, N]`` map a head; ``maps.edge_weights`` is ``[E, num_heads]``.

    The heads are modules with the tutorial's names, but run together, in one product and one kernel: hooks on a single
    head are not called.

    Args:
        input_dim, hidden_dim, output_dim: channels; ``hidden_dim`` of each head.
        num_heads: heads of the first layer.
        dropout: the probability of dropping an attention, and a feature between the layers, in training.

    Raises:
        ValueError: a size below 1, a dropout outside ``[0, 1]``.

    Veličković et al. 2018, arXiv:1710.10903.
    """

    def __init__(
        self, input_dim: int, hidden_dim: int, output_dim: int, num_heads: int = 8, *, dropout: float = 0.6
    ) -> None:
        super().__init__()
        check_size("num_heads", num_heads)
        self.attention_heads = nn.ModuleList(
            GraphAttentionLayer(input_dim, hidden_dim, dropout) for _ in range(num_heads)
        )
        self.out_att = GraphAttentionLayer(hidden_dim * num_heads, output_dim, dropout)
        self.dropout = dropout

    def forward(self, x: Tensor, adj: Any, *, need_weights: bool = True) -> tuple[Tensor, EdgeAttentionMaps | None]:
        """Return log-probabilities and the heads' attention; None in its place where ``need_weights`` is False."""
        graph = _positive(adj)
        heads: list[Any] = list(self.attention_heads)
        _check_features(x, heads[0].in_features)
        hidden, maps = _attend_as_the_tutorial(heads, x, graph, need_weights)
        hidden = nn.functional.elu(hidden.flatten(1))
        hidden = nn.functional.dropout(hidden, self.dropout, self.training)
        out, _ = self.out_att(hidden, graph, need_weights=False)
        return torch.log_softmax(out, dim=1), maps


class GATConv(nn.Module):
    """PyTorch Geometric's ``GATConv``: the same constructor, call, results and ``state_dict`` keys.

    ``x: [N, in_channels], edge_index: [2, E] -> [N, heads * out_channels]``, or ``[N, out_channels]`` without
    ``concat``. Instead of ``edge_index`` an ``advkern.Graph`` or an adjacency matrix (PyTorch Geometric's ``adj_t``)
    may stand.

    Args:
        in_channels, out_channels: channels; pairs (bipartite graphs) and lazy sizes (-1) are not supported.
        heads: how many heads.
        concat: join the heads, instead of their mean.
        negative_slope: of the leaky ReLU.
        dropout: the probability of dropping an attention in training.
        add_self_loops: add a loop to each node that has none.
        edge_dim, fill_value: of edge features, which are not supported: only ``edge_dim=None``.
        bias: whether to add a bias.
        residual: whether to add a product of ``x`` to the result.
        kwargs: of ``MessagePassing``, only the defaults ``aggr="add"`` and ``flow="source_to_target"``.

    Raises:
        ValueError: an unsupported option or shapes that do not fit, each named.

    Veličković et al. 2018, arXiv:1710.10903.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: float | Tensor | str = "mean",
        bias: bool = True,
        residual: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if not isinstance(in_channels, int):
            raise ValueError(f"in_channels: expected one size (bipartite graphs are not supported), got {in_channels}")
        check_size("in_channels", in_channels)
        check_size("out_channels", out_channels)
        check_size("heads", heads)
        check_probability("dropout", dropout)
        if edge_dim is not None:
            raise ValueError(f"edge_dim: expected None (edge features are not supported), got {edge_dim}")
        for name, value in kwargs.items():
            if (name, value) not in (("aggr", "add"), ("aggr", "sum"), ("flow", "source_to_target"), ("node_dim", 0)):
                raise ValueError(f"{name}: expected PyTorch Geometric's default for GATConv, got {value!r}")
        self.in_channels, self.out_channels, self.heads, self.concat = in_channels, out_channels, heads, concat
        self.negative_slope, self.dropout, self.add_self_loops = negative_slope, dropout, add_self_loops
        self.edge_dim, self.fill_value, self.residual = edge_dim, fill_value, residual
        total = out_channels * (heads if concat else 1)
        self.lin = nn.Linear(in_channels, heads * out_channels, bias=False)
        self.att_src = nn.Parameter(torch.empty(1, heads, out_channels))
        self.att_dst = nn.Parameter(torch.empty(1, heads, out_channels))
        self.res = nn.Linear(in_channels, total, bias=False) if residual else None
        self.bias = nn.Parameter(torch.empty(total)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew (Glorot and Bengio 2010) and zero the bias."""
        nn.init.xavier_uniform_(self.lin.weight)
        nn.init.xavier_uniform_(self.att_src)
        nn.init.xavier_uniform_(self.att_dst)
        if self.res is not None:
            nn.init.xavier_uniform_(self.res.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        edge_attr: Tensor | None = None,
        size: tuple[int, int] | None = None,
        return_attention_weights: bool | None = None,
    ) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend along edges that run from ``edge_index[0]`` to ``edge_index[1]``.

        With ``return_attention_weights`` given, True or False, also ``(edge_index, [E, heads])``: the attention before
        dropout, of the edges in their order and then of the loops that were added.
        """
        _check_features(x, self.in_channels)
        for name, value in (("edge_attr", edge_attr), ("size", size)):
            if value is not None:
                raise ValueError(f"{name}: expected None (not supported), got {type(value).__name__}")
        graph = edge_index_as_graph(edge_index, None, x.shape[0])
        if self.add_self_loops:
            graph = graph.with_self_loops()
        weight = self.lin.weight.t()
        att = torch.stack([self.att_dst[0], self.att_src[0]])
        h, scores = _features_and_scores(x, weight, att)
        of_heads = None if self.bias is None or not self.concat else self.bias.unflatten(0, h.shape[1:])
        out, row_max, row_sum = attend(
            graph, h, *scores, self.negative_slope, self.dropout, self.training, bias=of_heads
        )
        out = out.flatten(1) if self.concat else out.mean(1)
        if self.res is not None:
            out = out + self.res(x)
        if self.bias is not None and not self.concat:
            out = out + self.bias
        if return_attention_weights is None:
            return out
        alpha = edge_attention(graph, *scores, row_max, row_sum, self.negative_slope).to(h.dtype)
        return out, (graph.edge_index, _in_given_order(graph, alpha))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, heads={self.heads})"


_WIDE = 4  # times as many channels come in as go out


class _HeadSource:
    """What one head's map is computed from: two scores a node, and the greatest score and sum of exp of its row."""

    def __init__(self, graph: Graph, saved: list[Tensor], negative_slope: float, dtype: torch.dtype) -> None:
        self.graph, self.saved, self.negative_slope, self.dtype = graph, saved, negative_slope, dtype

    def attention(self) -> Tensor:
        score_dst, score_src, row_max, row_sum = self.saved
        alpha = edge_attention(self.graph, score_dst, score_src, row_max, row_sum, self.negative_slope)
        return alpha[:, 0].to(self.dtype)

    def edge_weights(self) -> Tensor:
        return _in_given_order(self.graph, self.attention())

    def dense(self) -> Tensor:
        graph, alpha = self.graph, self.attention()
        dense = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=alpha.dtype, device=alpha.device)
        return dense.index_put((graph.row.long(), graph.col.long()), alpha, accumulate=True)


def _attend_as_the_tutorial(
    heads: list[GraphAttentionLayer], x: Tensor, graph: Graph, need_weights: bool
) -> tuple[Tensor, EdgeAttentionMaps | None]:  # [N, heads, channels]
    """Run heads of one size together; their scores are ``a[:F] . h_i + a[F:] . h_j``."""
    first = heads[0]
    weight = first.W if len(heads) == 1 else torch.cat([head.W for head in heads], dim=1)
    att = torch.stack([head.a.view(2, -1) for head in heads], dim=1)
    h, scores = _features_and_scores(x, weight, att)
    out, row_max, row_sum = attend(graph, h, *scores, first.alpha, first.dropout, first.training)
    if not need_weights:
        return out, None
    maps = EdgeAttentionMaps()
    shape = (graph.num_nodes, graph.num_nodes)
    for k in range(len(heads)):
        saved = [t[:, k : k + 1] for t in (*scores, row_max, row_sum)]
        source = _HeadSource(graph, saved, first.alpha, out.dtype)
        maps.append(EdgeAttentionMap(source, shape, out.dtype, out.device, row_sum.requires_grad))
    return out, maps


def _features_and_scores(
    x: Tensor,  # [N, in_features]
    weight: Tensor,  # [in_features, heads * channels]
    att: Tensor,  # [2, heads, channels]: of the node that attends, and of the one attended to
) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # [N, heads, channels], [N, heads] twice
    """``h = x W`` and ``h . att``, taken as ``x (W . att)``: its gradient then needs no second ``[N, H, F]``."""
    _, heads, channels = att.shape
    h = linear(x, weight.t()).unflatten(1, (heads, channels))
    acc = accumulation_dtype(x.dtype)
    if x.shape[1] > _WIDE * heads * channels and h.dtype == acc:  # then reading x twice costs more than that gradient
        scores = torch.einsum("nhf,shf->snh", h, att)
        return h, (scores[0], scores[1])
    with torch.autocast(x.device.type, enabled=False):
        folded = torch.einsum("ihf,shf->shi", weight.to(acc).unflatten(1, (heads, channels)), att.to(acc))
        scores = linear(x.to(acc), folded.flatten(0, 1).contiguous())  # of another layout torch takes twice as long
    return h, (scores[:, :heads], scores[:, heads:])


def _positive(adj: Any) -> Graph:
    """The graph of the positive entries of ``adj``, as in the tutorial; an ``advkern.Graph`` as it stands."""
    graph = as_graph(adj)
    if isinstance(adj, Graph) or graph.weight is None:
        return graph
    return graph._once("positive", lambda: _without_others(graph))


def _without_others(graph: Graph) -> Graph:
    assert graph.weight is not None
    keep = graph.weight.detach() > 0
    if bool(keep.all()):
        return Graph._of(graph._structure, None)
    rowptr = nn.functional.pad(keep.cumsum(0), (1, 0))[graph.rowptr]
    kept = Graph(rowptr, graph.col[keep])
    if graph.edge_order is not None:
        kept._structure.edge_order = graph.edge_order[keep].argsort().argsort()
    return kept


def _in_given_order(graph: Graph, values: Tensor) -> Tensor:
    """Edge values of the CSR, ``[E, ...]``, in the caller's order."""
    if graph.edge_order is None:
        return values
    return torch.empty_like(values).index_copy(0, graph.edge_order, values)
