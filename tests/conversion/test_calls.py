"""What a converted module does with calls that the kernels do not serve, or that are too small for them."""

from __future__ import annotations

import copy

import models
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import advkern
from advkern.conversion import worth
from advkern.testing import assert_matches


@pytest.fixture
def whatever_the_size():
    with worth.whatever_the_size():
        yield


def pair(module):
    """The module in eval mode and a converted copy."""
    converted = copy.deepcopy(module.eval())
    assert advkern.convert(converted).of("converted")
    return module, converted


def ops(model, *inputs, **kwargs):
    """The ops of ours that a call takes."""
    return {choice.op for choice in advkern.explain(model, *inputs, **kwargs).choices}


def assert_originals(original, converted, *inputs, **kwargs):
    """The call runs the original's own code: no op of ours, and its bits."""
    assert not ops(converted, *inputs, **kwargs) - {"coo_to_csr"}  # a graph may have been looked at
    actual, expected = converted(*inputs, **kwargs), original(*inputs, **kwargs)
    pairs = list(zip(models.tensors_of(actual), models.tensors_of(expected), strict=True))
    assert pairs and all(torch.equal(a, e) for a, e in pairs)


BIG = models.sequence(8, 40)  # 8 x 40 x 4 heads


@pytest.mark.usefixtures("whatever_the_size")
class TestMultiheadAttention:
    def make(self, **options):
        return pair(nn.MultiheadAttention(32, 4, batch_first=True, **options))

    def test_weights_are_torchs(self):
        original, converted = self.make()
        for average in (True, False):
            assert_originals(original, converted, BIG, BIG, BIG, average_attn_weights=average)

    def test_cross_attention_is_torchs(self):
        original, converted = self.make()
        for keys in (models.sequence(8, 9), BIG.clone()):
            assert_originals(original, converted, BIG, keys, keys, need_weights=False)

    def test_masks_are_torchs(self):
        original, converted = self.make()
        causal = nn.Transformer.generate_square_subsequent_mask(40)
        for options in ({"attn_mask": causal}, {"attn_mask": causal, "is_causal": True}):
            assert_originals(original, converted, BIG, BIG, BIG, need_weights=False, **options)

    def test_a_float_padding_mask_is_torchs(self):
        original, converted = self.make()
        assert_originals(original, converted, BIG, BIG, BIG, torch.zeros(8, 40), need_weights=False)

    def test_unbatched_is_torchs(self):
        original, converted = self.make()
        assert_originals(original, converted, BIG[0], BIG[0], BIG[0], need_weights=False)

    def test_a_padding_mask_takes_the_kernel(self):
        original, converted = self.make()
        mask = torch.arange(40)[None] >= torch.tensor([40, 3, 17, 1, 40, 39, 25, 8])[:, None]
        call = lambda m: m(BIG, BIG, BIG, mask, need_weights=False)[0]
        assert ops(converted, BIG, BIG, BIG, mask, need_weights=False) == {"vit_attention"}
        torch.testing.assert_close(call(converted), call(original))

    def test_weights_stay_none(self):
        assert self.make()[1](BIG, BIG, BIG, need_weights=False)[1] is None

    def test_an_encoder_in_eval_without_gradients_is_torchs(self):
        model, inputs = models.make("encoder")
        original, converted = pair(model)
        with torch.no_grad():
            assert_originals(original, converted, *inputs)
        assert ops(converted, *inputs) == {"vit_attention"}

    def test_a_padded_encoder(self):
        original, converted = pair(models.encoder())
        mask = torch.arange(40)[None] >= torch.tensor([40, 3, 17, 2, 40, 39, 25, 8])[:, None]
        call = lambda m: m(BIG, src_key_padding_mask=mask)
        torch.testing.assert_close(call(converted), call(original))
        with torch.no_grad():
            torch.testing.assert_close(call(converted), call(original))

    def test_a_decoder(self):
        layer = nn.TransformerDecoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        original, converted = pair(nn.TransformerDecoder(layer, 2))
        memory = models.sequence(8, 7)
        causal = nn.Transformer.generate_square_subsequent_mask(40)
        torch.testing.assert_close(converted(BIG, memory), original(BIG, memory))
        torch.testing.assert_close(converted(BIG, memory, tgt_mask=causal), original(BIG, memory, tgt_mask=causal))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_types(self, dtype):
        original, converted = pair(nn.MultiheadAttention(32, 4, batch_first=True).to(dtype))
        call = lambda m, x: m(x, x, x, need_weights=False)[0].detach()
        actual, plain = call(converted, BIG.to(dtype)), call(original, BIG.to(dtype))
        exact = call(original.double(), BIG.to(dtype).double())
        assert_matches(actual, exact, plain, float(exact.abs().max()))

    def test_autocast(self):
        original, converted = self.make()
        call = lambda m, x: m(x, x, x, need_weights=False)[0].detach()
        with torch.autocast("cpu", torch.bfloat16):
            actual, plain = call(converted, BIG), call(original, BIG)
        exact = call(original.double(), BIG.double())
        assert_matches(actual, exact, plain, float(exact.abs().max()))


@pytest.mark.usefixtures("whatever_the_size")
def test_masks_of_timm():
    original, converted = pair(models.timm_attention())
    assert_originals(original, converted, BIG, torch.zeros(40, 40))
    assert_originals(original, converted, BIG, is_causal=True)
    assert ops(converted, BIG, attn_mask=None) == {"vit_attention"}


@pytest.mark.usefixtures("whatever_the_size")
def test_a_hook_that_comes_later_is_still_called():
    cases = [
        (models.timm_attention(), "attn_drop", (BIG,)),
        (models.typed("MultiHeadSelfAttention", 32, 4), "attention_dropout", (BIG,)),
        (models.pyg().GATConv(16, 8), "lin", (models.randn(20, 16), models.EDGES)),
        (models.typed("GAT", 16, 8, 3, 4), "attention_heads.2", (models.randn(20, 16), models.adjacency())),
    ]
    cases[0][0].fused_attn = False  # else timm does not call it either
    for module, child, inputs in cases:
        _, converted = pair(module)
        seen = []
        handle = converted.get_submodule(child).register_forward_hook(lambda *_, seen=seen: seen.append(1))
        converted(*inputs)
        assert seen == [1], child
        handle.remove()
        assert ops(converted, *inputs), child
        with FlopCounterMode(display=False):  # hooks all modules
            assert ops(converted, *inputs), child


@pytest.mark.usefixtures("whatever_the_size")
class TestPyG:
    x = models.randn(20, 16)

    def test_attention_weights_are_pygs(self):
        original, converted = pair(models.pyg().GATConv(16, 8, heads=2))
        looped = torch.cat([models.EDGES, torch.tensor([[4], [4]])], dim=1)
        for edges in (models.EDGES, looped):
            assert_originals(original, converted, self.x, edges, return_attention_weights=True)

    @pytest.mark.parametrize("kind", ["GCNConv", "GATConv"])
    def test_repeated_loops_are_pygs(self, kind):
        original, converted = pair(getattr(models.pyg(), kind)(16, 8))
        twice = torch.cat([models.EDGES, torch.tensor([[4, 4], [4, 4]])], dim=1)
        assert_originals(original, converted, self.x, twice)
        once = twice[:, :-1].clone()
        torch.testing.assert_close(converted(self.x, once), original(self.x, once))
        assert ops(converted, self.x, once)

    @pytest.mark.parametrize("kind", ["GCNConv", "GATConv"])
    def test_an_adjacency_is_pygs(self, kind):
        original, converted = pair(getattr(models.pyg(), kind)(16, 8))
        assert_originals(original, converted, self.x, models.adjacency().to_sparse_csr())

    def test_pairs_and_sizes_are_pygs(self):
        original, converted = pair(models.pyg().GATConv(16, 8))
        assert_originals(original, converted, (self.x, self.x), models.EDGES)
        assert_originals(original, converted, self.x, models.EDGES, size=(20, 20))

    def test_edge_features_that_pyg_ignores(self):
        original, converted = pair(models.pyg().GATConv(16, 8, add_self_loops=False))
        feature = models.randn(models.EDGES.shape[1], 3)
        torch.testing.assert_close(converted(self.x, models.EDGES, feature), original(self.x, models.EDGES, feature))

    def test_improved_without_weights_is_pygs(self):
        original, converted = pair(models.pyg().GCNConv(16, 8, improved=True))
        assert_originals(original, converted, self.x, models.EDGES)

    def test_message_hooks_are_called(self):
        _, converted = pair(models.pyg().GCNConv(16, 8))
        seen = []
        converted.register_propagate_forward_hook(lambda *_: seen.append(1))
        converted(self.x, models.EDGES)
        assert seen == [1]

    def test_a_cached_graph_is_kept(self):
        original, converted = pair(models.pyg().GCNConv(16, 8, cached=True))
        other = models.EDGES.flip(0)
        for edges in (models.EDGES, other, other):
            torch.testing.assert_close(converted(self.x, edges), original(self.x, edges))
        assert ops(converted, self.x, other) == {"gcn_aggregate"}
        for layer in (converted, original):
            layer._cached_edge_index = None
        torch.testing.assert_close(converted(self.x, other), original(self.x, other))

    def test_gradients_by_edge_weights(self):
        original, converted = pair(models.pyg().GCNConv(16, 8))
        weight = models.randn(models.EDGES.shape[1]).abs().requires_grad_()
        grads = [torch.autograd.grad(m(self.x, models.EDGES, weight).sum(), weight)[0] for m in (converted, original)]
        torch.testing.assert_close(*grads)


@pytest.mark.usefixtures("whatever_the_size")
class TestTutorial:
    def test_a_dense_adjacency_is_multiplied_as_before(self):
        original, converted = pair(models.typed("GraphConvolutionLayer", 16, 8))
        assert_originals(original, converted, models.randn(20, 16), models.adjacency().to_dense())

    def test_negative_entries_are_no_edges(self):
        original, converted = pair(models.typed("GraphAttentionLayer", 16, 8))
        x, adj = models.randn(20, 16), models.adjacency().to_dense()
        adj[2, 5], adj[7, 1] = -1.0, 0.0
        for each in (adj, adj.to_sparse()):
            (a, b), (c, d) = converted(x, each), original(x, each)
            torch.testing.assert_close(a, c)
            torch.testing.assert_close(b.dense(), d)

    def test_steps_are_counted_as_the_tutorial_does(self):
        original, converted = pair(models.ODE(models.typed("ODEFunc", 4), "rk4", 0.1))
        x = models.randn(3, 4)
        for span in ((0.0, 0.95), (0.1, 0.4), (0, 1), (0.0, 0.7)):
            torch.testing.assert_close(converted(x, span), original(x, span))
            assert ops(converted, x, span) == {"rk4"}
        for span in ((0.0, 0.05), (1.0, 0.0), (0.0, 0.0)):  # returned as it is
            assert_originals(original, converted, x, span)

    def test_times_that_are_tensors(self):
        original, converted = pair(models.ODE(models.typed("ODEFunc", 4), "rk4", 0.1))
        x = models.randn(3, 4)
        spans = [(torch.tensor(0.0), torch.tensor(1.0)) for _ in range(2)]
        assert torch.equal(converted(x, spans[0]), original(x, spans[1]))

    def test_another_solver_is_the_originals_error(self):
        _, converted = pair(models.ODE(models.typed("ODEFunc", 4), "rk4", 0.1))
        converted.solver = "heun"
        with pytest.raises(ValueError, match="Unknown solver"):
            converted(models.randn(3, 4), (0.0, 1.0))


class TestSmallCalls:
    """Never slower: where a call is small, the original's code runs."""

    def test_attention(self):
        for module in (models.timm_attention(), models.typed("MultiHeadSelfAttention", 32, 4)):
            original, converted = pair(module)
            assert_originals(original, converted, models.sequence(2, 17))
            assert ops(converted, BIG) == {"vit_attention"}

    def test_a_small_graph_takes_the_kernel_at_the_second_sight(self):
        x = models.randn(20, 16)
        for kind, op in (("GCNConv", "gcn_aggregate"), ("GATConv", "gat_attention")):
            original, converted = pair(getattr(models.pyg(), kind)(16, 8))
            for _ in range(2):  # a new graph each time, as in mini-batches
                edges = models.EDGES.clone()
                assert torch.equal(converted(x, edges), original(x, edges))
            assert op in ops(converted, x, edges)
            edges.add_(0)  # written to: it may be another graph
            assert not ops(converted, x, edges)

    def test_a_large_graph_takes_it_at_once(self):
        _, converted = pair(models.pyg().GCNConv(16, 8))
        assert ops(converted, models.randn(3000, 16), models.directed_edges(3000, 40000)) >= {"gcn_aggregate"}

    def test_graphs_of_the_tutorial(self):
        original, converted = pair(models.typed("GraphConvolutionLayer", 16, 8))
        for _ in range(2):
            assert_originals(original, converted, models.randn(20, 16), models.adjacency(20))
        adj, x = models.adjacency(200), models.randn(200, 16)
        assert torch.equal(converted(x, adj), original(x, adj))
        assert ops(converted, x, adj) >= {"gcn_aggregate"}
        original, converted = pair(models.typed("GAT", 16, 8, 3, 4))
        adj = models.adjacency(20)
        for _ in range(2):
            assert_originals(original, converted, models.randn(20, 16), adj)
        assert ops(converted, models.randn(100, 16), models.adjacency(100)) >= {"gat_attention"}

    def test_few_steps(self):
        original, converted = pair(models.ODE(models.typed("ODEFunc", 4), "euler", 0.5))
        assert_originals(original, converted, models.randn(3, 4), (0.0, 1.0))
        assert ops(converted, models.randn(3, 4), (0.0, 3.0)) == {"rk4"}

    def test_inference_tensors(self):
        original, converted = pair(models.pyg().GCNConv(16, 8))
        with torch.inference_mode():
            edges = models.EDGES.clone()
            for _ in range(2):
                assert torch.equal(converted(TestPyG.x, edges), original(TestPyG.x, edges))


@pytest.mark.compile
@pytest.mark.usefixtures("whatever_the_size")
@pytest.mark.parametrize("name", ["encoder", "timm attention", "GCNConv", "tutorial GAT", "tutorial ODE"])
def test_compiled_after_the_conversion(name):
    model, inputs = models.make(name)
    _, converted = pair(model)
    expected = next(models.tensors_of(converted(*inputs)))
    compiled = torch.compile(converted, backend="aot_eager")
    torch.testing.assert_close(next(models.tensors_of(compiled(*inputs))), expected)
