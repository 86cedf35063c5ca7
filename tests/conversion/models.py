"""The models that tests of the conversion start from, and the rule that a converted one is held to."""

from __future__ import annotations

import copy
import functools

import torch
import tutorial
from peers import pyg, timm
from torch import nn

from advkern.conversion.probe import tensors_of
from advkern.testing import assert_matches


def timm_attention(**options):
    """timm's Attention of 4 heads of 8."""
    return timm().layers.Attention(32, 4, **options)


def typed(name, *args, **kwargs):
    """An instance of one of the tutorial's own classes."""
    return tutorial.namespace()[name](*args, **kwargs)


def randn(*shape, seed=0):
    """Normal numbers of that shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def directed_edges(num_nodes=20, num_edges=70):
    """``[2, E]``: directed, without loops, with multiple edges."""
    ids = torch.randint(0, num_nodes, (2, num_edges), generator=torch.Generator().manual_seed(1))
    return ids[:, ids[0] != ids[1]]


def adjacency(num_nodes=20, lonely=False):
    """A directed sparse adjacency with loops; ``lonely``: node 3 has no neighbours."""
    dense = (randn(num_nodes, num_nodes, seed=2) > 0.5).float()
    dense.fill_diagonal_(1.0)
    if lonely:
        dense[3] = 0
    return dense.to_sparse()


def encoder(batch_first=True, **options):
    """Two of torch's encoder layers, 4 heads of 8, without dropout."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=batch_first, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def vit():
    """A small timm vision transformer."""
    return timm().models.VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5)


def sequence(batch=2, length=17):
    """``[batch, length, 32]``."""
    return randn(batch, length, 32)


ODE = functools.partial(typed, "NeuralODE")

# name -> (model, inputs): every kind that is converted, at the root and inside
CASES = {
    "encoder": lambda: (encoder(), (sequence(),)),
    "encoder, sequence first": lambda: (encoder(batch_first=False), (sequence(),)),
    "encoder, norm first, without bias": lambda: (encoder(norm_first=True, bias=False), (sequence(),)),
    "timm vit": lambda: (vit(), (randn(2, 3, 32, 32),)),
    "timm attention": lambda: (timm_attention(qkv_bias=True), (sequence(),)),
    "timm attention, norms": lambda: (timm_attention(qk_norm=True, norm_layer=nn.LayerNorm), (sequence(),)),
    "timm attention, gated": lambda: (timm_attention(gated=True), (sequence(),)),
    "timm attention, scale norm": lambda: (timm_attention(scale_norm=True, norm_layer=nn.LayerNorm), (sequence(),)),
    "timm attention, other widths": lambda: (timm_attention(attn_head_dim=4, dim_out=12), (sequence(),)),
    "GCNConv": lambda: (pyg().GCNConv(16, 8), (randn(20, 16), directed_edges())),
    "GCNConv, improved, no bias": lambda: (
        pyg().GCNConv(16, 8, improved=True, bias=False),
        (randn(20, 16), EDGES, randn(EDGES.shape[1]).abs()),
    ),
    "GCNConv, cached": lambda: (pyg().GCNConv(16, 8, cached=True), (randn(20, 16), EDGES)),
    "GCNConv, weighted": lambda: (pyg().GCNConv(16, 8), (randn(20, 16), EDGES, randn(EDGES.shape[1]).abs())),
    "GCNConv, as it stands": lambda: (pyg().GCNConv(8, 16, normalize=False), (randn(20, 8), EDGES)),
    "GATConv": lambda: (pyg().GATConv(16, 8, heads=3), (randn(20, 16), EDGES)),
    "GATConv, mean, residual": lambda: (
        pyg().GATConv(16, 8, heads=2, concat=False, residual=True, bias=False),
        (randn(20, 16), EDGES),
    ),
    "GATConv, no loops": lambda: (pyg().GATConv(16, 8, add_self_loops=False), (randn(20, 16), EDGES)),
    "tutorial GCN": lambda: (typed("GCN", 16, 8, 3), (randn(20, 16), adjacency())),
    "tutorial GAT": lambda: (typed("GAT", 16, 8, 3, 4), (randn(20, 16), adjacency())),
    "tutorial GAT, dense": lambda: (typed("GAT", 16, 8, 3, 4), (randn(20, 16), adjacency().to_dense())),
    "tutorial GAT, a lonely node": lambda: (typed("GAT", 16, 8, 3, 4), (randn(20, 16), adjacency(lonely=True))),
    "tutorial ViT": lambda: (typed("VisionTransformer", 32, 8, 3, 5, 32, 2, 4), (randn(2, 3, 32, 32),)),
    "tutorial multimodal": lambda: (
        typed("MultimodalTransformer", 50, 12, 32, 8, 32, 2, 4, 5),
        (randn(2, 3, 32, 32), torch.arange(14).view(2, 7)),
    ),
    "tutorial ODE": lambda: (ODE(typed("ODEFunc", 4), "rk4", 0.01), (randn(30, 4), (0.0, 0.7))),
    "tutorial ODE, euler, a part of a step": lambda: (
        ODE(typed("ODEFunc", 4), "euler", 0.1),
        (randn(30, 4), (0.25, 1.0)),
    ),
}
EDGES = directed_edges()


def make(name):
    """The model of a case, its weights drawn from seed 0, and its inputs."""
    torch.manual_seed(0)
    return CASES[name]()


def results(model, inputs):
    """Every tensor of the output in the current mode, and the gradients by parameters and first input."""
    inputs = tuple(t.detach().clone() if isinstance(t, torch.Tensor) else t for t in inputs)
    leaf = inputs[0].requires_grad_()
    out = list(tensors_with_graph(model(*inputs)))
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = sum((each * torch.arange(1, each.numel() + 1, dtype=each.dtype).view_as(each).cos()).sum() for each in out)
    grads = torch.autograd.grad(loss, [leaf, *parameters], allow_unused=True)
    return [t.detach() for t in out], [g for g in grads if g is not None]


def tensors_with_graph(value):
    """The outputs' tensors, attached."""
    if isinstance(value, torch.Tensor):
        return [value.dense() if hasattr(value, "dense") else value]
    return [t for each in value if each is not None for t in tensors_with_graph(each)]


def assert_converted_matches(original, converted, inputs, name):
    """Outputs and gradients of a converted model obey the house's rule: float64 of the original is the truth."""
    doubled = tuple(t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in inputs)
    exact, plain = results(copy.deepcopy(original).double(), doubled), results(original, inputs)
    ours = results(converted, inputs)
    for what, truth, yardstick, actual in zip(("output", "gradient"), exact, plain, ours, strict=True):
        assert len(actual) == len(yardstick) == len(truth)
        for k, (t, y, a) in enumerate(zip(truth, yardstick, actual, strict=True)):
            assert_matches(a, t, y, float(t.abs().max()), f"{name}, {what} {k}")


__all__ = ["CASES", "assert_converted_matches", "make", "tensors_of"]
