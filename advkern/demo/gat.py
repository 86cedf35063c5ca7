"""GAT beside plain PyTorch over the edges, the tutorial's formula without its N x N tensors."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from advkern import plots
from advkern.demo.data import Data, digits, karate
from advkern.demo.picture import Figure, Picture
from advkern.demo.runner import Contender, Experiment
from advkern.graph import Graph
from advkern.nn import GAT


def experiments(device: torch.device) -> list[Experiment]:
    """GAT on each graph, with eight heads and the dropout of Veličković et al. 2018."""
    small, large = _experiment(karate().to(device)), _experiment(digits().to(device))
    return [replace(small, naive=None), large]  # a step of milliseconds says little


def _experiment(data: Data) -> Experiment:
    x = data.features
    graph = Graph.from_networkx(data.network).to(x.device).with_self_loops()
    edges = graph.edge_index  # here, so that the twin's time is free of it
    sizes = (x.shape[1], 8, len(data.classes))
    return Experiment(
        model="GAT",
        data=data,
        op="gat_attention",
        ours=Contender(
            build=lambda: GAT(*sizes),
            scores=lambda model, rows: model(x, graph, need_weights=False)[0][rows],
        ),
        twin=Contender(
            build=lambda: EagerGAT(*sizes),
            scores=lambda model, rows: model(x, edges)[rows],
        ),
        epochs=150,
        learning_rate=0.005,
        naive=Contender(
            build=lambda: EagerGAT(*sizes, attention=DenseGraphAttention),
            scores=lambda model, rows: model(x, edges)[rows],
        ),
        pictures=lambda result: [picture(result.ours[-1].model, data)],
    )


def picture(model: nn.Module, data: Data) -> Picture:
    """The attention of the first head of a trained model as a heat map, nodes sorted by class."""
    graph = Graph.from_networkx(data.network).to(data.features.device).with_self_loops()
    with torch.no_grad():
        _, maps = model.eval()(data.features, graph)
    labels = data.labels.cpu()
    order = labels.argsort(stable=True)
    attention = maps[0].dense().cpu()[order][:, order]
    groups = [data.classes[k] for k in labels[order]]
    same = labels[order, None] == labels[order]
    inside = float((attention * same).sum() / attention.sum())

    def draw() -> Figure:
        figure = Figure(figsize=(6.8, 5.6), layout="constrained")
        ax = plots.attention_map(attention, figure.subplots(), groups=groups)
        ax.set(xlabel="attended to, by class", ylabel="node, by class")
        return figure

    return Picture(
        name=f"{data.name}_attention",
        title=f"Attention of a head of GAT on {data.name}",
        caption="A row is a node, and a point in it the share of its attention that goes to a neighbour, the brighter "
        f"the more; nodes are sorted by class. {inside:.0%} of all attention stays within the class, in the squares "
        "along the diagonal.",
        draw=draw,
    )


class EagerGraphAttention(nn.Module):
    """One head: ``elu(sum_j alpha_ij W x_j)``, a score and a message an edge."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(in_features, out_features))
        self.a = nn.Parameter(torch.randn(2 * out_features, 1))
        nn.init.xavier_uniform_(self.W)
        nn.init.xavier_uniform_(self.a)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Attend along ``edges: [2, E]`` (source, target)."""
        source, target = edges
        h = x @ self.W
        of_targets, of_sources = (h @ part for part in self.a.view(2, -1))
        score = nn.functional.leaky_relu(of_targets[target] + of_sources[source], 0.2)
        greatest = score.new_full(x.shape[:1], -torch.inf).scatter_reduce(0, target, score.detach(), "amax")
        weight = torch.exp(score - greatest[target])
        weight = weight / torch.zeros_like(greatest).index_add(0, target, weight)[target]
        weight = nn.functional.dropout(weight, 0.6, self.training)
        return nn.functional.elu(torch.zeros_like(h).index_add(0, target, weight[:, None] * h[source]))


class DenseGraphAttention(EagerGraphAttention):
    """The same as the tutorial computes it: all pairs of nodes side by side, then a mask over those without an edge."""

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Attend along ``edges: [2, E]`` (source, target), each at most once, by a tensor ``[N, N, 2F]``."""
        source, target = edges
        h = x @ self.W
        shape = (len(h), *h.shape)
        pairs = torch.cat((h[:, None].expand(shape), h.expand(shape)), dim=-1)
        score = nn.functional.leaky_relu((pairs @ self.a).squeeze(-1), 0.2)
        joined = torch.zeros_like(score, dtype=torch.bool).index_put((target, source), torch.tensor(True))
        weight = score.masked_fill(~joined, -9e15).softmax(dim=1)
        return nn.functional.elu(nn.functional.dropout(weight, 0.6, self.training) @ h)


class EagerGAT(nn.Module):
    """Eight heads side by side, then one; its weights have the names of ``advkern.nn.GAT``'s."""

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_heads: int = 8,
        attention: type[EagerGraphAttention] = EagerGraphAttention,
    ) -> None:
        super().__init__()
        self.attention_heads = nn.ModuleList(attention(input_dim, hidden_dim) for _ in range(num_heads))
        self.out_att = attention(hidden_dim * num_heads, output_dim)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Return log-probabilities ``[N, output_dim]``."""
        x = torch.cat([head(x, edges) for head in self.attention_heads], dim=1)
        x = nn.functional.dropout(x, 0.6, self.training)
        return torch.log_softmax(self.out_att(x, edges), dim=1)
