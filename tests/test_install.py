"""Real installs, each into a folder of its own: what is compiled, and what the user is told if nothing is."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.install

ROOT = Path(__file__).parents[1]
SOURCES = ("LICENSE", "MANIFEST.in", "README.md", "advkern", "csrc", "pyproject.toml", "setup.py")
BUILT = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
COMPILERS = ("c++", "g++", "clang++", "gcc", "cc", "clang")
STEERING = ("ADVKERN_BACKEND", "ADVKERN_BUILD", "ADVKERN_STRICT", "PYTHONPATH")


def run(*command, cwd, **env):
    """Run a command in this environment, less what would steer advkern; keep all that it prints."""
    inherited = {name: value for name, value in os.environ.items() if name not in STEERING}
    env = {**inherited, **{name: str(value) for name, value in env.items()}}
    output = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run([str(part) for part in command], cwd=cwd, env=env, check=False, **output)


def run_installed(site, *arguments):
    """Run the interpreter on what is installed in `site`, away from the sources; return what it printed.

    `-S` leaves .pth files unread: an editable install of advkern would lend its compiled part.
    """
    path = os.pathsep.join([str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    ran = run(sys.executable, "-S", *arguments, cwd=site, PYTHONPATH=path)
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


def compiled_part(site):
    return json.loads(run_installed(site, "-m", "advkern", "info", "--json"))["compiled"]


def build_wheel(source, folder, *options, python=sys.executable, **env):
    command = (python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, *options, source)
    return run(*command, cwd=folder, **env)


def install(source, folder, *options, **build_options):
    """Build a wheel of `source` and install it; return the wheel and the folder it is installed in."""
    built = build_wheel(source, folder, *options, **build_options)
    assert built.returncode == 0, built.stdout
    (wheel,) = folder.glob("advkern-*.whl")
    site = folder / "site"
    pip_install = ("pip", "install", "--no-deps", "--no-index", "--target", site)
    installed = run(sys.executable, "-m", *pip_install, wheel, cwd=folder)
    assert installed.returncode == 0, installed.stdout
    return wheel, site


def assert_pure(wheel, site, reason):
    assert wheel.name.endswith("-py3-none-any.whl")
    part = compiled_part(site)
    assert part["status"] == "not built"
    assert reason in part["reason"]
    assert "pip install" in part["mend"]


def copy_sources(folder):
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=BUILT)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def path_without(folder, *programs):
    """A PATH with all programs of this one except some."""
    for directory in map(Path, os.get_exec_path()):
        for program in directory.iterdir() if directory.is_dir() else ():
            hidden = program.name in programs or (folder / program.name).exists()
            if not hidden and program.is_file():
                (folder / program.name).symlink_to(program)
    return folder


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree").mkdir()
    return copy_sources(tmp_path / "tree")


@pytest.fixture
def broken_tree(tree):
    shutil.rmtree(tree / "csrc")
    (tree / "csrc").mkdir()
    (tree / "csrc" / "module.cpp").write_text("#error broken on purpose\n")
    return tree


@pytest.fixture
def python_without_torch(tmp_path):
    """An environment with nothing in it but pip and setuptools."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    here = sysconfig.get_path("purelib")
    there = sysconfig.get_path("purelib", vars={"base": str(environment)})
    for pattern in ("pip*", "setuptools*", "_distutils_hack"):
        for package in Path(here).glob(pattern):
            (Path(there) / package.name).symlink_to(package)
    return environment / "bin" / "python"


@pytest.fixture(scope="session")
def compiled_site(tmp_path_factory):
    """The default install, on a machine without nvcc."""
    folder, tree, path = (tmp_path_factory.mktemp(name) for name in ("compiled", "tree", "path"))
    path_without(path, "nvcc")
    _, site = install(copy_sources(tree), folder, "--no-build-isolation", PATH=path)
    return site


def test_compiles_by_default(compiled_site):
    part = compiled_part(compiled_site)
    assert part["status"] == "loaded"
    assert part["reason"] is None
    assert part["facts"]["stable_abi"] == "2.10"
    assert "csrc/module.cpp" in part["facts"]["sources"]


def test_import_is_from_the_installed_copy_and_silent(compiled_site):
    assert run_installed(compiled_site, "-c", "import advkern") == ""
    assert str(compiled_site) in run_installed(compiled_site, "-c", "import advkern; print(advkern.__file__)")


def test_sdist_compiles_in_an_isolated_build(tree, tmp_path):
    made = run(sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", tmp_path, cwd=tree)
    assert made.returncode == 0, made.stdout
    (sdist,) = tmp_path.glob("advkern-*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert not [name for name in archive.getnames() if name.endswith((".so", "_build.json"))]

    constraints = ROOT / "constraints.txt"
    _, site = install(sdist, tmp_path, PIP_CONSTRAINT=constraints, PIP_BUILD_CONSTRAINT=constraints)
    assert compiled_part(site)["status"] == "loaded"


def test_none_is_pure(tree, tmp_path):
    installed = install(tree, tmp_path, "--no-build-isolation", ADVKERN_BUILD="none")
    assert_pure(*installed, reason="ADVKERN_BUILD=none")


def test_no_compiler_is_pure(tree, tmp_path):
    (tmp_path / "path").mkdir()
    path = path_without(tmp_path / "path", *COMPILERS)
    installed = install(tree, tmp_path, "--no-build-isolation", PATH=path, CXX="c++")
    assert_pure(*installed, reason="no C++ compiler")


def test_no_torch_at_build_time_is_pure(tree, tmp_path, python_without_torch):
    installed = install(tree, tmp_path, "--no-build-isolation", python=python_without_torch)
    assert_pure(*installed, reason="No module named 'torch'")


def test_failed_compile_is_pure_and_keeps_the_log(broken_tree, tmp_path):
    _, site = install(broken_tree, tmp_path, "--no-build-isolation")
    part = compiled_part(site)
    assert part["status"] == "not built"
    assert "broken on purpose" in part["reason"]
    assert "broken on purpose" in json.loads((site / "advkern" / "_build.json").read_text())["log"]


def test_failed_compile_fails_the_install_that_asked_for_it(broken_tree, tmp_path):
    built = build_wheel(broken_tree, tmp_path, "--no-build-isolation", ADVKERN_BUILD="cpu")
    assert built.returncode != 0
    assert "#error broken on purpose" in built.stdout


@pytest.mark.parametrize(
    ("mode", "message"),
    [("bogus", "one of auto, cpu, cuda, none; got 'bogus'"), ("cuda", "nvcc was not found")],
)
def test_mode_that_cannot_be_had_fails(tree, tmp_path, mode, message):
    built = build_wheel(tree, tmp_path, "--no-build-isolation", ADVKERN_BUILD=mode, CUDA_HOME=tmp_path)
    assert built.returncode != 0
    assert message in built.stdout


OLD_TORCH = {"torch.py": "__version__ = '2.9.1'"}
NO_PYBIND11 = {"sitecustomize.py": "import sys; sys.modules['pybind11'] = None"}
NO_CUDA_TORCH = {"sitecustomize.py": "import torch; torch.version.cuda = None"}
CUDA_TORCH = {"sitecustomize.py": "import torch; torch.version.cuda = '13.0'"}


@pytest.mark.parametrize(
    ("files", "mode", "part", "reason", "mend"),
    [
        (OLD_TORCH, "auto", None, "torch 2.10 or later is needed, the build environment has 2.9.1", "torch>=2.10"),
        (NO_PYBIND11, "auto", None, "pybind11 is not in the build environment", "pip install .*pybind11"),
        ({}, "none", None, "ADVKERN_BUILD=none asked for pure Python", "ADVKERN_BUILD=cpu pip install"),
        ({}, "cpu", "cuda", "ADVKERN_BUILD=cpu asked for the CPU kernels alone", "ADVKERN_BUILD=cuda pip install"),
        (NO_CUDA_TORCH, "auto", "cuda", "of the build environment has no CUDA", "ADVKERN_BUILD=cuda pip install"),
        (CUDA_TORCH, "auto", "cuda", "nvcc was not found", "CUDA_HOME=.* ADVKERN_BUILD=cuda pip install"),
    ],
    ids=["old torch", "no pybind11", "none", "cpu alone", "torch without CUDA", "no nvcc"],
)
def test_reason_for_a_part_that_is_not_built(tmp_path, files, mode, part, reason, mend):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "advkern").mkdir()
    command = (sys.executable, "setup.py", "build_report", "--build-lib", tmp_path)
    ran = run(*command, cwd=ROOT, ADVKERN_BUILD=mode, CUDA_HOME=tmp_path, PYTHONPATH=tmp_path)
    assert ran.returncode == 0, ran.stdout
    outcome = json.loads((tmp_path / "advkern" / "_build.json").read_text())
    told = outcome[part] if part else outcome
    assert told["status"] == "pure"
    assert reason in told["reason"]
    assert re.search(mend, told["mend"])


def test_editable_pure_install_removes_an_earlier_library(tree, tmp_path, python_without_torch):
    stale = tree / "advkern" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    stale.write_bytes(b"built earlier")
    command = ("-m", "pip", "install", "--no-deps", "--no-build-isolation", "--editable", tree)
    installed = run(python_without_torch, *command, cwd=tmp_path)
    assert installed.returncode == 0, installed.stdout
    assert not stale.exists()
    assert json.loads((tree / "advkern" / "_build.json").read_text())["status"] == "pure"


def test_damaged_library_is_reported_and_not_fatal(compiled_site, tmp_path):
    site = shutil.copytree(compiled_site, tmp_path / "site")
    (library,) = (site / "advkern").glob("_C*.so")
    library.write_bytes(b"no library at all")

    assert run_installed(site, "-c", "import advkern") == ""
    part = compiled_part(site)
    assert part["status"] == "not loadable"
    assert library.name in part["reason"]
    assert "pip install" in part["mend"]
