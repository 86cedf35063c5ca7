"""Models that people have, beside the same models converted: a timm ViT, PyG's GCN and GAT on an arxiv-size graph."""

from __future__ import annotations

import copy

import pytest
import torch

import advkern
from advkern.testing import standard_graph
from advkern.testing.graphs import SIZES
from advkern.testing.peers import import_peer

CLASSES = 40


def timm_vit():
    """ViT-S/16 of timm at 224 x 224, weights at random, and a batch of four."""
    model = import_peer("timm").create_model("vit_small_patch16_224", pretrained=False, num_classes=CLASSES)
    return model, (torch.randn(4, 3, 224, 224),)


class Stack(torch.nn.Module):
    """Two graph layers and a ReLU."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x, edge_index):
        return self.second(self.first(x, edge_index).relu(), edge_index)


def pyg_gcn():
    """PyG's GCN of 128, 128 and 40 channels."""
    nn = pytest.importorskip("torch_geometric.nn")
    return Stack(nn.GCNConv(128, 128), nn.GCNConv(128, CLASSES)), arxiv_inputs()


def pyg_gat():
    """PyG's GAT of eight heads of 8, then one of 40 channels."""
    nn = pytest.importorskip("torch_geometric.nn")
    return Stack(nn.GATConv(128, 8, heads=8), nn.GATConv(64, CLASSES)), arxiv_inputs()


def arxiv_inputs():
    """Features and a graph without loops, of which PyG would keep one a node."""
    edges = standard_graph("arxiv").edge_index.long()
    edges = edges[:, edges[0] != edges[1]].contiguous()
    return torch.randn(SIZES["arxiv"][0], 128), edges


MODELS = {"timm ViT-S/16, batch 4": timm_vit, "PyG GCN, arxiv size": pyg_gcn, "PyG GAT, arxiv size": pyg_gat}


@pytest.mark.parametrize("work", ["forward", "training step"])
@pytest.mark.parametrize("name", MODELS)
def bench_model(compare, threads, name, work):
    """Forward in eval mode without gradients; a training step is forward, loss, backward and SGD."""
    torch.manual_seed(0)
    original, inputs = MODELS[name]()
    converted = copy.deepcopy(original)
    assert advkern.convert(converted).of("converted")
    targets = torch.randint(CLASSES, (inputs[0].shape[0],))

    def forward(model):
        with torch.no_grad():
            return model(*inputs)

    def step(model, optimiser):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(*inputs), targets).backward()
        optimiser.step()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    def candidate(model):
        if work == "forward":
            return lambda: forward(model.eval())
        optimiser = torch.optim.SGD(model.train().parameters(), lr=0.0)  # the same weights every time: one truth
        return lambda: step(model, optimiser)

    doubled = copy.deepcopy(original).double()
    wide = [t.double() if t.is_floating_point() else t for t in inputs]

    def exact():
        out = doubled.train(work != "forward")(*wide)
        if work == "forward":
            return out.detach()
        torch.nn.functional.cross_entropy(out, targets).backward()
        return torch.cat([parameter.grad.flatten() for parameter in doubled.parameters()])

    candidates = {"advkern": candidate(converted), "unconverted": candidate(original)}
    compare(candidates, exact, tolerance=1e-4, work=work, graph=name, threads=threads)
