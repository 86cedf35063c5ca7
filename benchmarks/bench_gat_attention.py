"""Graph attention beside PyTorch Geometric's layer, one of torch-scatter's and torch-sparse's pieces, plain PyTorch
over the edges, and the tutorial's dense class.

Whole layers with their Linear, of 128 features: what a user replaces.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from advkern import Graph, use_backend
from advkern.nn import GAT, GATConv
from advkern.testing import peak_memory, standard_graph
from advkern.testing.peers import optional_peer

GRAPHS = {
    "arxiv-uniform": lambda: standard_graph("arxiv", "uniform"),
    "arxiv-power-law": lambda: standard_graph("arxiv", "power-law"),
    "cora": lambda: standard_graph("cora"),
}
IN_FEATURES = 128
SHAPES = [(8, 8), (8, 16), (4, 64)]  # heads, channels
WORKLOADS = [(g, shape) for g in ("arxiv-uniform", "arxiv-power-law") for shape in SHAPES] + [("cora", (8, 8))]


@pytest.fixture(scope="module")
def graphs():
    return {name: build() for name, build in GRAPHS.items()}


class EdgeAttention(nn.Module):
    """The same layer in plain PyTorch, a message an edge and head, as people write it themselves."""

    def __init__(self, layer: GATConv) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        """``[N, heads * channels]``."""
        layer, (source, target) = self.layer, edge_index
        h = layer.lin(x).view(-1, layer.heads, layer.out_channels)
        score = (h * layer.att_dst).sum(2)[target] + (h * layer.att_src).sum(2)[source]
        score = nn.functional.leaky_relu(score, layer.negative_slope)
        places = target[:, None].expand_as(score)
        greatest = score.new_full(h.shape[:2], -torch.inf).scatter_reduce(0, places, score.detach(), "amax")
        weight = torch.exp(score - greatest[target])
        weight = weight / torch.zeros_like(greatest).index_add(0, target, weight)[target]
        return torch.zeros_like(h).index_add(0, target, weight[:, :, None] * h[source]).flatten(1) + layer.bias


class SparseAttention(nn.Module):
    """The same layer of torch-scatter's and torch-sparse's pieces: softmax by segments, a sparse product a head."""

    def __init__(self, layer: GATConv, graph: Graph) -> None:
        super().__init__()
        sparse, scatter = optional_peer("torch_sparse"), optional_peer("torch_scatter")
        self.layer, self.matmul, self.segment, self.spread = (
            layer,
            sparse.matmul,
            scatter.segment_csr,
            scatter.gather_csr,
        )
        n = graph.num_nodes
        self.adj = sparse.SparseTensor(rowptr=graph.rowptr, col=graph.col.long(), sparse_sizes=(n, n))
        self.adj.fill_cache_()  # its transpose, for the backward

    def forward(self, x: torch.Tensor, _graph: Graph) -> torch.Tensor:
        """``[N, heads * channels]``."""
        layer, (rowptr, source, _) = self.layer, self.adj.csr()
        h = layer.lin(x).view(-1, layer.heads, layer.out_channels)
        score = self.spread((h * layer.att_dst).sum(2), rowptr) + (h * layer.att_src).sum(2)[source]
        score = nn.functional.leaky_relu(score, layer.negative_slope)
        weight = torch.exp(score - self.spread(self.segment(score.detach(), rowptr, reduce="max"), rowptr))
        weight = weight / self.spread(self.segment(weight, rowptr), rowptr)
        by_head = zip(weight.unbind(1), h.unbind(1), strict=True)
        heads = [self.matmul(self.adj.set_value(w.contiguous(), layout="csr"), part) for w, part in by_head]
        return torch.cat(heads, 1) + layer.bias


@pytest.mark.parametrize("work", ["forward", "forward+backward"])
@pytest.mark.parametrize(
    ("graph_name", "shape"), WORKLOADS, ids=lambda v: v if isinstance(v, str) else f"{v[0]}x{v[1]}"
)
def bench_layer(compare, threads, graphs, graph_name, shape, work):
    graph, (heads, channels) = graphs[graph_name], shape
    torch.manual_seed(0)
    ours = GATConv(IN_FEATURES, channels, heads, add_self_loops=False)
    nn.init.normal_(ours.bias)
    x = torch.randn(graph.num_nodes, IN_FEATURES)
    cotangent = torch.randn(graph.num_nodes, heads * channels)
    edge_index = graph.edge_index
    layers = {"advkern": (ours, graph)}
    geometric = pytest.importorskip("torch_geometric.nn").GATConv
    theirs = geometric(IN_FEATURES, channels, heads, add_self_loops=False)
    theirs.load_state_dict(ours.state_dict())
    layers["pyg"] = (theirs, edge_index)
    if optional_peer("torch_sparse") and optional_peer("torch_scatter"):
        layers["torch_sparse"] = (SparseAttention(ours, graph), graph)
    if graph_name == "cora":  # at arxiv size it is PyTorch Geometric's over again
        layers["plain"] = (EdgeAttention(ours), edge_index)
    candidates = {name: lambda pair=pair: run(*pair, x, cotangent, work) for name, pair in layers.items()}

    def exact():
        double = GATConv(IN_FEATURES, channels, heads, add_self_loops=False).double()
        double.load_state_dict(ours.state_dict())
        with use_backend("torch"):
            return run(double, graph, x.double(), cotangent.double(), work)

    facts = {"graph": graph_name, "heads": heads, "channels": channels, "threads": threads}
    # up to 1e-3 of the largest gradient, of ours or of PyTorch Geometric's by the seed: scores on leaky relu's kink
    tolerance = 1e-5 if work == "forward" else 2e-3
    compare(candidates, exact, tolerance=tolerance, work=work, **facts)


def run(layer, edges, x, cotangent, work):
    """The output, and with the backward the gradients in all parameters too."""
    if work == "forward":
        with torch.no_grad():
            return layer(x, edges)
    out = layer(x, edges)
    return out.detach(), *torch.autograd.grad(out, list(layer.parameters()), cotangent)


def bench_tutorial_model(compare, threads, graphs):
    """The tutorial's GAT at cora size, eight heads: its class makes an N x N x 16 tensor a head."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import tutorial

    torch.manual_seed(0)
    looped = graphs["cora"].with_self_loops()  # a node without neighbours is another matter there
    adj = (looped.to_dense() > 0).float()  # and it knows no multiple edges
    graph, x = Graph.from_dense(adj), torch.randn(looped.num_nodes, 64)
    ours = GAT(64, 8, 7).eval()
    theirs = tutorial.namespace()["GAT"](64, 8, 7).eval()
    theirs.load_state_dict(ours.state_dict())
    double = GAT(64, 8, 7).double().eval()
    double.load_state_dict(ours.state_dict())

    @torch.no_grad()
    def forward(model, adj, x=x):
        return model(x, adj)[0]

    def exact():
        with use_backend("torch"):
            return forward(double, graph, x.double())

    candidates = {
        "advkern": lambda: forward(ours, graph),
        "advkern_dense_adj": lambda: forward(ours, adj),
        "tutorial": lambda: forward(theirs, adj),
    }
    compare(candidates, exact, rounds=2, work="model", graph="cora", heads=8, channels=8, threads=threads)


LARGE = """
import torch
from advkern import Graph
from advkern.nn import GATConv
nodes, edges = 1_000_000, 10_000_000
ids = torch.randint(nodes, (2, edges), generator=torch.Generator().manual_seed(0))
graph = Graph.from_edge_index(ids, num_nodes=nodes)
del ids
torch.manual_seed(0)
x, target = torch.randn(nodes, 64), torch.randint(64, (nodes,))
layer = GATConv(64, 8, heads=8, add_self_loops=False, dropout=0.6)
optimizer = torch.optim.Adam(layer.parameters())
def measured():
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(layer(x, graph), target)
    loss.backward()
    optimizer.step()
    return loss.item()
"""


def bench_ten_million_edges(compare):
    """A training step over 10 million edges, 8 x 8 heads, dropout: its time, and what it takes beyond its inputs."""
    space: dict = {}
    exec(LARGE, space)
    facts = {"graph": "uniform, 1 M nodes, 10 M edges", "heads": 8, "channels": 8, "threads": torch.get_num_threads()}
    compare({"advkern": space["measured"]}, rounds=2, work="training step", peak_bytes=peak_memory(LARGE), **facts)


MEMORY = """
import torch
from advkern.nn import GATConv
from advkern.testing import standard_graph
graph = standard_graph("arxiv")
edges = {edges}
layer = {layer}({in_features}, {channels}, {heads}, add_self_loops=False)
x = torch.randn(graph.num_nodes, {in_features})
layer(x[:2], {small}).sum().backward()  # loads what loads lazily
def measured():
    layer(x, edges).sum().backward()
"""


@pytest.mark.parametrize("shape", SHAPES, ids=lambda v: f"{v[0]}x{v[1]}")
def bench_memory(compare, graphs, shape):
    """Peak memory of forward and backward at arxiv size, beside PyTorch Geometric's."""
    pytest.importorskip("torch_geometric")
    heads, channels = shape
    common = {"in_features": IN_FEATURES, "heads": heads, "channels": channels}
    small = "torch.zeros(2, 1, dtype=torch.int64)"
    programs = {
        "advkern": MEMORY.format(edges="graph", layer="GATConv", small=small, **common),
        "pyg": MEMORY.format(
            edges="graph.edge_index",
            layer="__import__('torch_geometric').nn.GATConv",
            small=small,
            **common,
        ),
    }
    peaks = {name: peak_memory(code) for name, code in programs.items()}
    layer, x = GATConv(IN_FEATURES, channels, heads), torch.randn(10, IN_FEATURES)
    call = lambda: layer(x, Graph.from_edge_index(torch.tensor([[0], [9]])))  # the harness wants a time
    compare({"advkern": call}, rounds=2, work="memory", graph="arxiv-uniform", threads=2, peak_bytes=peaks, **common)
