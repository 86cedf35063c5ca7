"""``vit_attention``: the op's suite, and what only this op promises."""

from __future__ import annotations

import pytest
import torch
from op_suite import PLACES, Case, OpSuite, running_on, spread
from torch import Tensor, nn

from advkern import use_backend
from advkern.ops import vit_attention
from advkern.reference import vit_attention as reference
from advkern.testing import assert_matches, peak_memory

# name: (batch, length, heads, dim, options); lengths and dims cross every tile: part of a vector, a block of
# queries, a panel, a chunk of keys
CASES = {
    "plain": (2, 21, 3, 16, {}),
    "separate": (2, 21, 3, 16, {"separate": True}),
    "one_position": (1, 1, 2, 8, {}),
    "part_of_a_vector": (2, 7, 2, 5, {"separate": True}),
    "class_token_beside_whole_blocks": (1, 97, 2, 64, {}),
    "widest_heads": (1, 50, 1, 128, {}),
    "odd_wide_heads": (1, 33, 2, 100, {"separate": True}),
    "several_chunks_of_keys": (1, 1300, 1, 8, {}),
    "own_scale": (2, 10, 2, 8, {"scale": 0.7}),
    "masked": (3, 40, 2, 24, {"hidden": 0.4}),
    "masked_chunks": (1, 1300, 1, 8, {"hidden": 0.4}),
    "fully_masked_entry": (3, 11, 2, 8, {"hidden": 1.0}),
    "dropout": (2, 50, 3, 16, {"dropout": 0.3}),
    "dropout_masked_chunks": (1, 1300, 1, 8, {"dropout": 0.1, "hidden": 0.2, "separate": True}),
    "everything_dropped": (2, 9, 2, 8, {"dropout": 1.0}),
    "no_batch": (0, 9, 2, 8, {}),
    "no_positions": (2, 0, 2, 8, {"separate": True}),
    "no_heads": (2, 9, 0, 8, {}),
    "no_dim": (2, 9, 2, 0, {}),
    "tiny": (1, 3, 2, 2, {}),
    "tiny_separate_masked": (2, 3, 1, 2, {"separate": True, "hidden": 0.5}),
    "tiny_dropout": (1, 4, 1, 2, {"dropout": 0.4}),
}


class AttentionCase(Case):
    """The formula of magnitudes takes another softmax: here each sum is over magnitudes times the true weights.

    A weight carries the roundings of its score, eps times the sum of the score's terms, and so does what it enters.
    """

    def magnitudes(self) -> dict[str, float]:
        tensors = {name: t.double() for name, t in self.tensors.items()}
        q, k, v = tensors["qkv"].unbind(2) if "qkv" in tensors else tensors.values()
        if not q.numel():
            return dict.fromkeys(("output", *(f"grad_{name}" for name in self.tensors)), 0.0)
        weights = self.formula(**tensors, weights_only=True)
        q, k, v = q.abs(), k.abs(), v.abs()
        grad = torch.randn(v.shape, generator=torch.Generator().manual_seed(1)).double().abs()
        scale = q.shape[-1] ** -0.5
        scores = 1 + scale * torch.einsum("bihd,bjhd->bhij", q, k).max()
        grad_weights = weights * torch.einsum("bihd,bjhd->bhij", grad, v)
        grad_scores = scale * (grad_weights + weights * grad_weights.sum(-1, keepdim=True))
        results = {
            "output": torch.einsum("bhij,bjhd->bihd", weights, v),
            "grad_q": torch.einsum("bhij,bjhd->bihd", grad_scores, k),
            "grad_k": torch.einsum("bhij,bihd->bjhd", grad_scores, q),
            "grad_v": torch.einsum("bhij,bihd->bjhd", weights, grad),
        }
        sums = {name: float(scores * result.max()) for name, result in results.items()}
        return sums | {"grad_qkv": max(sums["grad_q"], sums["grad_k"], sums["grad_v"])}


def make_case(batch, length, heads, dim, separate=False, hidden=0.0, scale=None, dropout=0.0) -> Case:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, length, 3, heads, dim, generator=generator, dtype=torch.float64)
    tensors = dict(zip("qkv", qkv.unbind(2), strict=True)) if separate else {"qkv": qkv}
    mask = None
    if hidden:
        mask = torch.rand(batch, length, generator=generator) < hidden
        mask[1:2] = True

    def call(qkv=None, q=None, k=None, v=None):
        if not torch.compiler.is_compiling():
            torch.manual_seed(5)  # the seed of the dropout
        arguments = {"scale": scale, "dropout": dropout, "training": True, "key_padding_mask": mask}
        return vit_attention((q, k, v) if separate else qkv, **arguments)

    def formula(qkv=None, q=None, k=None, v=None, weights_only=False):
        q, k, v = (q, k, v) if separate else qkv.unbind(2)
        torch.manual_seed(5)
        seed = torch.ops.advkern.seed(q) if dropout else None
        weights = dense_weights(q, k, mask, max(dim, 1) ** -0.5 if scale is None else scale, seed, dropout)
        return weights if weights_only else torch.einsum("bhij,bjhd->bihd", weights, v)

    return AttentionCase(tensors, call, formula)


def dense_weights(q, k, mask=None, scale=1.0, seed=None, dropout=0.0) -> Tensor:
    """The weights of the op's docstring as dropout leaves them, in the type of q."""
    scores = torch.einsum("bihd,bjhd->bhij", q * scale, k)
    if mask is not None:
        scores = scores.masked_fill(mask[:, None, None], torch.finfo(q.dtype).min)
    weights = scores.softmax(-1)
    if mask is not None:
        weights = weights.masked_fill(mask[:, None, None], 0)
    if seed is not None:
        weights = weights * reference.dropout_factor(weights, seed, dropout)
    return weights


class TestVitAttention(OpSuite):
    op = "vit_attention"
    case_names = tuple(CASES)
    compiled_case_names = ("plain", "separate", "masked")
    small_case_names = ("tiny", "tiny_separate_masked", "tiny_dropout")

    def case(self, name, index_dtype=torch.int32, size=0):
        batch, length, heads, dim, options = CASES[name]
        return make_case(batch, length + 3 * size, heads, dim, **options)

    def large_case(self, fraction=1):
        return make_case(2, 300 // fraction, 5, 32, hidden=0.2, dropout=0.1)

    def raw_calls(self, case):
        generator = torch.Generator().manual_seed(0)
        q, k, v, out, grad = (torch.randn(2, 5, 3, 4, generator=generator) for _ in range(5))
        lse, grad_lse = torch.rand(2, 3, 5) + 2, torch.rand(2, 3, 5)
        mask = torch.tensor([[False, True, False, False, True], [True] * 5])
        seed = torch.tensor([7])
        packed = torch.randn(2, 5, 3, 3, 4, generator=generator)
        fwd, bwd = torch.ops.advkern.vit_attention_fwd, torch.ops.advkern.vit_attention_bwd
        inputs = [
            (fwd, (q, k, v, None, None, 0.5, 0.0, False)),
            (fwd, (*packed.unbind(2), mask, seed, 0.5, 0.25, True)),
            (fwd, (q, k, v, mask, seed, 0.5, 0.25, False)),
            (bwd, (q, k, v, out, lse, grad, None, None, None, 0.5, 0.0)),
            (bwd, (*packed.unbind(2), out, lse, grad, grad_lse, mask, seed, 0.5, 0.25)),
        ]
        return [(op, args) for packet, args in inputs for op in (packet.default, packet.torch)]

    def module(self):
        torch.manual_seed(0)
        return Attention(12, 3), (torch.randn(2, 10, 12),)

    def wrong_inputs(self):
        qkv = torch.randn(2, 5, 3, 2, 4)
        q = torch.randn(2, 5, 2, 4)
        mask = torch.zeros(2, 5, dtype=torch.bool)
        call = vit_attention
        return {
            "qkv_is_not_a_tensor": (lambda: call(1.5), TypeError, r"qkv: expected a tensor or three.*got float"),
            "k_is_not_a_tensor": (lambda: call((q, 1, q)), TypeError, r"qkv: .*three tensors.*'int'"),
            "two_tensors": (lambda: call((q, q)), ValueError, r"qkv: .*three tensors.*got 2"),
            "qkv_of_four_dimensions": (lambda: call(q), ValueError, r"qkv: .*\[batch, length, 3.*\(2, 5, 2, 4\)"),
            "qkv_of_two_parts": (lambda: call(qkv[:, :, :2]), ValueError, r"qkv: .*\[batch, length, 3.*2, 5, 2, 2"),
            "q_of_three_dimensions": (lambda: call((q[0], q, q)), ValueError, r"q: .*\[batch.*\(5, 2, 4\)"),
            "k_of_other_length": (lambda: call((q, q[:, :4], q)), ValueError, r"k: .*\(2, 5, 2, 4\), as q.*\(2, 4"),
            "v_of_other_dim": (lambda: call((q, q, q[..., :3])), ValueError, r"v: .*as q.*\(2, 5, 2, 3\)"),
            "qkv_of_integers": (lambda: call(qkv.long()), ValueError, r"qkv: expected float16.*int64"),
            "k_of_another_type": (lambda: call((q, q.double(), q)), ValueError, r"k: .*float32, as q.*float64"),
            "v_on_another_device": (lambda: call((q, q, q.to("meta"))), ValueError, r"v: .*on cpu.*meta"),
            "dropout_above_one": (lambda: call(qkv, dropout=1.5), ValueError, r"dropout: .*\[0, 1\].*1.5"),
            "dropout_nan": (lambda: call(qkv, dropout=float("nan")), ValueError, r"dropout: .*nan"),
            "mask_is_not_a_tensor": (
                lambda: call(qkv, key_padding_mask=[True]),
                TypeError,
                r"key_padding_mask: expected a tensor, got list",
            ),
            "mask_of_floats": (
                lambda: call(qkv, key_padding_mask=mask.float()),
                ValueError,
                r"key_padding_mask: expected bool.*float32",
            ),
            "mask_of_other_length": (
                lambda: call(qkv, key_padding_mask=mask[:, :4]),
                ValueError,
                r"key_padding_mask: .*\(2, 5\).*\(2, 4\)",
            ),
        }

    # -- where this op differs from the suite ----------------------------------------------------------------------

    def test_non_contiguous_inputs_give_the_same_bits(self, place, name):
        if place != "torch":
            return super().test_non_contiguous_inputs_give_the_same_bits(place, name)
        case = self.case(name)  # the products of plain PyTorch are BLAS's, whose roundings depend on the strides
        with running_on(place):
            torch.testing.assert_close(
                case.call(**{key: spread(t) for key, t in case.tensors.items()}), case.call(**case.tensors)
            )

    def test_bitwise_repeatable_on_any_number_of_threads(self, place, dtype):
        if place == "torch":
            pytest.skip("the products of plain PyTorch are BLAS's, whose roundings depend on the number of threads")
        super().test_bitwise_repeatable_on_any_number_of_threads(place, dtype)

    def test_func_grad_and_vmap(self, place, small):
        if "dropout" not in small:
            return super().test_func_grad_and_vmap(place, small)
        qkv = self.case(small).tensors["qkv"]
        call = lambda t: vit_attention(t, dropout=0.4, training=True)
        with running_on(place):
            with pytest.raises(RuntimeError, match=r"vmap: dropout draws a random seed"):
                torch.func.vmap(call)(torch.stack([qkv, qkv]))
            one, other = torch.func.vmap(call, randomness="same")(torch.stack([qkv, qkv]))
            assert torch.equal(one, other)

    def test_first_use_inside_a_transform_or_inference_mode_leaves_nothing_behind(self, place, small):
        if "dropout" not in small:  # there vmap refuses
            super().test_first_use_inside_a_transform_or_inference_mode_leaves_nothing_behind(place, small)

    # -- what only this op promises ------------------------------------------------------------------------------

    def test_lse_is_returned_and_differentiable(self, place, small):
        case = self.case(small)
        tensors = tuple(case.tensors.values())
        mask = torch.tensor([[False] * (tensors[0].shape[1] - 1) + [True]] * tensors[0].shape[0])

        def call(*tensors):
            qkv = tensors if len(tensors) == 3 else tensors[0]
            return vit_attention(qkv, key_padding_mask=mask, return_lse=True)

        q, k, _ = tensors if len(tensors) == 3 else tensors[0].unbind(2)
        exact = reference.attention_weights(q, k, mask, q.shape[-1] ** -0.5)[1]
        leaves = tuple(t.clone().requires_grad_() for t in tensors)
        with running_on(place):
            torch.testing.assert_close(call(*leaves)[1], exact)
            assert torch.autograd.gradcheck(call, leaves)
            assert torch.autograd.gradgradcheck(call, leaves)
            alone = torch.autograd.grad(call(*leaves)[1].sum(), leaves)
            assert torch.autograd.gradcheck(lambda *t: call(*t)[1], leaves) and all(g is not None for g in alone)

    def test_query_without_keys_is_zero_everywhere(self, place, dtype):
        qkv = torch.randn(2, 20, 3, 2, 8).to(dtype).requires_grad_()
        mask = torch.zeros(2, 20, dtype=torch.bool)
        mask[1] = True
        with running_on(place):
            out, lse = vit_attention(qkv, key_padding_mask=mask, return_lse=True)
            (grad,) = torch.autograd.grad(out.float().square().sum(), qkv)
        assert torch.equal(out[1], torch.zeros_like(out[1])) and torch.isinf(lse[1]).all()
        assert torch.equal(grad[1], torch.zeros_like(grad[1]))
        assert torch.isfinite(out).all() and torch.isfinite(grad).all()

    def test_ignored_keys_change_nothing(self, place, dtype):
        qkv = torch.randn(1, 90, 3, 2, 8).to(dtype)
        mask = torch.zeros(1, 90, dtype=torch.bool)
        mask[:, 70:] = True
        other = qkv.clone()
        other[:, 70:] = 3.0
        with running_on(place):
            left = vit_attention(qkv, key_padding_mask=mask)[:, :70]
            assert torch.equal(left, vit_attention(other, key_padding_mask=mask)[:, :70])

    def test_large_half_scores_do_not_overflow(self, place):
        qkv = (80 * torch.randn(1, 20, 3, 2, 64, generator=torch.Generator().manual_seed(0))).half()
        with running_on(place):
            out = vit_attention(qkv, return_lse=True)[0]
        q, k, v = qkv.double().unbind(2)
        exact = torch.einsum("bhij,bjhd->bihd", dense_weights(q, k, scale=0.125), v)
        assert_matches(out, exact, exact.half(), float(qkv.double().abs().max()))

    def test_mask_of_dropout_is_the_reference_s(self, place, dtype):
        """Values of one-hot rows read the weights, and with them the mask, off the output."""
        length, p = 40, 0.3
        q = torch.zeros(1, length, 2, length, dtype=dtype)
        v = torch.eye(length, dtype=dtype)[None, :, None].expand(1, length, 2, length)
        with running_on(place):
            torch.manual_seed(3)
            out = vit_attention((q, q, v), dropout=p, training=True)
        torch.manual_seed(3)
        seed = torch.ops.advkern.seed(q)
        factor = reference.dropout_factor(torch.empty(1, 2, length, length, dtype=torch.float64), seed, p)
        torch.testing.assert_close(out.double(), (factor / length).transpose(1, 2).double(), rtol=1e-2, atol=0)
        assert torch.equal(out.transpose(1, 2) == 0, factor == 0)

    def test_dropout_only_in_training(self, place):
        qkv = torch.randn(1, 9, 3, 2, 8)
        with running_on(place):
            assert torch.equal(vit_attention(qkv, dropout=0.5), vit_attention(qkv))
            assert not torch.equal(vit_attention(qkv, dropout=0.5, training=True), vit_attention(qkv))

    def test_packed_and_separate_give_the_same_bits(self, place, dtype):
        qkv = torch.randn(2, 50, 3, 2, 24).to(dtype)
        strange = [t.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1) for t in qkv.unbind(2)]
        with running_on(place):
            one, other = vit_attention(qkv, return_lse=True), vit_attention(strange, return_lse=True)
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])

    def test_packed_gradient_is_one_tensor(self, place):
        qkv = torch.randn(2, 20, 3, 2, 8, requires_grad=True)
        with running_on(place):
            (grad,) = torch.autograd.grad(vit_attention(qkv).sum(), qkv)
        assert grad.is_contiguous() and grad._base is None

    def test_rows_are_the_same_bits_alone_and_in_a_batch(self, place, dtype):
        qkv = torch.randn(3, 60, 3, 2, 16).to(dtype)
        with running_on(place):
            whole = vit_attention(qkv, return_lse=True)[0]
            for b in range(3):
                assert torch.equal(vit_attention(qkv[b : b + 1], return_lse=True)[0], whole[b : b + 1])

    @pytest.mark.compile
    def test_compiled_dropout_draws_what_eager_draws(self, place):
        torch._dynamo.reset()
        qkv = torch.randn(1, 30, 3, 2, 8, requires_grad=True)
        call = lambda t: vit_attention(t, dropout=0.3, training=True)
        with running_on(place):
            torch.manual_seed(2)
            eager = call(qkv)
            torch.manual_seed(2)
            compiled = torch.compile(call, fullgraph=True)(qkv)
        torch.testing.assert_close(compiled, eager)
        grads = [torch.autograd.grad(out.square().sum(), qkv)[0] for out in (compiled, eager)]
        torch.testing.assert_close(*grads)

    def test_checkpoint_draws_the_same_mask_again(self, place):
        qkv = torch.randn(1, 30, 3, 2, 8, requires_grad=True)
        call = lambda t: vit_attention(t, dropout=0.3, training=True).square().sum()
        with running_on(place):
            torch.manual_seed(2)
            (plain,) = torch.autograd.grad(call(qkv), qkv)
            torch.manual_seed(2)
            (again,) = torch.autograd.grad(torch.utils.checkpoint.checkpoint(call, qkv, use_reentrant=False), qkv)
        assert torch.equal(plain, again)


def test_nothing_of_length_times_length_is_held():
    """A map of this size would take 256 MiB a head."""
    code = """
import torch
from advkern.ops import vit_attention
torch.set_num_threads(1)
qkv = torch.randn(1, 8192, 3, 1, 16, requires_grad=True)
def measured():
    vit_attention(qkv, dropout=0.1, training=True).sum().backward()
"""
    if PLACES == ["torch"]:
        pytest.skip("needs the compiled part")
    assert peak_memory(code) < 32 * 2**20


def test_plain_pytorch_calls_torch_s_attention_only_without_dropout(monkeypatch):
    calls = []
    sdpa = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional, "scaled_dot_product_attention", lambda *a, **k: (calls.append(1), sdpa(*a, **k))[1]
    )
    qkv = torch.randn(1, 9, 3, 2, 8, requires_grad=True)
    with use_backend("torch"):
        vit_attention(qkv).sum().backward()
        assert len(calls) == 1
        vit_attention(qkv, dropout=0.5, training=True).sum().backward()
        assert len(calls) == 1


class Attention(nn.Module):
    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        return vit_attention(qkv).flatten(2)
