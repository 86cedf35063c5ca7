"""GCN beside the tutorial's own formula."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from advkern.demo.data import Data, digits, karate
from advkern.demo.runner import Contender, Experiment
from advkern.graph import Graph
from advkern.nn import GCN
from advkern.plots import demo_extra


def experiments(device: torch.device) -> list[Experiment]:
    """GCN on each graph, with the optimiser, dropout and epochs of Kipf and Welling 2017."""
    return [_experiment(karate().to(device), hidden=16), _experiment(digits().to(device), hidden=64)]


def _experiment(data: Data, hidden: int) -> Experiment:
    x = data.features
    graph = Graph.from_networkx(data.network).to(x.device)
    adj = normalized_adjacency(data.network).to(x.device)  # here, so that the twin's time is free of it
    sizes = (x.shape[1], hidden, len(data.classes))
    return Experiment(
        model="GCN",
        data=data,
        op="gcn_aggregate",
        ours=Contender(
            build=lambda: GCN(*sizes, normalize="sym", add_self_loops=True),
            scores=lambda model, rows: model(x, graph)[rows],
        ),
        twin=Contender(
            build=lambda: EagerGCN(*sizes),
            scores=lambda model, rows: model(x, adj)[rows],
        ),
    )


def normalized_adjacency(network: Any) -> Tensor:  # [N, N], torch.sparse_coo
    """``D^-1/2 (A + I) D^-1/2`` of a networkx graph, D the row sums of ``A + I``."""
    with demo_extra():
        import networkx as nx

    adj = torch.from_numpy(nx.to_numpy_array(network, dtype="float32")) + torch.eye(len(network))
    scale = adj.sum(dim=1).rsqrt()
    return (scale[:, None] * adj * scale).to_sparse()


class EagerGraphConvolution(nn.Module):
    """``adj (x W) + b`` in plain PyTorch."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        """Convolve ``x: [N, in_features]`` over the sparse ``adj: [N, N]``."""
        return torch.sparse.mm(adj, torch.mm(x, self.weight)) + self.bias


class EagerGCN(nn.Module):
    """Two convolutions with ReLU and dropout between; its weights have the names of ``advkern.nn.GCN``'s."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        sizes = ((input_dim, hidden_dim), (hidden_dim, output_dim))
        self.layers = nn.ModuleList(EagerGraphConvolution(*size) for size in sizes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        """Return log-probabilities ``[N, output_dim]``."""
        x = self.dropout(torch.relu(self.layers[0](x, adj)))
        return torch.log_softmax(self.layers[1](x, adj), dim=1)
