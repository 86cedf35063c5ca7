"""Runs in a process of its own, started with TRITON_INTERPRET=1 by ``tests/test_triton.py``."""

import os
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))


def _let_the_interpreter_count() -> None:
    """Triton 3.6's interpreter calls ``int`` on arrays of one element, which numpy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_and_mend


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise pytest.UsageError("these tests run under TRITON_INTERPRET=1, as tests/test_triton.py starts them")
    _let_the_interpreter_count()
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # numpy's, of exp2(-inf) and log2(0)
