"""The stand-ins for NVIDIA's libraries: a library that needs these loads, and a call of one ends the process."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
TRY = "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]); print(library.own(), flush=True); library.foreign()"

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("cc", "nm", "readelf"))) or not sys.platform.startswith("linux"),
    reason="needs a C compiler and binutils, on Linux",
)


def shared(target, source, *options):
    code = target.with_suffix(".c")
    code.write_text(source)
    command = ["cc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{target.name}", "-o", target, code, *options]
    subprocess.run(command, check=True)
    code.unlink()


@pytest.fixture
def user(tmp_path):
    """A library that needs a versioned and an unversioned one, of which neither is there any more."""
    versions = tmp_path / "versions"
    versions.write_text("libcublas.so.13 { global: cublasFirst; };")
    theirs = [tmp_path / "libcublas.so.13", tmp_path / "libnccl.so.2"]
    shared(theirs[0], "void cublasFirst() {}", f"-Wl,--version-script={versions}")
    shared(theirs[1], "void ncclSecond() {}")
    lib = tmp_path / "lib"
    lib.mkdir()
    source = "int own() { return 7; } void foreign() { cublasFirst(); ncclSecond(); }"
    shared(lib / "libtorch_cuda.so", source, *theirs, "-Wl,-z,now", "-Wl,-rpath,$ORIGIN")
    for path in theirs:
        path.unlink()
    return lib / "libtorch_cuda.so"


def load(library):
    return subprocess.run([sys.executable, "-c", TRY, library], capture_output=True, text=True, check=False)


def test_library_loads_with_them_and_only_with_them(user, monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    from cuda_stubs import stub

    assert "cannot open shared object file" in load(user).stderr
    assert stub(user.parent, found=[]) == ["libcublas.so.13", "libnccl.so.2"]
    done = load(user)
    assert done.stdout == "7\n"
    assert done.returncode == -signal.SIGILL
    assert stub(user.parent, found=[]) == []
