"""One stem an op: whoever knows an op's name knows where everything of it lies; and who may import whom."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from advkern import backend

ROOT = Path(__file__).parents[1]
OPS = sorted(backend.registered_ops())
PLACES = (
    "csrc/{op}/{op}_cpu.h",
    "csrc/{op}/{op}_cpu.cpp",
    "advkern/ops/{op}.py",
    "advkern/reference/{op}.py",
    "advkern/selftest/{op}.py",
    "tests/ops/test_{op}.py",
    "benchmarks/bench_{op}.py",
)
OF_WHOLE_MODELS = {"convert"}  # a benchmark of no single op
CPP_TEST = "tests/csrc/test_{op}.cpp"  # others lie there too
CUDA_PLACES = ("csrc/{op}/{op}.cuh", "csrc/{op}/{op}_cuda.cu", "tests/csrc/emulated_{op}.cpp")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("place", [*PLACES, CPP_TEST])
def test_op_has_a_file_in_every_place(op, place):
    assert (ROOT / place.format(op=op)).is_file()


@pytest.mark.parametrize("place", CUDA_PLACES)
def test_op_has_cuda_kernels_where_it_says_so(place):
    found = {op for op in OPS if (ROOT / place.format(op=op)).is_file()}
    assert found == {op for op in OPS if backend.why_not(op, "cuda", "cuda") != f"{op} has no cuda kernel"}


@pytest.mark.parametrize("place", PLACES)
def test_no_file_stands_where_there_is_no_op(place):
    """A benchmark may be of a whole model too."""
    found = ROOT.glob(place.replace("{op}", "*"))
    named = {
        (path.parent.name if "{op}/" in place else path.stem).removeprefix("test_").removeprefix("bench_")
        for path in found
    }
    if place.startswith("benchmarks"):  # whole models have benchmarks too
        named -= OF_WHOLE_MODELS | {path.stem for path in (ROOT / "advkern/nn").glob("*.py")} - set(OPS)
    assert {name for name in named if not name.startswith("_")} == set(OPS)


def test_every_kernel_of_an_op_lies_in_its_folder():
    for path in (ROOT / "csrc").glob("*/*"):
        folder = path.parent.name
        assert folder == "common" or (folder in OPS and path.name.startswith(folder)), path


@pytest.mark.parametrize("op", OPS)
def test_module_of_an_op_has_its_public_function(op):
    tree = ast.parse((ROOT / f"advkern/ops/{op}.py").read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert ast.get_docstring(functions[op])


# who may import whom: a package's own parts only, beyond the standard library and torch
MAY_IMPORT = {
    "reference": set(),
    "ops": {"advkern._triton", "advkern.backend", "advkern.graph", "advkern.ops", "advkern.reference"},
    "nn": {"advkern.adjacency", "advkern.graph", "advkern.maps", "advkern.nn", "advkern.ops", "advkern.reference"},
    "conversion": {"advkern.adjacency", "advkern.graph", "advkern.maps", "advkern.nn", "advkern.ops"},
    "weights": {"advkern.nn", "safetensors"},
}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    for path in (ROOT / "advkern" / package).rglob("*.py"):
        for name in imported(path):
            top = name.partition(".")[0]
            if top == "torch" or top in sys.stdlib_module_names:
                continue
            allowed = MAY_IMPORT[package] | {f"advkern.{package}"}
            assert any(name == a or name.startswith(a + ".") for a in allowed), f"{path.name} imports {name}"


def imported(path: Path) -> set[str]:
    """The modules that a file imports anywhere, those of its type checking included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "advkern":
            names |= {f"advkern.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names
