"""The Triton kernels: run under Triton's interpreter, and compiled ahead of time for the GPUs we ship for.

``make tritons`` runs this under the installed Triton and under the newest.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
pytestmark = pytest.mark.triton
ROOT = Path(__file__).parents[1]


def test_kernels_pass_their_op_s_suite_under_the_interpreter():
    """In a process of its own: Triton asks for its interpreter when it is imported."""
    tests = sorted(str(path) for path in (ROOT / "tests/interpreted").glob("[!c_]*.py"))
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "--no-header", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-6000:] + done.stderr[-2000:]


def default_instances():
    """Dim 64 in both kinds of type; with ADVKERN_TEST_ALL=1 the whole table."""
    from advkern._triton import instances

    if os.environ.get("ADVKERN_TEST_ALL") == "1":
        return list(instances.instances())
    return [i for i in instances.instances((64,), dtypes=(torch.bfloat16, torch.float32)) if i.options]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize("each", default_instances(), ids=lambda i: f"{i.form}-{i.length}-{i.dtype}-sm_{i.arch}")
def test_default_instances_compile_without_spills(each):
    from advkern._triton import instances

    cost = instances.cost(each)
    assert cost.spilled == 0, cost
    assert cost.shared <= {80: 163, 90: 227}[each.arch] * 1024, cost
    assert cost.tensor_cores == (each.dtype != torch.float32), cost
