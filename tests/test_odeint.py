"""``odeint``: orders, steps that land, times, states, agreement with torchdiffeq."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from advkern import explain
from advkern.nn import NeuralODE, ODEFunc
from advkern.ops import odeint, rk4_step
from advkern.ops._odeint import fused_weights
from advkern.reference.rk4 import TABLEAUS

F64 = torch.float64


class Pendulum(nn.Module):
    """A slope that sees t, with parameters."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, t, y):
        return torch.sin(self.linear(y)) * torch.cos(t)


# -- the methods -------------------------------------------------------------------------------------------------

# slope, y0, the solution at t
PROBLEMS = {
    "decay": (lambda t, y: -y, [1.0], lambda t: [math.exp(-t)]),
    "logistic": (lambda t, y: y * (1 - y), [0.2], lambda t: [1 / (1 + 4 * math.exp(-t))]),
    "driven": (lambda t, y: torch.cos(t) * y, [1.0], lambda t: [math.exp(math.sin(t))]),
    "oscillator": (
        lambda t, y: torch.stack([y[..., 1], -y[..., 0]], -1),
        [1.0, 0.0],
        lambda t: [math.cos(t), -math.sin(t)],
    ),
}


@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_error_falls_with_the_method_s_order(method, problem):
    func, y0, solution = PROBLEMS[problem]
    y0, exact = torch.tensor(y0, dtype=F64), torch.tensor(solution(2.0), dtype=F64)
    counts = (20, 40, 80)
    errors = [float((odeint(func, y0, (0.0, 2.0), method=method, step_size=2 / n)[-1] - exact).norm()) for n in counts]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(TABLEAUS[method].order, abs=0.25), (errors, orders)


@pytest.mark.parametrize("method", TABLEAUS)
def test_tableau_is_consistent(method):
    tableau = TABLEAUS[method]
    assert sum(tableau.rows[-1]) == pytest.approx(1)
    assert [len(row) for row in tableau.rows] == list(range(1, len(tableau.rows) + 1))


@pytest.mark.parametrize("method", ["rk4", "rk4_38"])
def test_oscillator_keeps_its_energy_to_the_method_s_order(method):
    """Ten turns of 100 steps: order 4 loses h^5/144 of it a radian."""
    func, y0, _ = PROBLEMS["oscillator"]
    h = 2 * math.pi / 100
    path = odeint(func, torch.tensor(y0, dtype=F64), [k * 2 * math.pi for k in range(11)], method=method, step_size=h)
    loss = 1 - path.pow(2).sum(-1)
    turned = torch.arange(11, dtype=F64) * 2 * math.pi
    torch.testing.assert_close(loss, turned * h**5 / 72, rtol=0.02, atol=1e-12)


@pytest.mark.parametrize("method", ["midpoint", "rk4", "rk4_38", "euler"])
def test_kernel_and_steps_agree(method):
    """The whole integration in one kernel, beside the same network step by step: states and all gradients."""
    torch.manual_seed(0)
    func = ODEFunc(3).double()
    y = torch.randn(7, 3, dtype=F64, requires_grad=True)
    t = torch.tensor([0.2, 0.55, 1.0, 1.27], dtype=F64, requires_grad=True)
    leaves = [y, t, *func.parameters()]
    results = []
    for f in (func, lambda t, x: func(t, x)):
        out = odeint(f, y, t, method=method, step_size=0.1)
        results.append((out, *torch.autograd.grad(out.pow(2).sum(), leaves)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


# -- torchdiffeq ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs"), [("rk4_38", "rk4"), ("euler", "euler"), ("midpoint", "midpoint")])
@pytest.mark.parametrize("step_size", [0.05, None])
def test_torchdiffeq_gives_the_same_states_and_gradients(ours, theirs, step_size):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    torch.manual_seed(0)
    func = Pendulum().double()
    y = torch.randn(4, 3, dtype=F64, requires_grad=True)
    t = torch.linspace(0, 2, 5, dtype=F64)
    leaves = [y, *func.parameters()]
    options = {"step_size": step_size} if step_size else {}
    out = odeint(func, y, t, method=ours, step_size=step_size)
    expected = torchdiffeq.odeint(func, y, t, method=theirs, options=options)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-13)
    factor = torch.randn_like(out)
    grads, expected = (torch.autograd.grad(path, leaves, factor) for path in (out, expected))
    torch.testing.assert_close(grads, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("span", [(0.1, 1.0), (1.0, 0.1)])
def test_torchdiffeq_gives_the_same_gradients_by_both_ends(span):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    torch.manual_seed(0)
    func, y = Pendulum().double(), torch.randn(4, 3, dtype=F64)
    t = torch.tensor(span, dtype=F64, requires_grad=True)
    ours = odeint(func, y, t, method="rk4_38", step_size=0.13)[-1]
    theirs = torchdiffeq.odeint(func, y, t, method="rk4", options={"step_size": 0.13})[-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    left, right = (torch.autograd.grad(out.pow(2).sum(), t)[0] for out in (ours, theirs))
    torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-12)


# -- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.gradcheck
@pytest.mark.parametrize("kind", ["kernel", "steps"])
@pytest.mark.parametrize("times", [(0.0, 0.33, 0.71), (0.71, 0.2)])
def test_gradcheck_by_state_times_and_parameters(kind, times):
    torch.manual_seed(0)
    network = ODEFunc(2, hidden_dim=3).double()
    names = [name for name, _ in network.named_parameters()]

    def run(y, t, *weights):
        def path(t, y):
            func = network if kind == "kernel" else lambda t, y: network(t, y) * torch.cos(t)
            return odeint(func, y, t, step_size=0.1)

        with torch.nn.utils.stateless._reparametrize_module(network, dict(zip(names, weights, strict=True))):
            return path(t, y)

    leaves = [torch.randn(2, 2, dtype=F64), torch.tensor(times, dtype=F64), *(p.detach() for p in network.parameters())]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


def test_a_closure_s_parameters_get_gradients():
    rate = torch.tensor(0.3, dtype=F64, requires_grad=True)
    out = odeint(lambda t, y: -rate * y, torch.ones((), dtype=F64), (0.0, 2.0), step_size=0.1)[-1]
    out.backward()
    assert float(rate.grad) == pytest.approx(-2 * math.exp(-0.6), rel=1e-6)


def test_func_transforms_see_through():
    func = ODEFunc(2).double()
    y = torch.randn(3, 2, dtype=F64)
    path = lambda y: odeint(func, y, (0.0, 0.5), step_size=0.1)[-1]
    leaf = y.clone().requires_grad_()
    direct = torch.autograd.grad(path(leaf).sum(), leaf)[0]
    torch.testing.assert_close(torch.func.grad(lambda y: path(y).sum())(y), direct)
    torch.testing.assert_close(torch.func.vmap(path)(y), path(y))
    _, tangent = torch.func.jvp(path, (y,), (torch.ones_like(y),))
    jacobian = torch.autograd.functional.jacobian(path, y)
    torch.testing.assert_close(tangent, jacobian.sum((-1, -2)))


# -- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("span", "h", "count"), [(1.0, 0.1, 10), (0.1, 0.01, 10), (0.3, 0.1, 3), (0.35, 0.1, 4),
                                                  (0.05, 0.1, 1), (0.7, 0.1, 7), (1.0, 0.3, 4)])  # fmt: skip
def test_number_of_steps(span, h, count):
    seen = []
    odeint(lambda t, y: seen.append(float(t)) or -y, torch.ones(1, dtype=F64), (0.0, span), method="euler", step_size=h)
    assert seen == [k * h for k in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_tutorial_s_ten_segments_take_ten_steps_each(dtype):
    """j / 10 to (j + 1) / 10 by 0.01: a bare ceil takes 11 in two of them, an int() 9 in six."""
    for j in range(10):
        for span in ((j / 10, (j + 1) / 10), torch.tensor([j / 10, (j + 1) / 10], dtype=dtype)):
            calls = []
            odeint(lambda t, y: calls.append(t) or -y, torch.ones(1), span, method="euler", step_size=0.01)  # noqa: B023
            assert len(calls) == 10


def test_last_step_lands_exactly():
    """dy/dt = 1 measures time."""
    path = odeint(lambda t, y: torch.ones_like(y), torch.zeros(1, dtype=F64), [0.0, 0.25, 1.0, 1.1], step_size=0.1)
    torch.testing.assert_close(path[:, 0], torch.tensor([0.0, 0.25, 1.0, 1.1], dtype=F64), rtol=0, atol=1e-15)


def test_times_are_no_running_sum():
    seen = []
    odeint(
        lambda t, y: seen.append(float(t)) or y * 0,
        torch.ones(1, dtype=F64),
        (0.0, 100.0),
        method="euler",
        step_size=0.1,
    )
    assert seen == [k * 0.1 for k in range(1000)]


@pytest.mark.parametrize("kind", ["kernel", "steps"])
def test_backwards_in_time_returns_to_the_start(kind):
    torch.manual_seed(0)
    network = ODEFunc(3).double()
    func = network if kind == "kernel" else lambda t, y: network(t, y)
    y = torch.randn(5, 3, dtype=F64)
    there = odeint(func, y, (0.0, 0.95), step_size=0.01)[-1]
    assert (there - y).norm() > 0.1
    torch.testing.assert_close(odeint(func, there, (0.95, 0.0), step_size=0.01)[-1], y, rtol=1e-9, atol=1e-9)


def test_single_time_is_the_start():
    y = torch.randn(4, 3)
    for func in (ODEFunc(3), lambda t, y: y):
        assert torch.equal(odeint(func, y, [0.5], step_size=0.1), y[None])


def test_step_longer_than_the_span_is_one_step():
    y = torch.ones(1, dtype=F64)
    assert torch.equal(
        odeint(lambda t, y: -y, y, (0.0, 0.1), step_size=5.0)[-1], rk4_step(lambda t, y: -y, 0.0, y, 0.1)
    )


def test_times_of_tensors_are_not_changed():
    t = torch.tensor([0.0, 1.0])
    odeint(ODEFunc(2), torch.ones(1, 2), t, step_size=0.1)
    assert torch.equal(t, torch.tensor([0.0, 1.0]))


def test_samples_with_times_of_their_own():
    torch.manual_seed(0)
    func = ODEFunc(3).double()
    y = torch.randn(4, 3, dtype=F64, requires_grad=True)
    t = torch.tensor([[0.0, 0.1, 0.0, 2.0], [1.0, 0.2, 0.35, 1.0], [1.5, 1.3, 0.4, 0.5]], dtype=F64, requires_grad=True)
    together = odeint(func, y, t, step_size=0.1)
    alone = torch.stack([odeint(func, y[i], t[:, i], step_size=0.1) for i in range(4)], 1)
    torch.testing.assert_close(together, alone, rtol=1e-13, atol=1e-14)
    grads = [torch.autograd.grad(out.pow(2).sum(), [y, t, *func.parameters()]) for out in (together, alone)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-11, atol=1e-12)


# -- states ----------------------------------------------------------------------------------------------------------


def test_tuple_of_states():
    position, speed = torch.ones(3, dtype=F64), torch.zeros(3, dtype=F64)
    path = odeint(lambda t, s: (s[1], -s[0]), (position, speed), (0.0, 1.0, 2.0), step_size=0.01)
    assert [part.shape for part in path] == [(3, 3), (3, 3)]
    torch.testing.assert_close(path[0][2], math.cos(2.0) * position, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(path[1][2], -math.sin(2.0) * position, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [(), (2,), (3, 1, 2), (0, 2)])
def test_any_shape_of_state(shape):
    y = torch.randn(shape, dtype=F64)
    out = odeint(lambda t, y: -y, y, (0.0, 1.0), step_size=0.01)
    torch.testing.assert_close(out[-1], y * math.exp(-1), rtol=1e-8, atol=1e-8)


# -- not finite ------------------------------------------------------------------------------------------------------


def test_check_finite_names_the_time():
    square = lambda t, y: y * y  # from 1 it explodes at t = 1
    y = torch.ones(2, dtype=F64)
    assert not odeint(square, y, (0.0, 5.0), step_size=0.1)[-1].isfinite().any()
    with pytest.raises(FloatingPointError, match=r"state became infinite or NaN in the step to t = 1\.[2-6]$"):
        odeint(square, y, (0.0, 5.0), step_size=0.1, check_finite=True)
    odeint(square, y, (0.0, 0.5), step_size=0.1, check_finite=True)


def test_check_finite_sees_into_the_kernel():
    func = ODEFunc(2)
    with pytest.raises(FloatingPointError, match="y0: expected finite values"):
        odeint(func, torch.full((1, 2), torch.nan), (0.0, 1.0), step_size=0.1, check_finite=True)
    with torch.no_grad():
        func.net[2].bias.fill_(3e38)
    with pytest.raises(FloatingPointError, match=r"in the step to t = 2$"):
        odeint(func, torch.ones(1, 2), (0.0, 1.0, 2.0, 3.0), check_finite=True)


# -- compile ---------------------------------------------------------------------------------------------------------


@pytest.mark.compile
@pytest.mark.parametrize("kind", ["kernel", "steps"])
def test_compiles_fullgraph(kind):
    torch._dynamo.reset()
    torch.manual_seed(0)
    func = ODEFunc(3).double() if kind == "kernel" else Pendulum().double()
    y = torch.randn(4, 3, dtype=F64, requires_grad=True)
    run = lambda y: odeint(func, y, (0.0, 0.2, 0.45), step_size=0.1)
    results = [(out, *torch.autograd.grad(out.sum(), [y, *func.parameters()])) for out in
               (run(y), torch.compile(run, fullgraph=True)(y))]  # fmt: skip
    torch.testing.assert_close(results[0], results[1])


# -- what an ODEFunc is ----------------------------------------------------------------------------------------------


class Subclass(ODEFunc):
    def forward(self, t, x):
        return -x


def changed(change):
    func = ODEFunc(3)
    change(func)
    return func


OTHERS = {
    "has a forward of its own": lambda: Subclass(3),
    "hook": lambda: changed(lambda f: f.net[1].register_forward_hook(lambda *_: None)),
    "hook ": lambda: changed(lambda f: f.register_full_backward_hook(lambda *_: None)),
    "not Linear, Tanh, Linear": lambda: changed(lambda f: f.net.append(nn.Tanh())),
    "not Linear, Tanh, Linear ": lambda: changed(lambda f: nn.utils.parametrizations.weight_norm(f.net[0])),
    "forward was replaced": lambda: changed(lambda f: setattr(f.net[1], "forward", torch.sin)),
    "bias is missing": lambda: changed(lambda f: setattr(f.net[2], "bias", None)),
    "Pendulum is no advkern.nn.ODEFunc": Pendulum,
}


@pytest.mark.parametrize(("why", "make"), OTHERS.items(), ids=OTHERS)
def test_what_is_no_plain_network_goes_step_by_step(why, make):
    func, y = make(), torch.randn(2, 3)
    assert why.strip() in fused_weights(func)
    with torch.no_grad():
        step = rk4_step(func, 0.0, y, 0.1)
        assert torch.equal(odeint(func, y, (0.0, 0.1))[-1], step)


def test_plain_network_is_taken_whole():
    assert len(fused_weights(ODEFunc(3))) == 4


def test_explain_says_why_it_goes_step_by_step():
    x = torch.randn(2, 3)
    notes = [explain(NeuralODE(func), x, (0.0, 1.0)).notes for func in (ODEFunc(3), Subclass(3))]
    assert notes == [(), ("rk4: odeint goes step by step: Subclass has a forward of its own",)]


# -- what is refused -------------------------------------------------------------------------------------------------

ONES = torch.ones(2, 3)
DECAY = lambda t, y: -y
WRONG = {
    "func: expected a callable, got int": (TypeError, lambda: odeint(3, ONES, (0.0, 1.0))),
    "y0: expected a tensor, got float": (TypeError, lambda: odeint(DECAY, 1.0, (0.0, 1.0))),
    "y0: .*got torch.int64": (ValueError, lambda: odeint(DECAY, ONES.long(), (0.0, 1.0))),
    "y0: expected at least one tensor": (ValueError, lambda: odeint(DECAY, (), (0.0, 1.0))),
    "t: expected a tensor or a sequence of times, got float": (TypeError, lambda: odeint(DECAY, ONES, 1.0)),
    "t: expected at least one time": (ValueError, lambda: odeint(DECAY, ONES, [])),
    "t: expected every time once, got 1.0 twice": (ValueError, lambda: odeint(DECAY, ONES, (0.0, 1.0, 1.0))),
    "t: expected strictly increasing or decreasing": (ValueError, lambda: odeint(DECAY, ONES, (0.0, 1.0, 0.5))),
    "t: expected finite times, got inf": (ValueError, lambda: odeint(DECAY, ONES, (0.0, math.inf))),
    r"t: expected floats of shape \[T\], got torch.int64": (
        ValueError,
        lambda: odeint(DECAY, ONES, torch.tensor([0, 1])),
    ),
    "t: times for each sample need one kernel.*no advkern.nn.ODEFunc": (
        ValueError,
        lambda: odeint(DECAY, ONES, torch.ones(2, 2)),
    ),
    r"t: expected floats of shape \[T, \(2,\)\]": (ValueError, lambda: odeint(ODEFunc(3), ONES, torch.rand(2, 4))),
    "t: expected every sample's times": (ValueError, lambda: odeint(ODEFunc(3), ONES, torch.ones(2, 2))),
    "method: expected one of .*'rk4'.*got 'dopri5'": (ValueError, lambda: odeint(DECAY, ONES, (0, 1), method="dopri5")),
    "step_size: expected a positive, finite number, got 0": (
        ValueError,
        lambda: odeint(DECAY, ONES, (0, 1), step_size=0),
    ),
    "step_size: expected a positive, finite number, got nan": (
        ValueError,
        lambda: odeint(DECAY, ONES, (0, 1), step_size=math.nan),
    ),
    "step_size: expected a number, got str": (TypeError, lambda: odeint(DECAY, ONES, (0, 1), step_size="0.1")),
    "func: expected it to return the state's shapes": (
        ValueError,
        lambda: odeint(lambda t, y: y[0], ONES, (0.0, 1.0)),
    ),
}


@pytest.mark.parametrize(("message", "case"), WRONG.items(), ids=WRONG)
def test_wrong_input_is_named(message, case):
    exception, call = case
    with pytest.raises(exception, match=f"^{message}"):
        call()


def test_module_s_call_and_odeint_agree():
    func, x = ODEFunc(3), torch.randn(5, 3)
    model = NeuralODE(func, "rk4", 0.1)
    assert torch.equal(model(x, (0.0, 1.0)), odeint(func, x, (0.0, 1.0), step_size=0.1)[-1])
    assert torch.equal(model(x, (0.0, 0.5, 1.0)), odeint(func, x, (0.0, 0.5, 1.0), step_size=0.1))
