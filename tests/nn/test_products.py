"""The product inside graph layers, whose kernel depends on its size: sparse features, and an open number of nodes."""

import pytest
import torch
from torch import nn

from advkern.nn import GCNConv
from advkern.nn._linear import _WORTH, linear

INPUTS, CHANNELS = 3, 64
FEW, MANY = 10, _WORTH // (INPUTS * CHANNELS) + 1  # nodes: on either side of the size where the kernel changes


class Product(nn.Module):
    """Only the product."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CHANNELS, INPUTS))

    def forward(self, x):
        return linear(x, self.weight)


@pytest.mark.parametrize("num_nodes", [FEW, MANY])
def test_sparse_features_of_any_size_are_taken(num_nodes):
    x = torch.zeros(num_nodes, CHANNELS)
    x[range(num_nodes), torch.arange(num_nodes) % CHANNELS] = 1
    layer = GCNConv(CHANNELS, CHANNELS)
    edges = torch.arange(num_nodes).expand(2, -1)
    torch.testing.assert_close(layer(x.to_sparse(), edges), layer(x, edges))


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "ours"),
    [(5120, 64, 64, True), (5119, 64, 64, False), (255, 4096, 4096, False), (169_343, 128, 2, False)],
)
def test_kernel_is_used_where_it_pays(rows, inputs, outputs, ours, monkeypatch):
    """Not for few multiplications, rows or outputs."""
    used = []
    monkeypatch.setattr("advkern.nn._linear.fused_linear", lambda *each: used.append(each))
    linear(torch.empty(1).expand(rows, inputs), torch.empty(1).expand(outputs, inputs))
    assert bool(used) == ours


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_left_to_torch_where_the_processor_multiplies_it(native, monkeypatch):
    used = []
    monkeypatch.setattr("advkern.nn._linear.fused_linear", lambda *each: used.append(each))
    monkeypatch.setattr("advkern.nn._linear._multiplies_bfloat16", lambda: native)
    linear(torch.ones(5120, 64, dtype=torch.bfloat16), torch.ones(64, 64, dtype=torch.bfloat16))
    assert bool(used) != native


@pytest.mark.compile
def test_one_compilation_serves_every_number_of_nodes():
    torch._dynamo.reset()
    model, graphs = Product(), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=count)
    for num_nodes in (FEW, MANY):
        x = torch.randn(num_nodes, INPUTS)
        torch.testing.assert_close(compiled(x), model(x))
    assert len(graphs) == 1


@pytest.mark.compile
def test_exports_for_every_number_of_nodes():
    model = Product()
    program = torch.export.export(model, (torch.randn(FEW, INPUTS),), dynamic_shapes=({0: torch.export.Dim("nodes")},))
    x = torch.randn(MANY, INPUTS)
    torch.testing.assert_close(program.module()(x), model(x))
