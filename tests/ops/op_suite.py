"""What every op must pass. An op's test file subclasses :class:`OpSuite` and says what its cases are."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import emulated
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from advkern import backend, use_backend
from advkern.testing import assert_matches, available_isas, use_isa

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PLACES = ["torch", *(f"cpu-{isa}" for isa in available_isas())]  # every backend that can run here
EMULATED = "cuda-emulated"  # a place for ops with CUDA kernels: these kernels on CPU tensors


@dataclass
class Case:
    """One use of an op: differentiable tensors, the public call, and the same as a dense formula."""

    tensors: dict[str, Tensor]
    call: Callable[..., Tensor]  # the public function, of the tensors by name
    formula: Callable[..., Tensor]  # plain dense PyTorch, of the tensors by name, in their type

    def to(self, dtype: torch.dtype) -> Case:
        return replace(self, tensors={name: t.to(dtype) for name, t in self.tensors.items()})

    def leaves(self) -> dict[str, Tensor]:
        return {name: t.detach().clone().requires_grad_() for name, t in self.tensors.items()}

    def magnitudes(self) -> dict[str, float]:
        """The sums of the terms' magnitudes, of output and gradients: the formula's of the tensors' magnitudes."""
        positive = replace(self, tensors={name: t.double().abs() for name, t in self.tensors.items()})
        results = value_and_grads(positive, self.formula, cotangent_of=torch.Tensor.abs)
        return {name: float(t.abs().max()) if t.numel() else 0.0 for name, t in results.items()}


@contextmanager
def running_on(place: str) -> Iterator[None]:
    """Run on ``"torch"``, on ``"cpu-<instruction set>"`` or on ``EMULATED``."""
    name, _, isa = place.partition("-")
    with ExitStack() as stack:
        if place == EMULATED:
            stack.enter_context(emulated.emulated_cuda())
            yield
            return
        stack.enter_context(use_backend(name))
        if isa:
            stack.enter_context(use_isa(isa))
        yield


class Recorder(TorchDispatchMode):
    """Notes which overloads of advkern's ops are called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in ("advkern", emulated.NAMESPACE):
            self.called.append(str(func))
        return func(*args, **(kwargs or {}))


def value_and_grads(
    case: Case, function: Callable[..., Tensor], cotangent_of: Callable[[Tensor], Tensor] = torch.clone
) -> dict[str, Tensor]:
    """The output, and the gradients of its product with (a function of) fixed random numbers."""
    leaves = case.leaves()
    out = function(**leaves)
    cotangent = cotangent_of(torch.randn(out.shape, generator=torch.Generator().manual_seed(1))).to(out.dtype)
    grads = torch.autograd.grad(out, list(leaves.values()), cotangent)
    return {"output": out.detach()} | {f"grad_{name}": g for name, g in zip(leaves, grads, strict=True)}


def assert_case_matches(case: Case, dtype: torch.dtype) -> None:
    """Output and gradients against float64, by the rule of :func:`advkern.testing.assert_matches`."""
    case = case.to(dtype)
    actual = value_and_grads(case, case.call)
    exact = value_and_grads(case.to(torch.float64), case.formula)
    yardstick = value_and_grads(case, case.formula)
    magnitudes = case.magnitudes()
    for name, value in actual.items():
        assert_matches(value, exact[name], yardstick[name], magnitudes[name], name)


class OpSuite:
    """Subclass with the names and the methods below."""

    op: str
    case_names: tuple[str, ...]  # for the comparisons with float64
    compiled_case_names: tuple[str, ...]  # whose sizes change with ``size``
    small_case_names: tuple[str, ...]  # of a few dozen elements, for gradcheck
    places: tuple[str, ...] = tuple(PLACES)  # and EMULATED for an op with CUDA kernels

    def case(self, name: str, index_dtype: torch.dtype = torch.int32, size: int = 0) -> Case:
        """The case of that name, float64; ``size`` asks for other sizes of the same kind."""
        raise NotImplementedError

    def large_case(self, fraction: int = 1) -> Case:
        """Enough work for several threads; a fraction of it for a place that is slow."""
        raise NotImplementedError

    def raw_calls(self, case: Case) -> list[tuple[Any, tuple[Any, ...]]]:
        """The schema ops with arguments, for ``opcheck``."""
        raise NotImplementedError

    def module(self) -> tuple[nn.Module, tuple[Any, ...]]:
        """A module that uses the op, and inputs for it, float32."""
        raise NotImplementedError

    def wrong_inputs(self) -> dict[str, tuple[Callable[[], Any], type[Exception], str]]:
        """Scenario -> (call, exception, a pattern its message must match)."""
        raise NotImplementedError

    # parametrised by the subclass's own cases, so that a failure names its case
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        axes = {
            "place": lambda: self.places,
            "name": lambda: self.case_names,
            "compiled_name": lambda: self.compiled_case_names,
            "small": lambda: self.small_case_names,
            "dtype": lambda: FLOATS,
            "scenario": lambda: sorted(self.wrong_inputs()),
        }
        for axis, values in axes.items():
            if axis in metafunc.fixturenames:
                metafunc.parametrize(axis, values(), ids=str)

    # -- right -----------------------------------------------------------------------------------------------

    def test_matches_float64(self, place, name, dtype):
        with running_on(place):
            assert_case_matches(self.case(name), dtype)

    def test_int64_ids_give_the_same_bits(self, place, name):
        with running_on(place):
            narrow, wide = self.case(name, torch.int32), self.case(name, torch.int64)
            assert_same(value_and_grads(narrow, narrow.call), value_and_grads(wide, wide.call))

    @pytest.mark.gradcheck
    def test_gradcheck(self, place, small):
        with running_on(place):
            case = self.case(small)
            function, leaves = positional(case)
            assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True)

    @pytest.mark.gradcheck
    def test_gradgradcheck(self, place, small):
        with running_on(place):
            function, leaves = positional(self.case(small))
            assert torch.autograd.gradgradcheck(function, leaves)

    @pytest.mark.gradcheck
    def test_third_derivative(self, place, small):
        case = self.case(small)
        with running_on(place):
            actual = third_derivatives(case, case.call)
        for left, right in zip(actual, third_derivatives(case, case.formula), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)

    def test_non_contiguous_inputs_give_the_same_bits(self, place, name):
        with running_on(place):
            case = self.case(name)
            scattered = replace(case, tensors={key: spread(t) for key, t in case.tensors.items()})
            plain = case.call(**case.tensors)
            assert torch.equal(scattered.call(**scattered.tensors), plain)

    # -- the same every time -----------------------------------------------------------------------------------

    def test_bitwise_repeatable_on_any_number_of_threads(self, place, dtype):
        threads = torch.get_num_threads()
        case = self.large_case(5 if place == EMULATED else 1).to(dtype)
        try:
            with running_on(place):
                results = []
                for count in (1, 2, 3, 2):
                    torch.set_num_threads(count)
                    results.append(value_and_grads(case, case.call))
        finally:
            torch.set_num_threads(threads)
        for other in results[1:]:
            assert_same(results[0], other)

    # -- takes the backend it was told -------------------------------------------------------------------------

    def test_dispatcher_takes_the_backend_of_the_test(self, place):
        case = self.case(self.case_names[0])
        overload = "torch" if place == "torch" else "default"
        with running_on(place), Recorder() as recorder:
            out = case.call(**case.leaves())
            out.sum().backward()
        assert recorder.called, "no op of advkern was called"
        assert {call.rpartition(".")[2] for call in recorder.called} == {overload}
        if place == EMULATED:
            assert {call.partition(".")[0] for call in recorder.called if self.op in call} == {emulated.NAMESPACE}
        elif place != "torch":
            for call in recorder.called:
                name = call.replace("advkern.", "advkern::").rpartition(".")[0]
                assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU"), f"{name} has no CPU kernel"

    def test_backward_stays_on_the_forward_s_backend(self):
        case = self.case(self.case_names[0])
        with use_backend("torch"):
            out = case.call(**case.leaves())
        with Recorder() as recorder:
            out.sum().backward()
        assert {call.rpartition(".")[2] for call in recorder.called} == {"torch"}

    # -- torch's own machinery ---------------------------------------------------------------------------------

    def test_opcheck(self, place, small):
        with running_on(place):
            for op, args in self.raw_calls(self.case(small)):
                torch.library.opcheck(op, args)

    @pytest.mark.compile
    def test_compiles_fullgraph_with_changing_sizes(self, place, compiled_name):
        torch._dynamo.reset()
        with running_on(place):
            for size in range(3):
                case = self.case(compiled_name, size=size)
                compiled = torch.compile(case.call, fullgraph=True)
                eager = value_and_grads(case, case.call)
                for key, value in value_and_grads(case, compiled).items():
                    torch.testing.assert_close(value, eager[key])

    def test_autocast(self, place):
        case = self.case(self.case_names[0]).to(torch.float32)
        with running_on(place), torch.autocast("cpu", torch.bfloat16):
            leaves = case.leaves()
            out = case.call(**leaves)
        assert out.dtype == torch.bfloat16
        out.float().sum().backward()
        assert all(leaf.grad.dtype == torch.float32 for leaf in leaves.values())
        exact = case.formula(**case.to(torch.float64).tensors)
        half = case.to(torch.bfloat16)
        assert_matches(out.detach(), exact, half.formula(**half.tensors), case.magnitudes()["output"])

    def test_func_grad_and_vmap(self, place, small):
        case = self.case(small)
        function, leaves = positional(case)
        tensors = tuple(leaf.detach() for leaf in leaves)
        with running_on(place):
            total = lambda *args: function(*args).pow(2).sum()
            direct = torch.autograd.grad(total(*leaves), leaves)
            argnums = tuple(range(len(tensors)))
            for left, right in zip(torch.func.grad(total, argnums)(*tensors), direct, strict=True):
                torch.testing.assert_close(left, right)
            twice = tuple(torch.stack([t, 2 * t]) for t in tensors)
            batched = torch.func.vmap(function)(*twice)
            torch.testing.assert_close(batched[1], function(*(2 * t for t in tensors)))

    def test_func_hessian_forward_over_reverse(self, place, small):
        case = self.case(small)
        function, leaves = positional(case)
        first, *rest = (leaf.detach() for leaf in leaves)
        with running_on(place):
            total = lambda x: function(x, *rest).pow(2).sum()
            forward = torch.func.jacfwd(torch.func.grad(total))(first)
            torch.testing.assert_close(forward, torch.func.jacrev(torch.func.grad(total))(first))

    def test_first_use_inside_a_transform_or_inference_mode_leaves_nothing_behind(self, place, small):
        """What an op caches on its inputs must be usable after the transform, and in training."""
        for context in (torch.inference_mode, torch.func.grad, torch.func.vmap):
            case = self.case(small)
            function, leaves = positional(case)
            tensors = tuple(leaf.detach() for leaf in leaves)
            with running_on(place):
                if context is torch.inference_mode:
                    with torch.inference_mode():
                        function(*tensors)
                elif context is torch.func.grad:
                    torch.func.grad(lambda *args: function(*args).sum())(*tensors)  # noqa: B023
                else:
                    torch.func.vmap(function)(*(t[None] for t in tensors))
                fresh = self.case(small)
                assert_same(value_and_grads(case, case.call), value_and_grads(fresh, fresh.call))

    def test_tensor_hooks_run(self, place):
        case = self.case(self.case_names[0])
        seen = []
        with running_on(place):
            leaves = case.leaves()
            out = case.call(**leaves)
            out.register_hook(lambda grad: seen.append("out"))
            next(iter(leaves.values())).register_hook(lambda grad: seen.append("in"))
            out.sum().backward()
        assert seen == ["out", "in"]

    def test_inference_mode_and_no_grad_give_the_same_bits(self, place):
        case = self.case(self.case_names[0])
        with running_on(place):
            plain = case.call(**case.leaves())
            with torch.no_grad():
                assert torch.equal(case.call(**case.leaves()), plain)
            with torch.inference_mode():
                assert torch.equal(case.call(**case.tensors), plain)

    # -- modules -----------------------------------------------------------------------------------------------

    def test_module_survives_copies_after_a_forward(self):
        module, args = self.module()
        out = module(*args)
        saved = io.BytesIO()
        torch.save(module, saved)
        saved.seek(0)
        for copied in (
            copy.deepcopy(module),
            pickle.loads(pickle.dumps(module)),
            torch.load(saved, weights_only=False),
        ):
            assert torch.equal(copied(*args), out)

    def test_module_hooks_run(self):
        module, args = self.module()
        seen = []
        module.register_forward_hook(lambda *_: seen.append("forward"))
        module.register_full_backward_hook(lambda *_: seen.append("backward"))
        module(*args).sum().backward()
        assert seen == ["forward", "backward"]

    def test_module_trains_under_a_grad_scaler(self):
        module, args = self.module()
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        before = [p.detach().clone() for p in module.parameters()]
        with torch.autocast("cpu", torch.float16):
            loss = module(*args).float().pow(2).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 1024.0, "the scaler met an inf or a NaN"
        assert any(not torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))

    # -- errors ------------------------------------------------------------------------------------------------

    def test_wrong_input_is_named(self, scenario):
        call, exception, pattern = self.wrong_inputs()[scenario]
        with pytest.raises(exception, match=pattern):
            call()

    def test_every_kernel_backend_is_suited(self):
        """A kernel that this machine can run must be among the places of this suite."""
        kernels = {k for k in ("cpu", "cuda", "triton") for d in ("cpu",) if backend.why_not(self.op, k, d) is None}
        assert kernels == {place.partition("-")[0] for place in PLACES} - {"torch"}


def positional(case: Case) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The call with positional tensors, and fresh leaves for it."""
    leaves = case.leaves()
    return lambda *args: case.call(**dict(zip(leaves, args, strict=True))), tuple(leaves.values())


def third_derivatives(case: Case, function: Callable[..., Tensor]) -> list[Tensor]:
    leaves = case.leaves()
    value = function(**leaves).pow(3).sum()
    for _ in range(3):
        grads = torch.autograd.grad(value, list(leaves.values()), create_graph=True)
        value = sum(g.pow(2).sum() for g in grads)
    return [g.detach() for g in grads]


def spread(t: Tensor) -> Tensor:
    """The same values in a tensor that skips every other element, and is transposed where it can be."""
    wide = torch.empty(*t.shape[:-1], 2 * t.shape[-1], dtype=t.dtype) if t.dim() == 1 else t.mT.contiguous().mT
    if t.dim() == 1:
        wide[::2] = t
        wide = wide[::2]
    return wide


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    for key in left:
        assert torch.equal(left[key], right[key]), f"{key} differs by {(left[key] - right[key]).abs().max()}"


__all__ = ["EMULATED", "PLACES", "Case", "OpSuite", "running_on"]
