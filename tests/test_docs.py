"""The documentation runs: its Python blocks print what stands below them, its commands exist, its site builds.

The blocks of a page run from top to bottom in one namespace. A ``text`` block right after one is what it prints, "..."
standing for whatever differs from machine to machine.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import advkern.plots
import advkern.weights
from advkern import backend, cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```$(?:\n*```text\n(?P<output>.*?)^```$)?", re.DOTALL | re.MULTILINE
)
LENIENT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page: Path, language: str) -> list[re.Match[str]]:
    return [block for block in FENCE.finditer(page.read_text()) if block["language"] == language]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_python_blocks_run_and_print_what_is_said(page, monkeypatch, tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "page"}
    for block in blocks(page, "python"):
        torch.manual_seed(0)
        printed = run(page, block, space)
        expected = block["output"]
        if expected is not None and backend.COMPILED.status == "loaded":  # else other backends are told
            assert doctest.OutputChecker().check_output(expected, printed, LENIENT), printed
    plt.close("all")


def run(page: Path, block: re.Match[str], space: dict) -> str:
    """Run a block, its lines numbered as in the page, and return what it prints."""
    lines_before = block.string.count("\n", 0, block.start("code"))
    code = compile("\n" * lines_before + block["code"], name(page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            exec(code, space)
        except ModuleNotFoundError as error:
            if str(error.name).startswith("advkern"):
                raise
            pytest.skip(f"{name(page)} needs {error.name}")
    return printed.getvalue()


def test_readme_and_every_model_have_code():
    expected = {"README.md", *(name(page) for page in (ROOT / "docs/models").glob("*.md"))}
    assert expected <= set(map(name, WITH_PYTHON))


COMMANDS = [(page, line) for page in PAGES for block in blocks(page, "sh") for line in block["code"].splitlines()]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{name(page)}-{line.strip()}" for page, line in COMMANDS])
def test_commands_exist(page, line):
    """Of ``make`` the target, of ``advkern`` and its scripts the arguments; pip and torch's own are theirs to keep."""
    words = line.partition("#")[0].split()
    words = [word for k, word in enumerate(words) if "=" not in word or k]  # variables before the command
    match words:
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text()
            for target in targets:
                assert "=" in target or re.search(rf"^{target}:", makefile, re.MULTILINE), target
        case ["advkern", command, *_] | ["python", "-m", "advkern", command, *_]:
            with pytest.raises(SystemExit) as stopped, contextlib.redirect_stdout(io.StringIO()):
                cli.main([command, "--help"])
            assert stopped.value.code == 0
        case ["python", script, *_] if script.endswith(".py"):
            assert (ROOT / script).is_file()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        generated = ROOT / "docs" / "tutorial.md"  # of the notebook, when the site is built
        path = (page.parent / target).resolve()
        assert path.exists() or path == generated, target


def test_differences_are_as_measured():
    folder = Path(os.environ.get("ADVKERN_TUTORIAL") or ".").resolve()
    if not (folder / "tutorial.txt").is_file():
        pytest.skip("ADVKERN_TUTORIAL must name a folder with tutorial.txt and run_cells.py")
    if backend.COMPILED.status != "loaded":
        pytest.skip("the committed figures are those of the compiled part")
    checked = run_in_root("tools/differences", "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; mend it with: pip install '.[docs]'")
    done = run_in_root("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = [page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")]
    missing = [page for page in pages if not (tmp_path / page).is_file()]
    assert not missing
    foreign = re.compile(r"""(?:src=|<link[^>]* href=)["'](?:https?:)?//""")
    fetching = [page for page in tmp_path.rglob("*.html") if foreign.search(page.read_text())]
    assert not fetching, "the site loads something from elsewhere"
    api = "".join(page.read_text() for page in (tmp_path / "api").glob("*.html"))
    undocumented = [paths[0] for paths in public_paths() if not any(f'id="{path}"' in api for path in paths)]
    assert not undocumented, "a page of docs/api should name it"


def public_paths() -> list[tuple[str, str]]:
    """Of all that is public: where it is found, and where it is defined."""
    modules = (advkern, advkern.nn, advkern.ops, advkern.plots, advkern.weights)
    found = {f"{module.__name__}.{each}": getattr(module, each) for module in modules for each in module.__all__}
    return [(path, f"{each.__module__}.{each.__qualname__}") for path, each in found.items() if callable(each)]


def run_in_root(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
