"""The tutorial's graph layers, as they stand in somebody's notebook."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from advkern.adjacency import as_graph
from advkern.conversion.rule import Rule, tutorial_class
from advkern.conversion.swap import Converted, hooked
from advkern.graph import Graph
from advkern.nn import GAT, GraphAttentionLayer
from advkern.nn.gat import _positive
from advkern.nn.gcn import _convolve


class ConvertedGraphConvolutionLayer(Converted):
    """``adj (x W) + b`` over a sparse adjacency; a dense one is multiplied by the original."""

    def forward(self, x: Tensor, adj: Any) -> Tensor:
        """Convolve ``x: [N, in_features]``."""
        own: Any = self
        sparse = isinstance(adj, Tensor) and adj.layout != torch.strided and adj.shape[0] == adj.shape[1]
        if not sparse or adj.dtype != x.dtype:
            return super().forward(x, adj)
        return _convolve(as_graph(adj), x, own.weight, own.bias, None, None)


class ConvertedGraphAttentionLayer(Converted):
    """The forward of :class:`advkern.nn.GraphAttentionLayer`, wherever every node has a neighbour."""

    def forward(self, x: Tensor, adj: Any, *, need_weights: bool = True) -> Any:
        """Attend from ``x: [N, in_features]`` to neighbours: the features and the attention."""
        own: Any = self
        graph = _graph_without_lonely_nodes(adj)
        if graph is None or hooked(own.leakyrelu):
            return super().forward(x, adj)
        return GraphAttentionLayer.forward(own, x, graph, need_weights=need_weights)


class ConvertedGAT(Converted):
    """The forward of :class:`advkern.nn.GAT`: all heads in one product and one kernel."""

    dropout = 0.6  # of the features between the layers; the tutorial writes it into its forward

    def forward(self, x: Tensor, adj: Any) -> Any:
        """Return log-probabilities and the attention of the heads."""
        own: Any = self
        graph = _graph_without_lonely_nodes(adj)
        heads = list(own.attention_heads)
        if graph is None or hooked(own.attention_heads, *heads) or not _alike(heads):
            return super().forward(x, adj)
        return GAT.forward(own, x, graph)


def _graph_without_lonely_nodes(adj: Any) -> Graph | None:
    """The positive entries of ``adj``; None where the tutorial lets a node without neighbours attend to all."""
    if isinstance(adj, Graph):
        return adj  # of a GAT, which has looked at it
    if not isinstance(adj, Tensor) or adj.dim() != 2 or adj.shape[0] != adj.shape[1] or torch.compiler.is_compiling():
        return None
    graph = _positive(adj)
    lonely = graph._once("lonely nodes", lambda: bool((graph.rowptr.diff() == 0).any()))
    return None if lonely else graph


def _alike(heads: list[Any]) -> bool:
    options = [(head.W.shape, head.alpha, head.dropout, head.training) for head in heads]
    return all(each == options[0] for each in options)


def _convolution_refusal(module: Any) -> str | None:
    shapes = tuple(module.weight.shape), tuple(module.bias.shape)
    return None if shapes[0][1:] == shapes[1] else f"weight and bias of other shapes than the tutorial's: {shapes}"


def _attention_refusal(module: Any) -> str | None:
    if module.W.dim() != 2 or module.a.shape != (2 * module.W.shape[1], 1):
        return f"W and a of other shapes than the tutorial's: {tuple(module.W.shape)}, {tuple(module.a.shape)}"
    if type(module.leakyrelu) is not nn.LeakyReLU or module.leakyrelu.negative_slope != module.alpha:
        return "its leakyrelu is not a LeakyReLU with the slope alpha"
    return "a hook is registered on leakyrelu" if hooked(module.leakyrelu) else None


def _gat_refusal(module: Any) -> str | None:
    heads = list(module.attention_heads)
    left = [head for head in (*heads, module.out_att) if not isinstance(head, ConvertedGraphAttentionLayer)]
    if not heads or left:
        return "a layer of it was left"
    if not _alike(heads):
        return "its heads differ in size or options"
    return "a hook is registered on a head" if hooked(module.attention_heads, *heads) else None


def _graph_inputs(channels: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    adj: Any = torch.tensor([[0, 1, 0, 2], [0.5, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0]], dtype=torch.float64)
    return torch.randn(4, channels, generator=generator, dtype=torch.float64), adj.to_sparse()


def _gat_dropouts(module: Any) -> list[float]:
    attention = [layer.dropout for layer in (*module.attention_heads, module.out_att)]
    return [*attention, ConvertedGAT.dropout]


RULES = [
    Rule(
        tutorial_class("GraphConvolutionLayer", parameters=("weight", "bias")),
        ConvertedGraphConvolutionLayer,
        _convolution_refusal,
        lambda module, generator: _graph_inputs(module.weight.shape[0], generator),
        "gcn_aggregate, where adj is sparse and of x's type; its own lines elsewhere",
        dropouts=lambda module: [],
    ),
    Rule(
        tutorial_class("GraphAttentionLayer", parameters=("W", "a"), modules=("leakyrelu",)),
        ConvertedGraphAttentionLayer,
        _attention_refusal,
        lambda module, generator: _graph_inputs(module.W.shape[0], generator),
        "gat_attention, with the attention before dropout; its own lines where a node has no neighbours, or compiled",
        dropouts=lambda module: [module.dropout],
    ),
    Rule(
        tutorial_class("GAT", modules=("attention_heads", "out_att")),
        ConvertedGAT,
        _gat_refusal,
        lambda module, generator: _graph_inputs(module.attention_heads[0].W.shape[0], generator),
        "all heads in one gat_attention; its own lines where a node has no neighbours, or compiled",
        dropouts=_gat_dropouts,
    ),
]
