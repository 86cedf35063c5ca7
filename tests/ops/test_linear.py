"""``linear``: the op's suite, and what only this op promises."""

from __future__ import annotations

import pytest
import torch
from op_suite import FLOATS, PLACES, Case, OpSuite, Recorder, running_on, spread
from torch import nn

from advkern import use_backend
from advkern.ops import linear

# name: (rows, in, out, with bias); sizes cross every tile: part of a vector, a panel, a block of rows, a slice
CASES = {
    "plain": (21, 16, 24, True),
    "without_bias": (21, 16, 24, False),
    "one_of_each": (1, 1, 1, True),
    "part_of_a_vector": (7, 5, 3, True),
    "several_panels_and_a_part": (10, 33, 150, True),
    "several_blocks_of_rows": (200, 9, 20, True),
    "several_slices_of_rows": (2500, 6, 100, False),
    "more_in_than_a_panel": (50, 300, 40, True),
    "several_blocks_of_the_weight": (130, 320, 200, True),
    "no_rows": (0, 5, 3, True),
    "nothing_in": (4, 0, 3, True),
    "nothing_out": (4, 3, 0, False),
    "tiny": (4, 3, 2, True),
    "tiny_without_bias": (2, 3, 3, False),
}


def make_case(rows, inputs, outputs, bias) -> Case:
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (rows, inputs), "weight": (outputs, inputs)} | ({"bias": (outputs,)} if bias else {})
    tensors = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}

    def formula(x, weight, bias=None):
        out = x @ weight.mT
        return out if bias is None else out + bias

    return Case(tensors, linear, formula)


class Projection(nn.Module):
    """A layer with a weight on this op."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return linear(x, self.weight, self.bias)


class TestLinear(OpSuite):
    op = "linear"
    case_names = tuple(CASES)
    compiled_case_names = ("plain", "without_bias")
    small_case_names = ("tiny", "tiny_without_bias")

    def case(self, name, index_dtype=torch.int32, size=0):
        rows, inputs, outputs, bias = CASES[name]
        return make_case(rows + 5 * size, inputs, outputs, bias)

    def large_case(self, fraction=1):
        return make_case(5000 // fraction, 70, 130, True)

    def raw_calls(self, case):
        x, weight, bias = torch.randn(5, 3), torch.randn(4, 3), torch.randn(4)
        fwd, bwd = torch.ops.advkern.linear_fwd, torch.ops.advkern.linear_bwd_weight
        inputs = [
            (fwd, (x, weight, bias)),
            (fwd, (x, weight.t().contiguous().t(), None)),
            (bwd, (torch.randn(5, 4), x)),
        ]
        return [(op, args) for packet, args in inputs for op in (packet.default, packet.torch)]

    def module(self):
        torch.manual_seed(0)
        return Projection(), (torch.randn(10, 6),)

    def wrong_inputs(self):
        x, weight, bias = torch.randn(5, 3), torch.randn(4, 3), torch.randn(4)
        return {
            "x_is_not_a_tensor": (lambda: linear([1.0], weight), TypeError, r"x: expected a tensor, got list"),
            "bias_is_a_number": (lambda: linear(x, weight, 1.0), TypeError, r"bias: expected a tensor, got float"),
            "weight_of_integers": (lambda: linear(x, weight.long()), ValueError, r"weight: expected float16.*int64"),
            "weight_of_another_type": (
                lambda: linear(x, weight.double()),
                ValueError,
                r"weight: expected torch.float32, as x.*float64",
            ),
            "bias_on_another_device": (lambda: linear(x, weight, bias.to("meta")), ValueError, r"bias: .*cpu.*meta"),
            "weight_transposed": (lambda: linear(x, weight.t()), ValueError, r"weight: .*in = 3.*\(3, 4\)"),
            "weight_of_one_dimension": (lambda: linear(x, weight[0]), ValueError, r"weight: .*\(3,\)"),
            "x_of_no_dimension": (lambda: linear(x[0, 0], weight), ValueError, r"weight: .*in = none"),
            "bias_of_another_length": (lambda: linear(x, weight, bias[:3]), ValueError, r"bias: .*out = 4.*\(3,\)"),
        }

    # -- where this op differs from the suite: on plain PyTorch it is torch's own linear, not an op of ours ----------

    def test_dispatcher_takes_the_backend_of_the_test(self, place):
        if place != "torch":
            return super().test_dispatcher_takes_the_backend_of_the_test(place)
        case = self.case("plain")
        with running_on(place), Recorder() as recorder:
            case.call(**case.leaves()).sum().backward()
        assert recorder.called == []

    def test_backward_stays_on_the_forward_s_backend(self):
        case = self.case("plain")
        with running_on(PLACES[-1]):
            out = case.call(**case.leaves())
        with use_backend("torch"), Recorder() as recorder:
            out.sum().backward()
        assert {call.rpartition(".")[2] for call in recorder.called} == ({"default"} if len(PLACES) > 1 else set())

    def test_non_contiguous_inputs_give_the_same_bits(self, place, name):
        if place != "torch":
            return super().test_non_contiguous_inputs_give_the_same_bits(place, name)
        case = self.case(name)  # the roundings of BLAS depend on the strides
        with running_on(place):
            scattered = {key: spread(t) for key, t in case.tensors.items()}
            torch.testing.assert_close(case.call(**scattered), case.call(**case.tensors))

    def test_bitwise_repeatable_on_any_number_of_threads(self, place, dtype):
        if place == "torch":
            pytest.skip("the roundings of BLAS depend on the number of threads")
        super().test_bitwise_repeatable_on_any_number_of_threads(place, dtype)

    # -- what only this op promises ------------------------------------------------------------------------------

    @pytest.mark.parametrize("rows", [300, 1100], ids=["in place", "in slices"])
    def test_blocks_of_the_gradient_have_the_same_bits_on_any_number_of_threads(self, rows):
        generator = torch.Generator().manual_seed(0)
        grad, x = torch.randn(rows, 400, generator=generator), torch.randn(rows, 528, generator=generator)
        before, results = torch.get_num_threads(), []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(torch.ops.advkern.linear_bwd_weight(grad, x))
        finally:
            torch.set_num_threads(before)
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
        torch.testing.assert_close(results[0].double(), grad.double().t() @ x.double(), rtol=1e-5, atol=1e-4)

    @pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 3, 6), (0, 3, 6), (2, 1, 3, 6)], ids=str)
    def test_takes_any_leading_axes(self, place, shape):
        generator = torch.Generator().manual_seed(0)
        x, weight = torch.randn(shape, generator=generator).double(), torch.randn(4, 6, generator=generator).double()
        with running_on(place):
            out = linear(x, weight)
        assert out.shape == (*shape[:-1], 4)
        torch.testing.assert_close(out, nn.functional.linear(x, weight))

    def test_a_row_is_the_same_whatever_rows_stand_beside_it(self, place, dtype):
        if place == "torch":
            pytest.skip("the roundings of BLAS depend on the number of rows")
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(300, 37, generator=generator).to(dtype)
        weight = torch.randn(90, 37, generator=generator).to(dtype)
        with running_on(place):
            whole = linear(x, weight)
            assert all(torch.equal(linear(x[k : k + 1], weight)[0], whole[k]) for k in (0, 5, 95, 96, 299))

    def test_types_are_all_of_the_suite(self):
        assert {linear(torch.ones(1, 1, dtype=t), torch.ones(1, 1, dtype=t)).dtype for t in FLOATS} == set(FLOATS)
