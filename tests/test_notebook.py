"""The tutorial's notebook runs from top to bottom, and is committed with what a reader wants to see."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).parents[1] / "docs/tutorial.ipynb"
ENOUGH_SECONDS = 600  # for one cell, on a busy machine


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook, kind):
    return [output for cell in code_cells(notebook) for output in cell.outputs if output.output_type == kind]


def test_notebook_runs_without_a_warning(committed, tmp_path):
    for package in ("ipykernel", "matplotlib", "networkx", "sklearn"):
        pytest.importorskip(package)
    resources = {"metadata": {"path": str(tmp_path)}}
    run = nbclient.NotebookClient(nbformat.from_dict(committed), timeout=ENOUGH_SECONDS, resources=resources).execute()
    said = [output.text for output in outputs(run, "stream") if output.name == "stderr"]
    assert not said
    pictures = [len(outputs(notebook, "display_data")) for notebook in (committed, run)]
    assert pictures[0] == pictures[1] >= 10, "run make notebook"


def test_committed_outputs_are_those_of_one_run(committed):
    counts = [cell.execution_count for cell in code_cells(committed)]
    assert counts == list(range(1, len(counts) + 1)), "run make notebook"
    assert not outputs(committed, "error")


def test_committed_notebook_is_small():
    assert NOTEBOOK.stat().st_size < 2**20
