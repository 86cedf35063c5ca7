"""The tutorial's own classes, made by running its text where it lies: what tests compare with is never a copy."""

import contextlib
import functools
import io
import os
from pathlib import Path

import pytest

VARIABLE = "ADVKERN_TUTORIAL"  # names the folder with tutorial.txt and run_cells.py


@functools.cache
def runner():
    """The globals of ``run_cells.py``; without it the test is skipped."""
    folder = Path(os.environ.get(VARIABLE) or ".")
    script = folder / "run_cells.py"
    if not (script.is_file() and (folder / "tutorial.txt").is_file()):
        pytest.skip(f"{VARIABLE} must name a folder with tutorial.txt and run_cells.py")
    space = {"__name__": "run_cells", "__file__": str(script)}
    exec(compile(script.read_text(), str(script), "exec"), space)
    return space


@functools.cache
def namespace():
    """The names that the tutorial's cells of imports and classes define."""
    with contextlib.redirect_stdout(io.StringIO()):
        return runner()["tutorial_namespace"]()


def cells():
    """The code of the tutorial's cells, in order."""
    return runner()["cells"]()
