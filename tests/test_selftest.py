"""``advkern selftest``: it passes here, and it can fail, for every kind of fault, by name and with exit status 1."""

import importlib
import json
import re

import pytest
import torch

from advkern import backend
from advkern.cli import main
from advkern.selftest import run
from advkern.selftest._case import FLOATS, Case
from advkern.selftest._run import _cases, _compared
from advkern.testing import mismatch

OPS = backend.registered_ops()
KERNEL = "cpu" if backend.COMPILED.status == "loaded" else "torch"


@pytest.fixture(scope="module")
def report():
    return run()


def test_passes_on_this_machine(report):
    assert report.passed, report.failures


def test_every_op_is_tested_on_every_backend_that_can_run(report):
    tested = {(row.op, row.backend) for row in report.rows}
    here = {(op, name) for op in OPS for name in ("torch", "cpu") if backend.why_not(op, name, "cpu") is None}
    assert here <= tested


def test_every_other_backend_is_named_with_its_reason(report):
    for op in OPS:
        for name in {"cpu", "cuda", "triton"} - {row.backend for row in report.rows if row.op == op}:
            reason = backend.why_not(op, name, "cpu" if name == "cpu" else "cuda")
            if reason == f"{op} has no {name} kernel":
                assert name not in report.absent[op]
            else:
                assert report.absent[op][name] == (reason or "torch finds no CUDA device")


def test_rows_hold_what_was_measured(report):
    for row in report.rows:
        assert row.seconds > 0
        assert (row.eager_seconds is None) == (row.backend == "torch")
        if row.op == "coo_to_csr":
            assert row.dtypes == ("int64",) and row.error is None and row.gradient_error is None
        else:
            assert set(row.dtypes) == {str(dtype).removeprefix("torch.") for dtype in FLOATS}
            assert 0 < row.error < 1e-4 and 0 < row.gradient_error < 1e-3
        if row.backend != "torch":
            assert row.same_bits


def test_kernels_are_the_ones_that_run(report, monkeypatch):
    """A row names a backend: that one's overload, and no other, must have been called."""
    seen = set()
    module = module_of("gcn_aggregate")
    for name, overload in module._FWD.items():
        monkeypatch.setitem(module._FWD, name, lambda *args, n=name, op=overload: seen.add(n) or op(*args))
    case, _ = next(iter(_cases("gcn_aggregate", torch.device("cpu"))))
    _compared(case.to(torch.float32), "torch")
    assert seen == {"torch"}


def module_of(op):
    """The module of an op, which the function of its name hides in the package."""
    return importlib.import_module(f"advkern.ops.{op}")


def broken(monkeypatch, op, table, fault):
    """Let what ``table`` of the op's module calls on KERNEL go through ``fault``."""
    calls = getattr(module_of(op), table)
    kernel = calls[KERNEL]
    monkeypatch.setitem(calls, KERNEL, lambda *args: fault(kernel(*args)))


def raises(results):
    raise RuntimeError("the device is on fire\nand more")


def first(change):
    return lambda results: (change(results[0]), *results[1:])


FAULTS = {
    "a wrong value": ("gcn_aggregate", "_FWD", lambda out: out * 1.001, r"float32: output: error"),
    "a value that is not finite": ("gcn_aggregate", "_FWD", lambda out: out / 0, r"float64: output: error"),
    "a wrong gradient": ("gat_attention", "_BWD", first(lambda g: -g), r"bfloat16: grad_h: error"),
    "wrong ids": ("coo_to_csr", "_COO_TO_CSR", first(lambda ids: ids + 1), r"int64: output 0: wrong ids"),
    "an exception": ("gcn_aggregate", "_FWD", raises, r"float16: RuntimeError: the device is on fire$"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_backend_fails_by_name(fault, monkeypatch, capsys):
    op, table, change, expected = FAULTS[fault]
    broken(monkeypatch, op, table, change)
    assert main(["selftest", "--only", op, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["passed"]
    failures = [text for text in found["failures"] if f" on {KERNEL}, " in text]
    assert any(text.startswith(op) and re.search(expected, text) for text in failures), failures
    assert any(row["failures"] == [] for row in found["rows"]) or KERNEL == "torch"


@pytest.mark.skipif(KERNEL == "torch", reason="plain PyTorch promises no bits")
def test_results_that_change_from_run_to_run_fail(monkeypatch, capsys):
    broken(monkeypatch, "gcn_aggregate", "_FWD", lambda out: out + 1e-7 * out.abs().max() * torch.rand(()))
    assert main(["selftest", "--only", "gcn_aggregate"]) == 1
    printed = capsys.readouterr().out
    assert f"FAILED: gcn_aggregate on {KERNEL}, repeated: not the same bits" in printed


def test_table_tells_the_whole_story(capsys):
    assert main(["selftest", "--only", "coo_to_csr", "gcn_aggregate"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "case",
        "backend",
        "same bits",
        "eager / it",
        "coo_to_csr",
        "gcn_aggregate, weights",
        "torch",
        "passed",
    ):
        assert text in printed
    assert "rk4" not in printed and "FAILED" not in printed


def test_json_holds_rows_reasons_and_machine(capsys):
    assert main(["selftest", "--only", "vit_attention", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and found["failures"] == [] and found["torch"] == torch.__version__
    assert {row["op"] for row in found["rows"]} == {"vit_attention"}
    assert set(found["absent"]) == {"vit_attention"}


def test_rule_holds_without_assertions():
    """``python -O`` drops asserts; the self-test must fail there all the same."""
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    plain = exact.float() + 1e-6
    assert mismatch(exact.float() + 1.5e-6, exact, plain, 0.0) is None
    for actual, problem in {
        exact.float() + 3e-6: r"result: error [23]\S+e-06, allowed 1.91e-06 \(plain PyTorch errs by 9.54e-07\)",
        exact.float() * torch.nan: "result: error nan",
        exact.float()[:1]: r"result: shape \(1,\), expected \(2,\)",
        exact.half(): r"result: type torch.float16, expected torch.float32",
    }.items():
        assert re.match(problem, mismatch(actual, exact, plain, 0.0))
    assert mismatch(plain, exact, plain / 0, 0.0) == "result: the yardstick is not finite"


def test_unknown_op_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["selftest", "--only", "perceptron"])
    assert f"--only: expected one of {', '.join(OPS)}, got 'perceptron'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"only: expected ops out of .* got \['perceptron'\]$"):
        run(["perceptron"])


def test_nothing_tested_is_no_success(monkeypatch):
    monkeypatch.setattr("advkern.selftest._run._places", lambda op: iter(()))
    assert not run(["coo_to_csr"]).passed


def test_progress_tells_what_comes_next():
    told = []
    run(["coo_to_csr"], told.append)
    assert told[-1] == "coo_to_csr on torch"


@pytest.mark.parametrize("op", OPS)
def test_formulas_are_the_ops_own_lines_in_float64(op):
    """The oracle is not the thing tested: without the package's ops it gives what the reference gives."""
    for case, _ in _cases(op, torch.device("cpu")):
        assert isinstance(case, Case)
        with backend.use_backend("torch"):
            called = case.results(case.call)
        for key, value in case.results(case.formula).items():
            torch.testing.assert_close(called[key], value, rtol=1e-9, atol=1e-9)
