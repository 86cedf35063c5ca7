"""Graph convolution and graph attention."""

from __future__ import annotations

import time
from typing import Any

import networkx as nx
import torch
from rows import rows_of, sums, timed, works
from torch import Tensor

import advkern
from advkern.testing import peak_memory

# -- graph convolution ---------------------------------------------------------------------------------------------

gcn = rows_of("Graph convolution")


@gcn
def layers(lib: Any) -> str:
    """`GCN(num_layers=1)`

    The tutorial's checkpoint of it is refused with the remedy, `num_layers=2`.
    """
    return f"layers built: {len(lib.GCN(4, 8, 2, num_layers=1).layers)}"


@gcn
def no_layers(lib: Any) -> str:
    """`GCN(num_layers=0)`"""
    return f"layers built: {len(lib.GCN(4, 8, 2, num_layers=0).layers)}"


@gcn
def integers(lib: Any) -> str:
    """an adjacency of int64, as networkx gives it

    Cast.
    """
    adj = torch.from_numpy(nx.to_numpy_array(nx.path_graph(4), dtype="int64")).to_sparse()
    return f"output {list(lib.GCN(4, 8, 2)(torch.eye(4), adj).shape)}"


@gcn
def kinds(lib: Any) -> str:
    """kinds of adjacency taken

    Row *i* gathers from the columns it stores.
    """
    network = nx.path_graph(4)
    dense = torch.tensor(nx.to_numpy_array(network), dtype=torch.float32)
    given = {
        "dense": dense,
        "COO": dense.to_sparse(),
        "CSR": dense.to_sparse_csr(),
        "CSC": dense.to_sparse_csc(),
        "scipy": nx.to_scipy_sparse_array(network, dtype="float32"),
        "networkx": network,
        "Graph": advkern.Graph.from_dense(dense),
    }
    layer = lib.GraphConvolutionLayer(4, 2)
    return ", ".join(name for name, adj in given.items() if works(lambda adj=adj: layer(torch.eye(4), adj)))


@gcn
def hidden_hook(lib: Any) -> str:
    """least value that a forward hook on a hidden layer sees

    The layer has the ReLU in its kernel where it has no more channels out than in.
    """
    model, seen = lib.GCN(16, 8, 2), []
    model.layers[0].register_forward_hook(lambda module, args, out: seen.append(out.min().item()))
    model(torch.randn(4, 16), torch.eye(4).to_sparse())
    return f"{seen[0]:.2f}"


# -- graph attention -----------------------------------------------------------------------------------------------

gat = rows_of("Graph attention")


def lonely(lib: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Output, attention and gradient by the features, of node 0 of 4, which has no neighbour."""
    adj = torch.zeros(4, 4, dtype=dtype)
    adj[1, 2] = adj[2, 3] = 1
    x = torch.randn(4, 3, dtype=dtype, requires_grad=True)
    out, attention = lib.GraphAttentionLayer(3, 2).to(dtype).eval()(x, adj.to_sparse())
    out[0].sum().backward()
    return out[0], attention[0], x.grad


@gat
def isolated(lib: Any) -> str:
    """a node without neighbours: its attention to each of four nodes

    Its output is 0 here.
    """
    return f"{lonely(lib, torch.float32)[1].tolist()}"


@gat
def isolated_gradient(lib: Any) -> str:
    """its gradient: nodes whose features get one"""
    reached = lonely(lib, torch.float32)[2].abs().sum(1) > 0
    return f"{int(reached.sum())} of 4"


@gat
def isolated_half(lib: Any) -> str:
    """its output in float16

    -9e15, the tutorial's mask, is -inf there.
    """
    return f"{lonely(lib, torch.float16)[0].tolist()}"


@gat
@timed
def large(lib: Any) -> str:
    """forward of `GAT(16, 8, 4)` on 2,000 nodes of 10 neighbours: time, and memory beyond the inputs

    The tutorial holds an N x N x 2F tensor for each of 8 heads; here memory is O(N + E). One run, on two cores.
    """
    source = "advkern.nn.GAT" if lib is advkern.nn else "tutorial.namespace()['GAT']"
    code = f"""
import sys, torch
sys.path.insert(0, "tests")
import advkern.nn, tutorial
torch.manual_seed(0)
rows, cols = torch.arange(2000).repeat(10), torch.randint(0, 2000, (20000,))
adj = torch.zeros(2000, 2000).index_put((rows, cols), torch.ones(1))
x, adj = torch.randn(2000, 16), adj.to_sparse()
model = {source}(16, 8, 4)
model(torch.randn(3, 16), torch.eye(3).to_sparse())
def measured():
    return model(x, adj)
"""
    space: dict[str, Any] = {}
    exec(code, space)
    start = time.perf_counter()
    space["measured"]()
    seconds = time.perf_counter() - start
    return f"{seconds * 1e3:,.1f} ms, {peak_memory(code) / 1e6:,.0f} MB"


@gat
def stored(lib: Any) -> str:
    """entries of 2, 0 and -1 in a row: those that count

    The tutorial's choice is kept. Of an `advkern.Graph` every stored edge counts.
    """
    adj = torch.sparse_coo_tensor([[0, 0, 0], [0, 1, 2]], [2.0, 0.0, -1.0], (3, 3))
    attention = lib.GraphAttentionLayer(3, 2).eval()(torch.eye(3), adj)[1]
    return f"{int((attention[0] > 0).sum())} of 3"


@gat
def gat_maps(lib: Any) -> str:
    """attention maps in training, dropout 0.6, two neighbours a node

    Taken before dropout, computed when first read; `release()` lets go of what they keep.
    """
    adj = torch.tensor(nx.to_numpy_array(nx.cycle_graph(20)), dtype=torch.float32).to_sparse()
    return sums(lib.GAT(8, 4, 2)(torch.randn(20, 8), adj)[1][0])


@gat
def head_hook(lib: Any) -> str:
    """calls of a hook on one of `attention_heads`

    All heads run in one product and one kernel.
    """
    model, seen = lib.GAT(4, 4, 2), []
    model.attention_heads[0].register_forward_hook(lambda *args: seen.append(1))
    model(torch.eye(4), torch.eye(4).to_sparse())
    return str(len(seen))
