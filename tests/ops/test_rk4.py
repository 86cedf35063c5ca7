"""``rk4`` and ``rk4_step``: the suite for each, and what only they promise."""

from __future__ import annotations

import itertools

import pytest
import torch
from op_suite import EMULATED, PLACES, Case, OpSuite, Recorder, running_on, value_and_grads
from torch.nn.functional import linear

from advkern import nn
from advkern.ops import odeint, rk4, rk4_step
from advkern.reference.rk4 import TABLEAUS
from advkern.testing import assert_matches, peak_memory

WEIGHTS = ("weight1", "bias1", "weight2", "bias2")

# name: (batch shape, dim, hidden, steps, options); sizes cross lanes, blocks of samples, tiles of rows, checkpoints
CASES = {
    "tutorial": ((20,), 2, 4, 10, {}),
    "one_of_each": ((1,), 1, 1, 1, {}),
    "a_lane_too_many": ((17,), 3, 5, 9, {"save_at": (0, 4, 9)}),
    "several_blocks": ((70,), 4, 9, 5, {}),
    "wide": ((33,), 17, 23, 6, {"save_at": (3, 6)}),
    "tiles_and_a_rest": ((9,), 45, 13, 4, {}),
    "one_sample_no_batch": ((), 3, 7, 5, {"save_at": (0, 5)}),
    "two_batch_axes": ((3, 5), 4, 8, 5, {"save_at": (2, 2, 5)}),
    "own_lengths": ((19,), 5, 6, 8, {"own": True, "save_at": (0, 3, 8)}),
    "euler": ((18,), 3, 4, 7, {"method": "euler"}),
    "midpoint": ((18,), 3, 4, 7, {"method": "midpoint", "save_at": (1, 7)}),
    "rk4_38": ((18,), 3, 4, 7, {"method": "rk4_38"}),
    "no_samples": ((0,), 3, 4, 5, {"save_at": (0, 5)}),
    "no_steps": ((6,), 3, 4, 0, {"save_at": (0,)}),
    "nothing_saved": ((6,), 3, 4, 2, {"save_at": ()}),
    "small": ((3,), 2, 3, 5, {"save_at": (2, 5)}),
    "small_38": ((2,), 1, 2, 3, {"method": "rk4_38"}),
    "small_own": ((2,), 2, 2, 3, {"own": True}),
}


class SaturatingCase(Case):
    def magnitudes(self):
        """At the tensors' magnitudes tanh saturates, so gradients there bound nothing: the output's, or the value's."""
        out = self.formula(**{name: t.double().abs() for name, t in self.tensors.items()})
        largest = float(out.abs().max()) if out.numel() else 0.0
        exact = value_and_grads(self.to(torch.float64), self.formula)
        return {name: max(largest, float(t.abs().max()) if t.numel() else 0.0) for name, t in exact.items()}


def make_case(batch, dim, hidden, steps, *, own=False, save_at=None, method="rk4", size=0) -> Case:
    batch = (batch[0] + 3 * size, *batch[1:]) if batch else batch
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = {
        "y": normal(*batch, dim),
        "weight1": normal(hidden, dim, scale=dim**-0.5),
        "bias1": normal(hidden, scale=0.5),
        "weight2": normal(dim, hidden, scale=hidden**-0.5),
        "bias2": normal(dim, scale=0.5),
        "h": 0.05 + 0.1 * torch.rand(steps, *(batch if own else ()), generator=generator, dtype=torch.float64),
    }

    def call(y, weight1, bias1, weight2, bias2, h):
        return rk4(y, weight1, bias1, weight2, bias2, h, save_at=save_at, method=method)

    def integrated(y, weight1, bias1, weight2, bias2, h):
        return formula(y, (weight1, bias1, weight2, bias2), h, [steps] if save_at is None else save_at, method)

    return SaturatingCase(tensors, call, integrated)


def formula(y, weights, h, save_at, method):
    """The methods as textbooks write them; nothing of the package."""
    w1, b1, w2, b2 = weights
    f = lambda x: linear(torch.tanh(linear(x, w1, b1)), w2, b2)
    states = [y]
    for length in h:
        dt = length[..., None] if length.dim() else length
        k1 = f(y)
        if method == "euler":
            y = y + dt * k1
        elif method == "midpoint":
            y = y + dt * f(y + dt / 2 * k1)
        elif method == "rk4":
            k2 = f(y + dt / 2 * k1)
            k3 = f(y + dt / 2 * k2)
            y = y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + f(y + dt * k3))
        else:
            k2 = f(y + dt / 3 * k1)
            k3 = f(y + dt * (k2 - k1 / 3))
            y = y + dt / 8 * (k1 + 3 * k2 + 3 * k3 + f(y + dt * (k1 - k2 + k3)))
        states.append(y)
    unused = 0 * (sum(t.sum() for t in (*weights, h, states[0])))  # so that each has a gradient, were it zero
    return (torch.stack([states[n] for n in save_at]) if len(save_at) else y.new_empty(0, *y.shape)) + unused


class StateKeepsItsType:
    """Where an integration differs from the other ops."""

    test_int64_ids_give_the_same_bits = None  # it has no ids

    def test_autocast(self, place):
        """The state stays in its own type: rounded at each step, an integration would stand still."""
        case = self.case(self.case_names[0]).to(torch.float32)
        with running_on(place):
            plain = case.call(**case.leaves())
            with torch.autocast("cpu", torch.bfloat16):
                leaves = case.leaves()
                out = case.call(**leaves)
        assert out.dtype == torch.float32 and torch.equal(out, plain)
        out.sum().backward()
        assert all(leaf.grad.dtype == torch.float32 for leaf in leaves.values())


class TestRk4(StateKeepsItsType, OpSuite):
    op = "rk4"
    places = (*PLACES, EMULATED)
    case_names = tuple(CASES)
    compiled_case_names = ("tutorial", "own_lengths", "wide")
    small_case_names = ("small", "small_38", "small_own")

    def case(self, name, index_dtype=None, size=0):
        batch, dim, hidden, steps, options = CASES[name]
        return make_case(batch, dim, hidden, steps, size=size, **options)

    def large_case(self, fraction=1):
        return make_case((1600 // fraction,), 5, 11, 12, save_at=(5, 12))

    def raw_calls(self, case):
        y, *network, h = (case.tensors[name].detach() for name in ("y", *WEIGHTS, "h"))
        scheme = (h, [0, len(h)], TABLEAUS["rk4"].numbers)
        ops = torch.ops.advkern
        calls = []
        for overload in ("default", "torch"):
            fwd, bwd = getattr(ops.rk4_fwd, overload), getattr(ops.rk4_bwd, overload)
            out, checkpoints = fwd(y, *network, *scheme, 2)
            calls += [(fwd, (y, *network, *scheme, 2)), (fwd, (y, *network, *scheme, 0))]
            calls += [(bwd, (torch.ones_like(out), checkpoints, *network, *scheme, 2))]
        return calls

    def module(self):
        torch.manual_seed(0)
        return nn.NeuralODE(nn.ODEFunc(6), "rk4", 0.1), (torch.randn(40, 6), (0.0, 0.75))

    def wrong_inputs(self):
        good = {name: t.float() for name, t in self.case("small").tensors.items()}

        def call(**changes):
            options = {name: changes.pop(name) for name in ("save_at", "method") if name in changes}
            return lambda: rk4(**(good | changes), **options)

        return {
            "y_is_no_tensor": (call(y=[1.0]), TypeError, "y: expected a tensor, got list"),
            "y_of_integers": (call(y=torch.ones(3, 2).long()), ValueError, "y: expected floats.*int64"),
            "y_is_a_number": (call(y=torch.tensor(1.0)), ValueError, r"y: expected floats of shape \[\.\.\., dim\]"),
            "weight1_of_another_dim": (call(weight1=torch.ones(3, 5)), ValueError, r"weight1: .*dim = 2\].*\(3, 5\)"),
            "bias1_too_long": (call(bias1=torch.ones(4)), ValueError, r"bias1: expected shape \(3,\), got \(4,\)"),
            "weight2_turned": (call(weight2=torch.ones(3, 2)), ValueError, r"weight2: .*\(2, 3\), got \(3, 2\)"),
            "bias2_too_long": (call(bias2=torch.ones(3)), ValueError, r"bias2: expected shape \(2,\), got \(3,\)"),
            "h_is_a_number": (call(h=torch.tensor(0.1)), ValueError, r"h: expected \[steps\]"),
            "h_of_another_batch": (call(h=torch.ones(5, 4)), ValueError, r"h: expected \[steps\] or.*\(5, 4\)"),
            "h_of_integers": (call(h=torch.ones(5).long()), ValueError, "h: expected floats.*int64"),
            "bias2_elsewhere": (call(bias2=torch.ones(2, device="meta")), ValueError, "bias2: .* on cpu.*meta"),
            "unknown_method": (call(method="rk5"), ValueError, "method: expected one of .*'rk4_38'.*got 'rk5'"),
            "save_at_beyond": (call(save_at=(0, 6)), ValueError, r"save_at: .*\[0, steps = 5\], got \[0, 6\]"),
            "save_at_falls": (call(save_at=(3, 1)), ValueError, r"save_at: expected ascending.*\[3, 1\]"),
        }

    # -- what only this op promises ------------------------------------------------------------------------------

    def test_a_sample_has_the_same_bits_alone_and_in_a_batch(self, place):
        case = make_case((50,), 4, 9, 6)
        y = case.tensors.pop("y").float()
        rest = {name: t.float() for name, t in case.tensors.items()}
        with running_on(place):
            together = rk4(y, **rest)
            if place != "torch":  # whose products are BLAS's
                assert torch.equal(together[:, 33], rk4(y[33], **rest))

    def test_step_of_length_zero_changes_nothing(self, place):
        case = make_case((5,), 3, 4, 3)
        case.tensors["h"] = torch.zeros(3, dtype=torch.float64)
        with running_on(place):
            assert torch.equal(case.call(**case.tensors)[0], case.tensors["y"])

    def test_half_types_are_integrated_in_float32(self, place):
        """4,000 steps of 1/4,000 along dy/dt = 1 from 1: in float16 no single step would be seen."""
        weights = (torch.zeros(1, 1), torch.zeros(1), torch.zeros(1, 1), torch.ones(1))
        with running_on(place):
            out = rk4(torch.ones(1, 1).half(), *(w.half() for w in weights), torch.full((4000,), 1 / 4000))
        assert out.dtype == torch.float16 and out.item() == 2

    def test_a_nan_stays_in_its_sample(self, place):
        case = make_case((40,), 3, 5, 4)
        case.tensors["y"][7, 1] = float("nan")
        with running_on(place):
            out = case.call(**case.tensors)[0]
        assert out.isnan().any(1).tolist() == [i == 7 for i in range(40)]

    @pytest.mark.parametrize("steps", [1, 2, 5, 16, 17])
    def test_gradient_crosses_every_checkpoint(self, place, steps):
        case = make_case((4,), 3, 5, steps, save_at=tuple(range(steps + 1)))
        with running_on(place):
            actual = torch.autograd.grad(case.call(**(a := case.leaves())).pow(2).sum(), list(a.values()))
        expected = torch.autograd.grad(case.formula(**(b := case.leaves())).pow(2).sum(), list(b.values()))
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)

    def test_raw_op_checks_types_and_shapes(self):
        y, *network, h = self.case("small").tensors.values()
        op = torch.ops.advkern.rk4_fwd.default
        numbers = TABLEAUS["rk4"].numbers
        for pattern, args in {
            "y must be float32 or float64": (y.half(), *network, h, [5], numbers, 0),
            "weight2 must be": (y, *network[:2], network[2].T, network[3], h, [5], numbers, 0),
            "must have y's type": (y, *network, h.float(), [5], numbers, 0),
            "save_at must ascend": (y, *network, h, [6], numbers, 0),
            "tableau must hold": (y, *network, h, [5], numbers[:4], 0),
        }.items():
            with pytest.raises(RuntimeError, match=f"advkern: .*{pattern}"):
                op(*args)


STEP_CASES = {
    "vector": (37,),
    "matrix": (9, 5),
    "empty": (0, 3),
    "long": (70_001,),
    "small": (2, 3),
}


def step_case(shape) -> Case:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *s: torch.randn(s, generator=generator, dtype=torch.float64)
    tensors = {"y": draw(*shape), "a": draw(*shape), "t": draw(1), "dt": 0.1 + 0.01 * draw(1)}

    def slope(a):
        return lambda t, y: a * torch.sin(y) + torch.cos(t).to(y.dtype)

    def call(y, a, t, dt):
        return rk4_step(slope(a), t[0], y, dt[0])

    def textbook(y, a, t, dt):
        f = slope(a)
        k1 = f(t, y)
        k2 = f(t + dt / 2, y + dt / 2 * k1)
        k3 = f(t + dt / 2, y + dt / 2 * k2)
        return y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + f(t + dt, y + dt * k3))

    return Case(tensors, call, textbook)


class TestRk4Step(StateKeepsItsType, OpSuite):
    op = "rk4"
    places = (*PLACES, EMULATED)
    case_names = tuple(STEP_CASES)
    compiled_case_names = ("vector", "matrix")
    small_case_names = ("small",)

    def case(self, name, index_dtype=None, size=0):
        shape = STEP_CASES[name]
        return step_case((shape[0] + 3 * size, *shape[1:]) if shape else shape)

    def large_case(self, fraction=1):
        return step_case((300_000 // fraction,))

    def raw_calls(self, case):
        y, a = case.tensors["y"], case.tensors["a"]
        calls = []
        for overload in ("default", "torch"):
            combine, scale, dot = (
                getattr(getattr(torch.ops.advkern, f"rk4_{n}"), overload) for n in ("combine", "scale", "dot")
            )
            calls += [(op, (y, [0.1], a, None, None, None)) for op in (combine, dot)]
            calls += [(op, (y, [0.1, 0.2, 0.3, 0.4], a, y.clone(), a.clone(), y + a)) for op in (combine, dot)]
            calls += [(scale, (y, [0.1, 0.2]))]
        return calls

    def module(self):
        torch.manual_seed(0)
        func = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Softplus())
        return Timeless(func), (torch.randn(40, 6),)

    def wrong_inputs(self):
        y = torch.ones(3)
        return {
            "y_is_no_tensor": (lambda: rk4_step(lambda t, y: y, 0, 1.0, 0.1), TypeError, "y: .*got float"),
            "y_of_integers": (lambda: rk4_step(lambda t, y: y, 0, y.long(), 0.1), ValueError, "y: .*int64"),
            "slope_of_another_shape": (
                lambda: rk4_step(lambda t, y: y[:2], 0, y, 0.1),
                ValueError,
                r"func: expected it to return the state's shapes \[\(3,\)\], got \[\(2,\)\]",
            ),
            "slope_is_a_number": (lambda: rk4_step(lambda t, y: 1.0, 0, y, 0.1), ValueError, r"func: .*\['float'\]"),
        }

    def test_number_is_a_state(self, place):
        with running_on(place):
            out = rk4_step(lambda t, y: -y, 0.0, torch.tensor(1.0, dtype=torch.float64), 0.1)
        assert out.shape == () and abs(float(out) - 0.9048375) < 1e-12  # 1 - h + h^2/2 - h^3/6 + h^4/24

    def test_bitwise_repeatable_on_any_number_of_threads(self, place, dtype):
        """The gradient by t is torch's own sum, whose bits depend on the number of threads: without it."""
        threads = torch.get_num_threads()
        full = self.large_case(5 if place == EMULATED else 1).to(dtype)
        names = ("y", "a", "dt")
        results = []
        try:
            with running_on(place):
                for count in (1, 2, 3, 2):
                    torch.set_num_threads(count)
                    leaves = {n: full.tensors[n].clone().requires_grad_() for n in names}
                    a = leaves["a"]
                    out = rk4_step(lambda t, y: a * y.clamp(-1, 1), 0.0, leaves["y"], leaves["dt"][0])  # noqa: B023
                    results.append((out, *torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out))))
        finally:
            torch.set_num_threads(threads)
        if place == "torch":  # its gradient by dt is torch's own sum as well
            results = [r[:3] for r in results]
        for other in results[1:]:
            assert all(torch.equal(x, z) for x, z in zip(results[0], other, strict=True))


class Timeless(torch.nn.Module):
    """A step of a module that knows no t."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return rk4_step(self.slope, 0.0, x, 0.1)

    def slope(self, t, y):
        return self.net(y)


@pytest.mark.parametrize("place", PLACES)
def test_combination_sums_half_types_in_float32(place):
    """1 + 4 * 2^-12: each term is lost in a bfloat16 sum, all of them are not."""
    ones = torch.ones(20, dtype=torch.bfloat16)
    op = torch.ops.advkern.rk4_combine
    with running_on(place):
        run = op.torch if place == "torch" else op.default
        assert torch.equal(run(ones, [2.0**-9] * 4, *[ones] * 4), torch.full_like(ones, 1 + 2**-7))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("terms", [1, 4])
def test_large_combination_has_the_bits_of_small_ones(place, terms):
    """Beyond 8 MB it goes past the caches, from each thread's first whole vector on."""
    y, *k = torch.randn(1 + terms, 2**21 + 5).unbind()
    op = torch.ops.advkern.rk4_combine
    with running_on(place):
        run = op.torch if place == "torch" else op.default
        pad = [None] * (4 - terms)
        combine = lambda y, *k: run(y, [0.3] * terms, *k, *pad)
        parts = torch.cat([combine(*part) for part in zip(*(t.split(100_003) for t in (y, *k)), strict=True)])
        for threads in (1, 2, 3):
            assert torch.equal(with_threads(threads, lambda: combine(y, *k)), parts)


def with_threads(count, call):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return call()
    finally:
        torch.set_num_threads(before)


MEASURED = """
import torch
from torch.nn.functional import linear
from advkern.ops import rk4
torch.set_num_threads(2)
torch.manual_seed(0)
D, H, B, N = {dim}, {hidden}, {samples}, {steps}
leaves = [torch.randn(*s).mul(0.3).requires_grad_() for s in ((B, D), (H, D), (H,), (D, H), (D,))]
def loop(y, w1, b1, w2, b2):
    f = lambda x: linear(torch.tanh(linear(x, w1, b1)), w2, b2)
    h = 1 / N
    for _ in range(N):
        k1 = f(y)
        k2 = f(y + h * k1 / 2)
        k3 = f(y + h * k2 / 2)
        k4 = f(y + h * k3)
        y = y + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6
    return y
def ours(*leaves):
    return rk4(*leaves, torch.full((N,), 1 / N))[0]
small = [t[:1] if i == 0 else t for i, t in enumerate(leaves)]
torch.autograd.grad({name}(*small).sum(), leaves, allow_unused=True)  # loads what loads lazily
def measured():
    out = {name}(*leaves)
    torch.autograd.grad(out.sum(), leaves)
"""


@pytest.mark.parametrize(("dim", "samples", "steps"), [(2, 20_000, 100), (16, 4096, 100), (64, 1024, 100)])
def test_memory_is_an_eighth_of_autograd_s_through_a_loop(dim, samples, steps):
    sizes = {"dim": dim, "hidden": 2 * dim, "samples": samples, "steps": steps}
    ours, loop = (peak_memory(MEASURED.format(name=name, **sizes)) for name in ("ours", "loop"))
    assert ours <= loop / 8, f"{ours / 1e6:.1f} MB beside {loop / 1e6:.1f} MB"


@pytest.mark.parametrize("place", [p for p in PLACES if p != "torch"])
def test_tanh_keeps_the_last_places_of_float32(place):
    """Through the kernel: a step of length 1 from 0 along tanh(y), for arguments over the whole range."""
    exponent = torch.linspace(-60, 6, 4001, dtype=torch.float64)
    x = torch.cat([sign * torch.exp2(exponent) for sign in (1, -1)]).float()
    one, zero = torch.ones(1, 1), torch.zeros(1)
    for start, stop in itertools.pairwise(range(0, len(x) + 1, 2667)):
        part = x[start:stop]
        with running_on(place):  # k = tanh(0 y + b1), each b1 a run of its own: here through y, by Euler's rule
            out = rk4(part[:, None], one, zero, one, zero, torch.ones(1), method="euler")[0, :, 0]
        exact = part.double() + part.double().tanh()
        assert_matches(out, exact, part + part.tanh(), exact.abs())
        assert ((out.double() - exact).abs() <= 2.5 * 2**-23 * exact.abs()).all()


@pytest.mark.parametrize("place", PLACES)
def test_network_takes_one_call_of_the_kernel_and_others_the_step(place):
    func, x = nn.ODEFunc(3), torch.randn(5, 3)
    with running_on(place), Recorder() as recorder:
        odeint(func, x, (0.0, 1.0), step_size=0.1).sum().backward()
    overload = "torch" if place == "torch" else "default"
    assert recorder.called == [f"advkern.rk4_fwd.{overload}", f"advkern.rk4_bwd.{overload}"]
    with running_on(place), Recorder() as recorder, torch.no_grad():
        odeint(lambda t, y: func(t, y), x, (0.0, 0.3), step_size=0.1)
    assert recorder.called == [f"advkern.rk4_combine.{overload}"] * 12
