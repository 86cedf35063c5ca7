"""Graph convolution: ``act(norm(A) X W + b)`` (Kipf and Welling 2017, arXiv:1609.02907)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from advkern.adjacency import as_graph, edge_index_as_graph
from advkern.graph import NORMALIZATIONS, Graph
from advkern.nn._checks import check_probability, check_size
from advkern.nn._hooks import is_untouched
from advkern.nn._linear import linear
from advkern.ops.gcn_aggregate import gcn_aggregate
from advkern.reference.gcn_aggregate import ACTIVATION_NAMES, ACTIVATIONS


class GraphConvolutionLayer(nn.Module):
    """One graph convolution: ``act(norm(A) x W + b)``.

    ``x: [N, in_features], adj: [N, N] -> [N, out_features]``; row *i* of ``adj`` gathers from the columns it
    stores. The product with ``W`` is taken before or after the aggregation, whichever moves fewer features.

    Args:
        in_features, out_features: channels in and out.
        bias: whether to add a bias.
        normalize: None (``adj`` as it stands), "sym" (``D^-1/2 A D^-1/2``) or "row" (``D^-1 A``).
        add_self_loops: add a loop of weight 1 to each node that has none.
        activation: None, "relu", "elu" or "log_softmax" (inside the kernel where the product with ``W`` comes first),
            or any callable.

    Raises:
        ValueError: a size below 1, an unknown normalisation or activation; in the call, shapes that do not fit.

    Kipf and Welling 2017, "Semi-supervised classification with graph convolutional networks", arXiv:1609.02907.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        normalize: str | None = None,
        add_self_loops: bool = False,
        activation: str | Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        check_size("in_features", in_features)
        check_size("out_features", out_features)
        _check_options(normalize, activation)
        self.in_features, self.out_features = in_features, out_features
        self.normalize, self.add_self_loops, self.activation = normalize, add_self_loops, activation
        # drawn twice, as the tutorial does, so that one seed gives both the same weights
        self.weight = nn.Parameter(torch.randn(in_features, out_features))
        nn.init.xavier_uniform_(self.weight)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor, adj: Any) -> Tensor:
        """Convolve ``x: [N, in_features]`` over ``adj`` (a matrix of any kind or an ``advkern.Graph``)."""
        return self._activated(x, as_graph(adj), self.activation)

    def _activated(self, x: Tensor, graph: Graph, activation: str | Callable[[Tensor], Tensor] | None) -> Tensor:
        _check_features(x, self.in_features, graph.num_nodes)
        if self.add_self_loops:
            graph = graph.with_self_loops()
        return _convolve(graph, x, self.weight, self.bias, self.normalize, activation)

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(layer)``."""
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, normalize={self.normalize!r}, "
            f"add_self_loops={self.add_self_loops}, activation={self.activation!r}"
        )


class GCN(nn.Module):
    """A stack of graph convolutions with ReLU and dropout between, log-softmax at the end.

    ``x: [N, input_dim], adj: [N, N] -> [N, output_dim]`` log-probabilities.

    Args:
        input_dim, hidden_dim, output_dim: channels.
        num_layers: how many convolutions, at least 1.
        dropout: probability of zeroing a hidden feature in training.
        normalize, add_self_loops: as in :class:`GraphConvolutionLayer`.

    Raises:
        ValueError: a size or ``num_layers`` below 1, a dropout outside ``[0, 1]``, an unknown normalisation.

    Kipf and Welling 2017, arXiv:1609.02907.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int = 2,
        *,
        dropout: float = 0.5,
        normalize: str | None = None,
        add_self_loops: bool = False,
    ) -> None:
        super().__init__()
        check_size("num_layers", num_layers)
        check_probability("dropout", dropout)
        sizes = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(
            GraphConvolutionLayer(
                sizes[k],
                sizes[k + 1],
                normalize=normalize,
                add_self_loops=add_self_loops,
                activation="relu" if k < num_layers - 1 else None,
            )
            for k in range(num_layers)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, adj: Any) -> Tensor:
        """Return log-probabilities ``[N, output_dim]``."""
        graph = as_graph(adj)
        *hidden, last = self.layers  # a slice would build a new ModuleList
        for layer in hidden:
            x = self.dropout(layer(x, graph))
        autocast = torch.is_autocast_enabled(graph.device.type)  # which may want the logarithm in float32
        if is_untouched(last, GraphConvolutionLayer) and last.activation is None and not autocast:
            return last._activated(x, graph, "log_softmax")  # inside the kernel, which has each row at hand
        return torch.log_softmax(last(x, graph), dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        layers = len(
            {key.split(".")[1] for key in (k.removeprefix(prefix) for k in state_dict) if key[:7] == "layers."}
        )
        if len(self.layers) == 1 and layers == 2:
            raise RuntimeError(
                "GCN: this checkpoint holds 2 layers and the model 1. The tutorial's num_layers=1 builds two: "
                "load it into num_layers=2"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


class GCNConv(nn.Module):
    """PyTorch Geometric's ``GCNConv``: the same constructor, call and ``state_dict`` keys.

    ``x: [N, in_channels], edge_index: [2, E], edge_weight: [E] or None -> [N, out_channels]``. Instead of
    ``edge_index`` an ``advkern.Graph`` or an adjacency matrix (PyTorch Geometric's ``adj_t``) may stand.

    Args:
        in_channels, out_channels: channels; lazy sizes (-1) are not supported.
        improved: give added self loops the weight 2.
        cached: taken for the sake of the signature. Graphs are always cached, by the identity of
            ``edge_index``, so that a changed graph is noticed.
        add_self_loops: add missing self loops; None means as ``normalize``.
        normalize: normalise symmetrically by the degrees.
        bias: whether to add a bias.
        kwargs: of ``MessagePassing``, only the defaults ``aggr="add"`` and ``flow="source_to_target"``.

    Raises:
        ValueError: an unsupported option or shapes that do not fit, each named.

    Kipf and Welling 2017, arXiv:1609.02907.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        improved: bool = False,
        cached: bool = False,
        add_self_loops: bool | None = None,
        normalize: bool = True,
        bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        check_size("in_channels", in_channels)
        check_size("out_channels", out_channels)
        for name, value in kwargs.items():
            if (name, value) not in (("aggr", "add"), ("aggr", "sum"), ("flow", "source_to_target"), ("node_dim", -2)):
                raise ValueError(f"{name}: expected PyTorch Geometric's default for GCNConv, got {value!r}")
        if add_self_loops is None:
            add_self_loops = normalize
        if add_self_loops and not normalize:
            raise ValueError("add_self_loops: expected False or None together with normalize=False, got True")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.improved, self.cached = improved, cached
        self.add_self_loops, self.normalize = add_self_loops, normalize
        self.lin = nn.Linear(in_channels, out_channels, bias=False)
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight anew (Glorot and Bengio 2010) and zero the bias."""
        nn.init.xavier_uniform_(self.lin.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Tensor:
        """Convolve ``x``; edges run from ``edge_index[0]`` to ``edge_index[1]``."""
        _check_features(x, self.in_channels)
        graph = edge_index_as_graph(edge_index, edge_weight, x.shape[0])
        _check_features(x, self.in_channels, graph.num_nodes)
        if self.add_self_loops:
            graph = graph.with_self_loops(2.0 if self.improved else 1.0)
        mode = "sym" if self.normalize else None
        return _convolve(graph, x, self.lin.weight.t(), self.bias, mode, None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels})"


def _convolve(
    graph: Graph,
    x: Tensor,  # [N, in_features]
    weight: Tensor,  # [in_features, out_features]
    bias: Tensor | None,
    normalize: str | None,
    activation: str | Callable[[Tensor], Tensor] | None,
) -> Tensor:  # [N, out_features]
    inside = activation if activation in ACTIVATION_NAMES else None
    if weight.shape[0] >= weight.shape[1]:
        out = gcn_aggregate(graph, linear(x, weight.t()), normalize=normalize, bias=bias, activation=inside)
    else:  # fewer features travel along the edges before the product than after it
        gathered = gcn_aggregate(graph, x, normalize=normalize)
        out = linear(gathered, weight.t(), bias)
        out = ACTIVATIONS[inside](out)
    return activation(out) if callable(activation) else out


def _check_options(normalize: str | None, activation: Any) -> None:
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"normalize: expected one of {NORMALIZATIONS}, got {normalize!r}")
    if activation not in ACTIVATION_NAMES and not callable(activation):
        raise ValueError(f"activation: expected one of {ACTIVATION_NAMES} or a callable, got {activation!r}")


def _check_features(x: Tensor, channels: int, num_nodes: int | None = None) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor (bipartite pairs are not supported), got {type(x).__name__}")
    if x.dim() != 2 or x.shape[1] != channels or num_nodes not in (None, x.shape[0]):
        rows = "num_nodes" if num_nodes is None else f"num_nodes = {num_nodes}"
        raise ValueError(f"x: expected shape [{rows}, {channels}], got {tuple(x.shape)}")
