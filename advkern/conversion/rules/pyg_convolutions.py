"""PyTorch Geometric's ``GCNConv`` and ``GATConv``."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from advkern.adjacency import edge_index_as_graph
from advkern.conversion.rule import Rule, library_class
from advkern.conversion.swap import Converted, hooked, is_plain_tensor
from advkern.graph import Graph
from advkern.nn import GATConv, GCNConv
from advkern.nn.gcn import _convolve


class ConvertedGCNConv(Converted):
    """The forward of :class:`advkern.nn.GCNConv`, on PyG's module; other inputs than tensors of ids are PyG's."""

    def forward(self, x: Any, edge_index: Any, edge_weight: Tensor | None = None) -> Tensor:
        """Convolve ``x: [N, in_channels]`` along ``edge_index: [2, E]``."""
        own: Any = self
        if not _serves(own, x, edge_index):
            return super().forward(x, edge_index, edge_weight)
        if own.cached and own.normalize:
            if own._cached_edge_index is None:
                with torch.no_grad() if edge_weight is None else contextlib.nullcontext():
                    super().forward(x, edge_index, edge_weight)  # for the graph that it keeps, which all calls take
            kept, weight = own._cached_edge_index
            graph = edge_index_as_graph(kept, weight, x.shape[0])
            return _convolve(graph, x, own.lin.weight.t(), own.bias, None, None)
        if own.add_self_loops and (
            _has_repeated_loops(edge_index, x.shape[0])
            or (own.improved and edge_weight is None)  # then PyG adds loops of weight 1, not 2
        ):
            return super().forward(x, edge_index, edge_weight)
        return GCNConv.forward(own, x, edge_index, edge_weight)


class ConvertedGATConv(Converted):
    """The forward of :class:`advkern.nn.GATConv`, on PyG's module; the calls it does not serve are PyG's."""

    def forward(
        self,
        x: Any,
        edge_index: Any,
        edge_attr: Tensor | None = None,
        size: Any = None,
        return_attention_weights: bool | None = None,
    ) -> Any:
        """Attend along ``edge_index: [2, E]`` from ``x: [N, in_channels]``."""
        own: Any = self
        if (
            size is not None
            or return_attention_weights is not None
            or not _serves(own, x, edge_index)
            or (own.add_self_loops and _has_repeated_loops(edge_index, x.shape[0]))
        ):
            return super().forward(x, edge_index, edge_attr, size, return_attention_weights)
        return GATConv.forward(own, x, edge_index)  # without edge_dim PyG does not look at edge_attr


def _serves(own: Any, x: Any, edge_index: Any) -> bool:
    """Whether a call is one for the kernels: nobody asks for its messages, and both inputs are plain tensors."""
    ids = is_plain_tensor(edge_index) and edge_index.layout == torch.strided and not edge_index.is_floating_point()
    if not ids or edge_index.dim() != 2 or edge_index.dtype not in (torch.int32, torch.int64):
        return False
    if not is_plain_tensor(x) or x.dim() != 2 or x.shape[1] != own.in_channels:
        return False
    return not own._explain and not hooked(own.lin) and not _message_hooks(own) and not torch.compiler.is_compiling()


def _message_hooks(own: Any) -> bool:
    steps = ("propagate", "message", "aggregate", "message_and_aggregate", "edge_update")
    return any(own.__dict__.get(f"_{step}_forward{when}_hooks") for step in steps for when in ("", "_pre"))


def _has_repeated_loops(edge_index: Tensor, num_nodes: int) -> bool:
    """PyG makes one of a node's several self loops, ours keeps them all; looked at once a graph."""
    graph = edge_index_as_graph(edge_index, None, num_nodes)
    return graph._once("repeated loops", lambda: _count_repeated_loops(graph))


def _count_repeated_loops(graph: Graph) -> bool:
    loops = graph.col[graph.row == graph.col]
    return loops.numel() != loops.unique().numel()


def _refusal(module: Any) -> str | None:
    if module.lin is None or not isinstance(module.in_channels, int):
        return "bipartite: sources and targets of their own widths"
    if getattr(module, "edge_dim", None) is not None:
        return "it has edge features (edge_dim)"
    if module.aggr not in ("add", "sum") or module.flow != "source_to_target":
        return f"it aggregates otherwise than its class (aggr={module.aggr!r}, flow={module.flow!r})"
    if module.node_dim != (0 if type(module).__name__ == "GATConv" else -2):
        return f"nodes lie along another axis (node_dim={module.node_dim})"
    if module.decomposed_layers != 1:
        return f"its features are aggregated in parts (decomposed_layers={module.decomposed_layers})"
    if type(module.lin).__module__ != "torch_geometric.nn.dense.linear" or type(module.lin).__name__ != "Linear":
        return f"its lin is a {type(module.lin).__name__} of another kind"
    if hooked(module.lin):
        return "a hook is registered on lin"
    return "a hook is registered on its messages" if _message_hooks(module) else None


_DIRECTED = ((0, 1, 1, 2, 3, 3, 4), (1, 0, 2, 2, 1, 0, 3))  # with a loop; nothing leads to node 4


def _attention_probe(module: Any, generator: torch.Generator) -> tuple[Any, ...]:
    return torch.randn(5, module.in_channels, generator=generator, dtype=torch.float64), torch.tensor(_DIRECTED)


def _convolution_probe(module: Any, generator: torch.Generator) -> tuple[Any, ...]:
    module._cached_edge_index = None  # of the graph that the model has seen
    weight = torch.rand(len(_DIRECTED[0]), generator=generator, dtype=torch.float64)
    return *_attention_probe(module, generator), weight


_SAYS = "on the kernel of {}; other inputs than plain ids, repeated self loops{} and compiled code are PyG's"

RULES = [
    Rule(
        library_class("torch_geometric.nn.conv.gcn_conv.GCNConv"),
        ConvertedGCNConv,
        _refusal,
        _convolution_probe,
        _SAYS.format("gcn_aggregate", ""),
    ),
    Rule(
        library_class("torch_geometric.nn.conv.gat_conv.GATConv"),
        ConvertedGATConv,
        _refusal,
        _attention_probe,
        _SAYS.format("gat_attention", ", calls with return_attention_weights or size"),
    ),
]
