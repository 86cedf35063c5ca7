"""``gat_attention``: the op's suite, and what only this op promises."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from op_suite import EMULATED, PLACES, Case, OpSuite, running_on

from advkern import Graph, use_backend
from advkern.ops import gat_attention
from advkern.ops._seed import seed
from advkern.ops.gat_attention import attend
from advkern.reference.gat_attention import dropout_factor
from advkern.testing import hub_graph, isolated_graph, peak_memory, power_law_graph, standard_graph, uniform_graph

# name: (graph, heads, channels, options); heads and channels cross every way in which the kernels lay them out: several
# heads in a vector, one in several, both no multiples of one, more heads than a vector has lanes
CASES = {
    "eight_by_eight": ("uniform", 8, 8, {}),
    "four_by_sixty_four": ("uniform", 4, 64, {}),
    "one_head": ("uniform", 1, 7, {}),
    "one_channel": ("uniform", 4, 1, {}),
    "three_by_five": ("power_law", 3, 5, {"negative_slope": 0.0}),
    "six_by_sixteen": ("uniform", 6, 16, {"negative_slope": 1.5}),
    "two_by_two": ("uniform", 2, 2, {"negative_slope": -0.3}),
    "sixteen_by_four": ("uniform", 16, 4, {}),
    "twenty_by_three": ("uniform", 20, 3, {}),
    "thirty_two_by_eight": ("power_law", 32, 8, {}),
    "two_by_ninety": ("uniform", 2, 90, {}),
    "dropout": ("uniform", 8, 8, {"dropout": 0.6}),
    "dropout_odd": ("power_law", 5, 3, {"dropout": 0.3}),
    "dropout_of_all": ("uniform", 2, 3, {"dropout": 1.0}),
    "one_huge_row": ("hub", 4, 5, {}),
    "one_huge_row_dropout": ("hub", 3, 16, {"dropout": 0.5}),
    "half_the_nodes_isolated": ("isolated", 8, 4, {}),
    "multiple_edges_and_loops": ("multi", 2, 9, {"dropout": 0.2}),
    "no_edges": ("no_edges", 4, 5, {}),
    "no_nodes": ("no_nodes", 4, 5, {}),
    "no_channels": ("uniform", 4, 0, {}),
    "one_node": ("one_node", 2, 3, {}),
    "tiny": ("tiny", 2, 3, {}),
    "tiny_one_head": ("tiny", 1, 2, {"negative_slope": 0.5}),
    "tiny_isolated": ("tiny_isolated", 2, 2, {}),
}

GRAPHS = {
    "uniform": lambda k, ids: uniform_graph(60 + 10 * k, 300 + 50 * k, seed=k, index_dtype=ids),
    "power_law": lambda k, ids: power_law_graph(80, 500, index_dtype=ids),
    "hub": lambda k, ids: _with_ids(hub_graph(1500, 300), ids),
    "isolated": lambda k, ids: _with_ids(isolated_graph(60, 150), ids),
    "multi": lambda k, ids: uniform_graph(8, 200, index_dtype=ids),
    "no_edges": lambda k, ids: uniform_graph(6, 0, index_dtype=ids),
    "no_nodes": lambda k, ids: uniform_graph(0, 0, index_dtype=ids),
    "one_node": lambda k, ids: Graph.from_edge_index(torch.tensor([[0, 0], [0, 0]]), index_dtype=ids),
    "tiny": lambda k, ids: uniform_graph(5, 9, index_dtype=ids),
    "tiny_isolated": lambda k, ids: _with_ids(isolated_graph(6, 5), ids),
}
SEED = 11  # of the generator from which an op's dropout draws its own


def _with_ids(graph: Graph, ids: torch.dtype) -> Graph:
    return Graph.from_edge_index(graph.edge_index, None, graph.num_nodes, index_dtype=ids)


def make_case(graph: Graph, heads: int, channels: int, dropout: float = 0.0, **options) -> Case:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(graph.num_nodes, *shape, generator=generator, dtype=torch.float64)
    tensors = {"h": draw(heads, channels), "score_dst": draw(heads), "score_src": draw(heads)}

    def call(h, score_dst, score_src):
        if dropout:
            torch.manual_seed(SEED)
        return gat_attention(graph, h, score_dst, score_src, dropout=dropout, training=True, **options)

    def formula(h, score_dst, score_src):
        keep = mask(graph, heads, dropout).to(h.dtype) if dropout else 1.0
        return edge_formula(graph, h, score_dst, score_src, keep, **options)

    return GatCase(tensors, call, formula, graph, dropout, options.get("negative_slope", 0.2))


@dataclass
class GatCase(Case):
    graph: Graph
    dropout: float
    negative_slope: float

    def magnitudes(self) -> dict[str, float]:
        """A score's gradient is a difference: the terms of both its parts count, ``<|grad|, |h|>`` for each."""
        known = super().magnitudes()
        tensors, graph = self.to(torch.float64).tensors, self.graph
        if graph.num_edges == 0:
            return known
        row, col, heads = graph.row.long(), graph.col.long(), tensors["h"].shape[1]
        alpha = attention(graph, tensors["score_dst"], tensors["score_src"], self.negative_slope)
        weight = alpha * mask(graph, heads, self.dropout) if self.dropout else alpha
        cotangent = torch.randn(tensors["h"].shape, generator=torch.Generator().manual_seed(1))  # as value_and_grads
        dot = weight * (cotangent.abs()[row] * tensors["h"].abs()[col]).sum(2)
        zeros = torch.zeros_like(tensors["score_dst"])
        terms = (dot + alpha * zeros.index_add(0, row, dot)[row]) * max(1, abs(self.negative_slope))
        sums = {f"grad_score_{end}": zeros.index_add(0, ids, terms).max() for end, ids in (("dst", row), ("src", col))}
        return known | {name: max(known[name], float(value)) for name, value in sums.items()}


def mask(graph, heads, dropout):
    """What dropout multiplies with, from the seed that the op draws after ``manual_seed(SEED)``."""
    torch.manual_seed(SEED)
    drawn = seed(torch.ones(1))
    like = torch.ones(graph.num_edges, heads, dtype=torch.float64)
    return dropout_factor(like, torch.arange(graph.num_edges), drawn, round(dropout * 2**32))


def edge_formula(graph, h, score_dst, score_src, keep=1.0, negative_slope=0.2):
    """The op's docstring, edge by edge: nothing of the package but the list of edges."""
    row, col = graph.row.long(), graph.col.long()
    weight = attention(graph, score_dst, score_src, negative_slope) * keep
    return torch.zeros_like(h).index_add(0, row, weight[:, :, None] * h[col])


def attention(graph, score_dst, score_src, negative_slope):
    row, col = graph.row.long(), graph.col.long()
    score = torch.nn.functional.leaky_relu(score_dst[row] + score_src[col], negative_slope)
    places = row[:, None].expand_as(score)
    greatest = torch.full_like(score_dst, -math.inf).scatter_reduce(0, places, score.detach(), "amax")
    weight = torch.exp(score - greatest[row])
    return weight / torch.zeros_like(score_dst).index_add(0, row, weight)[row]


class TestGatAttention(OpSuite):
    op = "gat_attention"
    places = (*PLACES, EMULATED)
    case_names = tuple(CASES)
    compiled_case_names = ("eight_by_eight", "three_by_five")
    small_case_names = ("tiny", "tiny_one_head", "tiny_isolated")

    def case(self, name, index_dtype=torch.int32, size=0):
        kind, heads, channels, options = CASES[name]
        return make_case(GRAPHS[kind](size, index_dtype), heads, channels, **options)

    def large_case(self, fraction=1):
        return make_case(power_law_graph(3000 // fraction, 30_000 // fraction), 8, 8, dropout=0.4)

    def raw_calls(self, case):
        graph = GRAPHS["tiny"](0, torch.int32)
        transposed, perm = graph._structure.transpose()
        scores, drawn = torch.randn(2, 5, 2), torch.tensor([3])
        inputs = (torch.randn(5, 2, 4), scores[0].clone(), scores[1].clone())
        structure = (graph.rowptr, graph.col, graph.schedule)
        both = (graph.rowptr, graph.schedule, transposed.rowptr, transposed.col, transposed.schedule(), perm)
        fwd, bwd = torch.ops.advkern.gat_attention_fwd, torch.ops.advkern.gat_attention_bwd
        calls = []
        for op, back in ((fwd.default, bwd.default), (fwd.torch, bwd.torch)):
            for drop in ((None, 0.2, 0), (drawn, 0.1, 2**31)):
                calls.append((op, (*structure, *inputs, drop[0], torch.randn(8), *drop[1:])))
                saved = op(*structure, *inputs, drop[0], None, *drop[1:])
                for grad_sum in (None, torch.randn(5, 2)):
                    rest = (*saved, torch.randn(5, 2, 4), grad_sum, *drop[1:])
                    calls.append((back, (*both, *inputs, drop[0], *rest)))
        return calls

    def module(self):
        graph = uniform_graph(40, 200)
        torch.manual_seed(0)
        return Attention(6, 4, 3), (torch.randn(40, 6), graph)

    def wrong_inputs(self):
        graph, h, s = uniform_graph(5, 9), torch.randn(5, 2, 3), torch.randn(5, 2)
        call = gat_attention
        return {
            "graph_is_not_a_graph": (
                lambda: call(h, h, s, s),
                TypeError,
                r"graph: expected an advkern.Graph, got Tensor",
            ),
            "h_is_not_a_tensor": (lambda: call(graph, None, s, s), TypeError, r"h: expected a tensor, got NoneType"),
            "score_is_not_a_tensor": (
                lambda: call(graph, h, s, 1.0),
                TypeError,
                r"score_src: expected a tensor, got float",
            ),
            "h_of_two_dimensions": (
                lambda: call(graph, h[0], s, s),
                ValueError,
                r"h: expected \[num_nodes = 5.*\(2, 3\)",
            ),
            "h_without_heads": (
                lambda: call(graph, h[:, :0], s[:, :0], s[:, :0]),
                ValueError,
                r"h: .*at least 1.*5, 0, 3",
            ),
            "h_of_other_length": (
                lambda: call(graph, h[:4], s, s),
                ValueError,
                r"h: expected \[num_nodes = 5.*\(4, 2, 3\)",
            ),
            "h_of_integers": (lambda: call(graph, h.long(), s, s), ValueError, r"h: expected float16.*int64"),
            "scores_of_integers": (
                lambda: call(graph, h, s.int(), s),
                ValueError,
                r"score_dst: expected float16.*int32",
            ),
            "h_on_another_device": (lambda: call(graph, h.to("meta"), s, s), ValueError, r"h: .* on cpu.*meta"),
            "scores_of_other_shape": (
                lambda: call(graph, h, s, s[:, :1]),
                ValueError,
                r"score_src: .*\[5, 2\].*\(5, 1\)",
            ),
            "dropout_too_large": (
                lambda: call(graph, h, s, s, dropout=1.5),
                ValueError,
                r"dropout: .*\[0, 1\], got 1.5",
            ),
            "dropout_nan": (
                lambda: call(graph, h, s, s, dropout=math.nan),
                ValueError,
                r"dropout: .*\[0, 1\], got nan",
            ),
        }

    # -- what only this op promises ------------------------------------------------------------------------------

    @pytest.mark.gradcheck
    @pytest.mark.parametrize("heads", [1, 5])
    def test_derivatives_with_dropout(self, place, heads):
        case = make_case(GRAPHS["tiny"](0, torch.int32), heads, 2, dropout=0.4)
        leaves = case.leaves()
        call = lambda *args: case.call(*args)
        with running_on(place):
            assert torch.autograd.gradcheck(call, tuple(leaves.values()), check_forward_ad=True)
            assert torch.autograd.gradgradcheck(call, tuple(leaves.values()))

    def test_every_backend_draws_the_same_mask(self, place, dtype):
        graph = power_law_graph(40, 300)
        heads, p = 7, 0.35
        ones = torch.ones(40, heads, 1, dtype=dtype)
        scores = torch.zeros(40, heads, dtype=dtype)
        with running_on(place):
            torch.manual_seed(SEED)
            out = gat_attention(graph, ones, scores, scores, dropout=p, training=True)
        kept = torch.zeros(40, heads, dtype=torch.float64).index_add(0, graph.row.long(), mask(graph, heads, p))
        degree = torch.diff(graph.rowptr).clamp(min=1)[:, None]
        torch.testing.assert_close(out[:, :, 0].double(), kept / degree, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)

    def test_dropout_is_off_in_eval_and_draws_nothing(self, place):
        case = self.case("dropout")
        graph = GRAPHS["uniform"](0, torch.int32)
        with running_on(place):
            torch.manual_seed(3)
            state = torch.get_rng_state()
            out = gat_attention(graph, **case.tensors, dropout=0.6)
            assert torch.equal(torch.get_rng_state(), state)
            assert torch.equal(out, gat_attention(graph, **case.tensors, training=True))
            assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.compile
    def test_compiled_dropout_is_eager_s(self, place):
        torch._dynamo.reset()
        case = self.case("eight_by_eight")
        graph = GRAPHS["uniform"](0, torch.int32)
        call = lambda **tensors: gat_attention(graph, **tensors, dropout=0.5, training=True)
        results = []
        for function in (call, torch.compile(call, fullgraph=True)):
            with running_on(place):
                torch.manual_seed(SEED)
                leaves = case.leaves()
                out = function(**leaves)
                results.append([out, *torch.autograd.grad(out.pow(2).sum(), list(leaves.values()))])
        torch.testing.assert_close(*results)

    def test_vmap_of_dropout_is_refused_by_name(self, place, small):
        case = self.case(small)
        graph = GRAPHS[CASES[small][0]](0, torch.int32)
        call = lambda *args: gat_attention(graph, *args, dropout=0.5, training=True)
        twice = tuple(torch.stack([t, t]) for t in case.tensors.values())
        with running_on(place):
            with pytest.raises(RuntimeError, match=r"vmap: dropout draws a random seed"):
                torch.func.vmap(call)(*twice)
            same = torch.func.vmap(call, randomness="same")(*twice)
            assert torch.equal(same[0], same[1])
            torch.func.vmap(call, randomness="different")(*twice)

    def test_row_without_edges_gives_zeros(self, place, dtype):
        graph = isolated_graph(6, 4)
        tensors = [torch.randn(6, 2, 3), torch.randn(6, 2), torch.randn(6, 2)]
        leaves = [t.to(dtype).requires_grad_() for t in tensors]
        with running_on(place):
            out, lse = gat_attention(graph, *leaves, return_lse=True)
            assert not out[1::2].any() and (lse[1::2] == -math.inf).all()
            grads = torch.autograd.grad(out.sum() + lse[::2].where(lse[::2].isfinite(), 0).sum(), leaves)
        assert all(g.isfinite().all() and not g[1::2].any() for g in grads)

    def test_row_of_masked_scores_gives_zeros(self, place, dtype):
        """A score of -inf masks an edge; a row of nothing else gives 0, and its gradients are 0."""
        graph = Graph.from_edge_index(torch.tensor([[0, 1, 2, 1], [1, 1, 1, 2]]))
        h = torch.ones(3, 1, 2, dtype=dtype, requires_grad=True)
        dst = torch.tensor([[0.0], [0.0], [-math.inf]], dtype=dtype, requires_grad=True)
        src = torch.tensor([[0.0], [-math.inf], [0.0]], dtype=dtype, requires_grad=True)
        with running_on(place):
            out = gat_attention(graph, h, dst, src)
            grads = torch.autograd.grad(out.pow(2).sum(), (h, dst, src))
        assert torch.equal(out[:, 0, 0], torch.tensor([0, 1, 0], dtype=dtype))
        assert all(g.isfinite().all() for g in grads)
        assert not grads[0][1].any() and not grads[1][[0, 2]].any()

    @pytest.mark.parametrize("size", [1e4, 3e4])
    def test_great_scores_are_exact(self, place, dtype, size):
        """Near float16's limits (65,504): a softmax of differences, which a float32 log-sum-exp would lose."""
        graph = Graph.from_edge_index(torch.tensor([[0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1]]))
        h = torch.eye(3, dtype=dtype)[:, None].contiguous().requires_grad_()
        dst = torch.tensor([[size], [-size], [0.0]], dtype=dtype, requires_grad=True)
        src = torch.tensor([[0.0], [1.0], [-1.0]], dtype=dtype, requires_grad=True)
        with running_on(place):
            out = gat_attention(graph, h, dst, src)
            grads = torch.autograd.grad(out[:, 0, 0].sum(), (h, dst, src))
        acc = torch.float64 if dtype == torch.float64 else torch.float32
        score = torch.nn.functional.leaky_relu(dst.to(acc) + src.to(acc).mT, 0.2)[:2].detach()
        torch.testing.assert_close(out[:2, 0].to(acc), score.softmax(1), rtol=2 * torch.finfo(dtype).eps, atol=1e-7)
        assert all(g.isfinite().all() for g in grads)

    @pytest.mark.parametrize("graph", ["uniform", "hub"])
    @pytest.mark.parametrize("channels", [3, 16])
    def test_bias_has_the_same_bits_inside_the_kernel_and_after_it(self, place, dtype, graph, channels):
        """Without gradients the kernel adds it, where it sums in the type of the output."""
        graph = GRAPHS[graph](0, torch.int32)
        draw = lambda *shape: torch.randn(*shape, dtype=dtype)
        inputs = (draw(graph.num_nodes, 4, channels), draw(graph.num_nodes, 4), draw(graph.num_nodes, 4))
        bias = draw(channels, 4).mT  # of any layout
        with running_on(place):
            inside, *_ = attend(graph, *inputs, 0.2, 0.0, False, bias)
            after, *_ = attend(graph, *inputs, 0.2, 0.0, False, bias.clone().requires_grad_())
            assert torch.equal(inside, after)
            assert torch.equal(after, gat_attention(graph, *inputs) + bias)

    def test_great_features_of_half_types_do_not_overflow(self, place):
        graph = Graph.from_edge_index(torch.tensor([[0, 1], [0, 0]]))
        h = torch.full((2, 1, 3), 60_000.0, dtype=torch.float16)
        with running_on(place):
            out = gat_attention(graph, h, torch.zeros(2, 1), torch.zeros(2, 1))
        assert torch.equal(out[0], h[0]) and not out[1].any()

    def test_log_sum_exp_and_its_gradient(self, place):
        case = make_case(GRAPHS["multi"](0, torch.int32), 2, 3)
        graph, leaves = GRAPHS["multi"](0, torch.int32), case.leaves()
        with running_on(place):
            out, lse = gat_attention(graph, **leaves, return_lse=True)
            grads = torch.autograd.grad((lse * torch.arange(8)[:, None]).sum() + out.sum(), list(leaves.values()))
        twin = case.leaves()
        score = torch.nn.functional.leaky_relu(
            twin["score_dst"][graph.row.long()] + twin["score_src"][graph.col.long()], 0.2
        )
        row = graph.row.long()
        expected = torch.stack([score[row == i].logsumexp(0) for i in range(8)])
        total = (expected * torch.arange(8)[:, None]).sum() + case.formula(**twin).sum()
        torch.testing.assert_close(lse, expected)
        torch.testing.assert_close(grads, torch.autograd.grad(total, list(twin.values())))

    def test_row_outputs_are_the_same_bits_alone_and_in_a_batch(self, place, dtype):
        graphs = [uniform_graph(30, 90, seed=s) for s in range(3)]
        cases = [make_case(g, 3, 5).to(dtype) for g in graphs]
        leaves = [case.leaves() for case in cases]
        with running_on(place):
            alone = [gat_attention(g, **t) for g, t in zip(graphs, leaves, strict=True)]
            joined = {name: torch.cat([t[name] for t in leaves]) for name in leaves[0]}
            together = gat_attention(Graph.batch(graphs), **joined)
            assert torch.equal(together, torch.cat(alone))
            features = [t["h"] for t in leaves]
            left = torch.autograd.grad(together.float().pow(2).sum(), features)
            right = torch.autograd.grad(sum(a.float().pow(2).sum() for a in alone), features)
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))

    @pytest.mark.parametrize("bad_id", [-1, 5, 2**31 - 1])
    def test_damaged_column_ends_in_an_error(self, place, bad_id):
        graph = uniform_graph(5, 9)
        graph.col[3] = bad_id
        if place == EMULATED:
            return assert_nan_in_rows(graph, {int(graph.row[3])})
        with running_on(place), pytest.raises((RuntimeError, IndexError), match=r"graph is damaged: col must lie in"):
            gat_attention(graph, torch.randn(5, 2, 3), torch.randn(5, 2), torch.randn(5, 2))

    @pytest.mark.parametrize("bad_offset", [-7, 10**9])
    def test_damaged_rowptr_ends_in_an_error(self, place, bad_offset):
        graph = uniform_graph(5, 9)
        _ = graph.schedule
        graph.rowptr[2] = bad_offset
        if place == EMULATED:
            return assert_nan_in_rows(graph, {1, 2})
        with running_on(place), pytest.raises((RuntimeError, IndexError), match=r"graph is damaged"):
            gat_attention(graph, torch.randn(5, 2, 3), torch.randn(5, 2), torch.randn(5, 2))

    @pytest.mark.parametrize("bad", [-1, 9, 2**40])
    def test_damaged_transpose_ends_in_an_error_of_the_backward(self, place, bad):
        graph = uniform_graph(5, 9)
        tensors = [t.requires_grad_() for t in (torch.randn(5, 2, 3), torch.randn(5, 2), torch.randn(5, 2))]
        graph._structure.transpose()[1][4] = bad
        if place in ("torch", EMULATED):
            pytest.skip("plain PyTorch indexes with it, which errs by itself; CUDA skips the edge")
        with running_on(place):
            out = gat_attention(graph, *tensors)
            with pytest.raises(RuntimeError, match=r"graph is damaged"):
                out.sum().backward()

    def test_raw_op_checks_types_and_lengths(self):
        graph, h, s = uniform_graph(5, 9), torch.randn(5, 2, 3), torch.randn(5, 2)
        op = torch.ops.advkern.gat_attention_fwd.default
        structure = (graph.rowptr, graph.col, graph.schedule)
        for message, args in {
            "h must be contiguous": (h[:4], s, s, None, None, 0.2, 0),
            "score_dst must have": (h, s.double(), s, None, None, 0.2, 0),
            "score_src must be": (h, s, s[:, :1].contiguous(), None, None, 0.2, 0),
            "seed must be given": (h, s, s, None, None, 0.2, 5),
            "seed must be a contiguous": (h, s, s, torch.ones(2).long(), None, 0.2, 5),
            "bias must be a contiguous": (h, s, s, None, torch.ones(5), 0.2, 0),
            "threshold must lie": (h, s, s, None, None, 0.2, -1),
        }.items():
            with pytest.raises(RuntimeError, match=f"advkern: {message}"):
                op(*structure, *args)


def assert_nan_in_rows(graph, rows):
    """What the CUDA kernels make of damage, where an error would need a synchronisation."""
    with running_on(EMULATED):
        out = gat_attention(graph, torch.randn(5, 2, 3), torch.randn(5, 2), torch.randn(5, 2))
    assert [bool(row.isnan().all()) for row in out] == [i in rows for i in range(graph.num_nodes)]
    assert not out[[i not in rows for i in range(graph.num_nodes)]].isnan().any()


MEASURED = """
import torch
from advkern import Graph
from advkern.ops import gat_attention
from advkern.testing import standard_graph
graph = standard_graph("arxiv", "power-law")
heads, channels = {heads}, {channels}
h = torch.randn(graph.num_nodes, heads, channels, requires_grad=True)
scores = [torch.randn(graph.num_nodes, heads, requires_grad=True) for _ in range(2)]
graph.t(), graph.schedule, graph.t().schedule  # derived once a graph, not once a step
small = Graph.from_edge_index(torch.tensor([[0], [0]]))
gat_attention(small, torch.ones(1, 1, 1, requires_grad=True), torch.ones(1, 1), torch.ones(1, 1)).sum().backward()
def measured():
    out = gat_attention(graph, h, *scores, dropout={dropout}, training=True)
    out.backward(out.detach())
"""


@pytest.mark.parametrize(("heads", "channels", "dropout"), [(8, 8, 0.0), (8, 8, 0.6), (4, 64, 0.0)])
def test_memory_is_of_order_nodes_and_edges_not_messages(heads, channels, dropout):
    """Forward and backward at arxiv size: 3 N H F + 16 N H + 4 E H elements beyond the inputs at most."""
    num_nodes, num_edges = 169_343, 1_166_243
    most = 4 * (3 * num_nodes * heads * channels + 16 * num_nodes * heads + 4 * num_edges * heads)
    used = peak_memory(MEASURED.format(heads=heads, channels=channels, dropout=dropout))
    assert used < most, f"{used / 1e6:.0f} MB of {most / 1e6:.0f}"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_large_output_has_the_bits_of_small_ones(place, dtype):
    """From 32 MB on it and h's gradient go past the caches, in whole vectors, but for half types; the halves do not."""
    graph, channels = uniform_graph(140_000, 300_000), 64 // dtype.itemsize
    h, grad = torch.randn(2, graph.num_nodes, 4, channels).to(dtype)
    scores = torch.randn(2, graph.num_nodes, 4).to(dtype)

    def results(h, grad):
        h = h.clone().requires_grad_()
        out = gat_attention(graph, h, *scores)
        return out, *torch.autograd.grad(out, h, grad)

    with running_on(place):
        halves = [results(*part) for part in zip(h.chunk(2, 2), grad.chunk(2, 2), strict=True)]
        for whole, parts in zip(results(h, grad), zip(*halves, strict=True), strict=True):
            assert torch.equal(whole, torch.cat(parts, 2))


def test_large_graph_matches_plain_pytorch():
    """At arxiv size, where offsets, threads and prefetches all matter."""
    graph = standard_graph("arxiv", "power-law")
    case = make_case(graph, 4, 5)
    results = []
    for backend, dtype in (("torch", torch.float64), ("cpu", torch.float32)):
        with use_backend(backend):
            leaves = case.to(dtype).leaves()
            out = case.call(**leaves)
            grads = torch.autograd.grad(out.double().sin().sum(), list(leaves.values()))
            results.append([t.double() for t in (out, *grads)])
    for actual, exact in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(actual, exact, rtol=1e-4, atol=1e-4)


class Attention(torch.nn.Module):
    """The least module that uses the op."""

    def __init__(self, in_features, heads, channels):
        super().__init__()
        self.heads = heads
        self.lin = torch.nn.Linear(in_features, heads * channels)
        self.att = torch.nn.Parameter(torch.randn(2, heads, channels))

    def forward(self, x, graph):
        h = self.lin(x).unflatten(1, (self.heads, -1))
        scores = (h * self.att[0]).sum(2), (h * self.att[1]).sum(2)
        return gat_attention(graph, h, *scores)


def test_dropout_too_rare_for_the_counter_drops_nothing_in_any_derivative():
    """A probability below 2^-33 rounds to a threshold of 0, with a seed all the same."""
    graph = Graph.from_dense(torch.ones(4, 4))
    h, score = (torch.randn(*shape, dtype=torch.float64).requires_grad_() for shape in ((4, 2, 3), (4, 2)))
    grads = []
    for options in ({"dropout": 1e-12, "training": True}, {}):
        out = gat_attention(graph, h, score, score, **options)
        (grad,) = torch.autograd.grad(out.pow(2).sum(), h, create_graph=True)
        grads.append(torch.autograd.grad(grad.pow(2).sum(), (h, score)))
    for left, right in zip(*grads, strict=True):
        assert torch.equal(left, right)
