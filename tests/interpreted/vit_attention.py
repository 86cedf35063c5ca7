"""The suite of ``vit_attention`` on its Triton kernels under Triton's interpreter: small sizes, every branch."""

import pytest
import torch
from op_suite import running_on
from test_vit_attention import TestVitAttention as Suite

from advkern import use_backend
from advkern._triton import vit_attention as kernels
from advkern.ops import vit_attention
from advkern.reference import vit_attention as reference

CASES = ("separate", "one_position", "part_of_a_vector", "masked", "fully_masked_entry", "dropout")


@pytest.fixture(params=["one_program", "two_passes"], autouse=True)
def form(request, monkeypatch):
    """Both forms of the backward."""
    if request.param == "two_passes":
        monkeypatch.setattr(kernels, "ONE_PROGRAM_LENGTH", 0)


class TestInterpreted(Suite):
    places = ("triton",)
    case_names = ("plain", *CASES, "everything_dropped", "no_batch", "no_positions", "no_heads", "no_dim")
    compiled_case_names = ("plain",)
    small_case_names = ("tiny_dropout",)

    def large_case(self, fraction=1):
        return self.case("dropout")

    def test_dispatcher_takes_the_backend_of_the_test(self, place):
        with running_on(place):
            called = []
            launch = kernels._launch
            try:
                kernels._launch = lambda form, *args: (called.append(form), launch(form, *args))
                self.case("plain").call(torch.randn(1, 5, 3, 1, 8, requires_grad=True)).sum().backward()
            finally:
                kernels._launch = launch
        assert called in (["fwd", "bwd_one"], ["fwd", "bwd_q", "bwd_kv"])

    # what plain PyTorch does beyond the kernels, or what takes the interpreter minutes
    test_gradgradcheck = test_third_derivative = test_int64_ids_give_the_same_bits = None
    test_func_grad_and_vmap = test_func_hessian_forward_over_reverse = test_wrong_input_is_named = None
    test_first_use_inside_a_transform_or_inference_mode_leaves_nothing_behind = None
    test_bitwise_repeatable_on_any_number_of_threads = test_backward_stays_on_the_forward_s_backend = None
    test_module_survives_copies_after_a_forward = test_module_hooks_run = None
    test_module_trains_under_a_grad_scaler = test_every_kernel_backend_is_suited = None
    test_lse_is_returned_and_differentiable = test_large_half_scores_do_not_overflow = None


# whole blocks alone, with a tail of one, with several tails; the one-program form without a tail, with one in its loop
# and, from 257 on, with one after it
@pytest.mark.parametrize("length", [16, 17, 33, 65, 100, 129, 144, 197, 257])
@pytest.mark.parametrize("options", [False, True], ids=["plain", "all_options"])
def test_tiles_meet_the_edges(length, options):
    qkv = torch.randn(2, length, 3, 1, 20, requires_grad=True)
    mask = torch.rand(2, length) < 0.3 if options else None
    p = 0.25 if options else 0.0
    torch.manual_seed(1)
    seed = torch.ops.advkern.seed(qkv) if options else None
    exact, exact_lse = reference.vit_attention(*qkv.detach().double().unbind(2), mask, seed, 20**-0.5, p)
    grads = torch.randn(2, length, 1, 20), torch.randn(2, 1, length)
    exact_grad = reference.vit_attention_gradient(
        grads[0].double(), grads[1].double(), *qkv.detach().double().unbind(2), mask, seed, 20**-0.5, p
    )
    torch.manual_seed(1)
    with use_backend("triton"):
        out, lse = vit_attention(qkv, dropout=p, training=True, key_padding_mask=mask, return_lse=True)
        (grad,) = torch.autograd.grad((out, lse), qkv, grads)
    torch.testing.assert_close(out.double(), exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse.double(), exact_lse, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grad.double(), exact_grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [65, 197, 257])
def test_half_gradients_are_as_near_as_plain_pytorch_s(length):
    """The tail's share of dk and dv is added to what has been rounded once: no more than twice the error."""
    qkv = torch.randn(1, length, 3, 2, 64).half().requires_grad_()
    grad_out = torch.randn(1, length, 2, 64)
    grad_out[:, :-1] *= 0.1  # the last position, which is the tail, counts most
    grads = {}
    for place in ("triton", "torch"):
        with use_backend(place):
            (grads[place],) = torch.autograd.grad(vit_attention(qkv), qkv, grad_out.half())
    with use_backend("torch"):
        exact_qkv = qkv.detach().double().requires_grad_()
        (exact,) = torch.autograd.grad(vit_attention(exact_qkv), exact_qkv, grad_out.half().double())
    error = {place: (grad - exact).square().mean((0, 1, 3, 4)).sqrt() for place, grad in grads.items()}
    assert (error["triton"] <= 2 * error["torch"]).all(), error


@pytest.mark.parametrize("dim", [8, 16, 40, 128])
def test_dims_are_padded(dim):
    qkv = torch.randn(1, 20, 3, 2, dim, requires_grad=True)
    results = []
    for place in ("triton", "torch"):
        with use_backend(place):
            out = vit_attention(qkv)
            results.append((out, *torch.autograd.grad(out.square().sum(), qkv)))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def test_wider_heads_run_in_plain_pytorch():
    qkv = torch.randn(1, 4, 3, 1, 130)
    with use_backend("triton"):
        out = vit_attention(qkv)
    with use_backend("torch"):
        assert torch.equal(out, vit_attention(qkv))
