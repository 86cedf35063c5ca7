"""What ``advkern.convert`` leaves as it is, and the reason that it gives."""

from __future__ import annotations

import models
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import advkern
from advkern.conversion.swap import Converted


def mha(**options):
    return nn.MultiheadAttention(32, 4, **options)


def changed(module, **attributes):
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def with_hook(module, child):
    module.get_submodule(child).register_forward_hook(lambda *_: None)
    return module


def subclass(module):
    module.__class__ = type("Mine", (type(module),), {})
    return module


def compiled_in_place(module):
    module.compile(backend="eager")
    return module


class _Typed(nn.Module):
    """Somebody's own layers, under the tutorial's names."""


class GraphConvolutionLayer(_Typed):
    def __init__(self, twist):
        super().__init__()
        self.weight, self.bias = nn.Parameter(models.randn(6, 3)), nn.Parameter(models.randn(3))
        self.twist = twist

    def forward(self, x, adj):
        out = torch.sparse.mm(adj, x @ self.weight) + self.bias
        if self.twist == "relu":
            return out.relu()
        if self.twist == "fails":
            raise RuntimeError("not today")
        return F.dropout(out, 0.3, self.training) if self.twist == "dropout" else out


class GAT(_Typed):
    def __init__(self, dropout):
        super().__init__()
        layer = lambda *sizes: models.typed("GraphAttentionLayer", *sizes)
        self.attention_heads = nn.ModuleList([layer(6, 4) for _ in range(2)])
        self.out_att, self.p = layer(8, 3), dropout

    def forward(self, x, adj):
        outs, maps = zip(*(head(x, adj) for head in self.attention_heads), strict=True)
        x = F.dropout(torch.cat(outs, dim=1), self.p, self.training)
        return F.log_softmax(self.out_att(x, adj)[0], dim=1), list(maps)


REFUSED = {
    "kdim": (lambda: mha(kdim=8, vdim=8), "another width than the queries"),
    "add_bias_kv": (lambda: mha(add_bias_kv=True), "add_bias_kv"),
    "add_zero_attn": (lambda: mha(add_zero_attn=True), "add_zero_attn"),
    "hook on out_proj": (lambda: with_hook(mha(), "out_proj"), "a hook is registered on out_proj"),
    "subclass": (lambda: subclass(mha()), "a subclass of torch.nn.modules.activation.MultiheadAttention"),
    "parametrized": (lambda: parametrizations.weight_norm(mha(), "in_proj_weight"), "a subclass of"),
    "forward replaced": (lambda: changed(mha(), forward=lambda *a: a), "its forward was replaced on the instance"),
    "compiled in place": (lambda: compiled_in_place(mha()), "compiled: convert the model before it is compiled"),
    "without values": (lambda: mha(device="meta"), "its parameters have no values yet"),
    "another type": (lambda: mha().to(torch.complex64), "do not take parameters of torch.complex64"),
    "timm, other dropout": (
        lambda: changed(models.timm_attention(), attn_drop=nn.Identity()),
        "its attn_drop is a Identity",
    ),
    "timm, hook": (lambda: with_hook(models.timm_attention(), "attn_drop"), "a hook is registered on attn_drop"),
    "timm, norm of another axis": (
        lambda: changed(models.timm_attention(), q_norm=nn.Softmax(dim=2)),
        "on a small input its results are others",
    ),
    "GCN, lazy": (lambda: models.pyg().GCNConv(-1, 8), "no values yet"),
    "GCN, other sum": (lambda: models.pyg().GCNConv(16, 8, aggr="max"), "aggr='max'"),
    "GCN, other direction": (lambda: models.pyg().GCNConv(16, 8, flow="target_to_source"), "target_to_source"),
    "GCN, in parts": (lambda: models.pyg().GCNConv(16, 8, decomposed_layers=2), "decomposed_layers=2"),
    "GCN, other axis": (lambda: models.pyg().GCNConv(16, 8, node_dim=0), "node_dim=0"),
    "GCN, hook on lin": (lambda: with_hook(models.pyg().GCNConv(16, 8), "lin"), "a hook is registered on lin"),
    "GCN, other lin": (lambda: changed(models.pyg().GCNConv(16, 8), lin=nn.Linear(16, 8)), "its lin is a Linear"),
    "GAT, edge features": (lambda: models.pyg().GATConv(16, 8, edge_dim=3), "edge_dim"),
    "GAT, bipartite": (lambda: models.pyg().GATConv((16, 4), 8), "bipartite"),
    "typed, relu inside": (lambda: GraphConvolutionLayer("relu"), "on a small input its results are others"),
    "typed, dropout inside": (lambda: GraphConvolutionLayer("dropout"), r"drops out with \[0.3\], its class with \[\]"),
    "typed, fails": (lambda: GraphConvolutionLayer("fails"), "could not be tried .*RuntimeError: not today"),
    "typed, more parameters": (
        lambda: changed(GraphConvolutionLayer(""), scale=nn.Parameter(torch.ones(1))),
        "another structure than the tutorial's: holds .*scale",
    ),
    "typed, a buffer": (
        lambda: changed(GraphConvolutionLayer(""), seen=nn.Buffer(torch.ones(1))),
        "another structure than the tutorial's",
    ),
    "typed, other dropout": (lambda: GAT(0.5), r"it drops out with \[0.5, "),
    "typed, heads that differ": (
        lambda: changed_head(models.typed("GAT", 6, 4, 3, 2), dropout=0.1),
        "its heads differ in size or options",
    ),
    "typed, hook on a head": (
        lambda: with_hook(models.typed("GAT", 6, 4, 3, 2), "attention_heads.1"),
        "a hook is registered on a head",
    ),
    "typed, slope": (
        lambda: changed(models.typed("GraphAttentionLayer", 6, 4), leakyrelu=nn.LeakyReLU(0.3)),
        "not a LeakyReLU with the slope alpha",
    ),
    "ODE of another function": (lambda: models.ODE(nn.Linear(2, 2)), "its func is a Linear, no ODEFunc"),
    "ODE, solver": (lambda: models.ODE(models.typed("ODEFunc", 2), "heun"), "none of the tutorial's"),
    "ODE, hook": (lambda: with_hook(models.ODE(models.typed("ODEFunc", 2)), "func.net.1"), "a hook is registered"),
    "ODE, wide": (lambda: models.ODE(models.typed("ODEFunc", 400)), "800 channels inside"),
}


def changed_head(module, **attributes):
    changed(module.attention_heads[1], **attributes)
    return module


@pytest.mark.parametrize("name", REFUSED)
def test_is_left_with_its_reason(name):
    make, reason = REFUSED[name]
    module = make()
    kinds = type(module)
    entry = advkern.convert(nn.Sequential(module)).entries[-1]
    assert (entry.module, entry.kind, entry.action) == ("0", kinds.__name__, "left")
    assert pytest.importorskip("re").search(reason, entry.reason), entry.reason
    assert type(module) is kinds and not isinstance(module, Converted)


def test_twins_without_the_twist_are_converted():
    for module in (GraphConvolutionLayer(""), GAT(0.6)):
        assert advkern.convert(module).entries[-1].action == "converted"


def test_compiled_and_scripted_models_are_left_whole():
    for wrap, word in ((lambda m: torch.compile(m, backend="eager"), "compiled"), (torch.jit.script, "scripted")):
        model = wrap(nn.Sequential(nn.Linear(2, 2), mha()) if word == "compiled" else nn.Sequential(nn.Linear(2, 2)))
        (entry,) = advkern.convert(model).entries
        assert (entry.module, entry.action) == ("", "left") and entry.reason.startswith(word)
        assert not any(isinstance(m, Converted) for m in model.modules())


def test_our_own_modules_are_not_spoken_of():
    from advkern.nn import GAT as OurGAT

    assert advkern.convert(OurGAT(6, 4, 3, 2)).entries == ()
