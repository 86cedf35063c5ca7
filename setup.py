"""Compiles csrc/ into `advkern._C` and, for CUDA, `_C_cuda.so`, or installs pure Python and records why.

    ADVKERN_BUILD=auto   compile where possible; never fails an install (the default)
                  cpu    compile the CPU kernels, or fail
                  cuda   compile the CUDA kernels too, or fail
                  none   pure Python
    FORCE_CUDA=1         let auto compile the CUDA kernels beside a torch without CUDA as well
    CUDA_HOME            where the CUDA toolkit is; otherwise nvcc of the PATH or of /usr/local/cuda
    TORCH_CUDA_ARCH_LIST as torch reads it: "8.0;9.0+PTX" is the default
    MAX_JOBS=n           compilers at a time; otherwise bounded by cores and memory

The outcome is kept in the installed package, in `_build.json`, which `advkern info` reads.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import ClassVar

from setuptools import Command, Extension, setup
from setuptools.command.build import build

MODES = ("auto", "cpu", "cuda", "none")
OLDEST_TORCH = (2, 10)  # the build targets its stable ABI, so it serves every later torch
ABI = "{}.{}".format(*OLDEST_TORCH)
FLAGS = [
    "-O3",
    "-g0",
    "-std=c++20",
    "-fvisibility=hidden",
    "-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000".format(*OLDEST_TORCH),
]
NVCC_FLAGS = ["-O3", "-std=c++20", FLAGS[-1], "-Xcompiler=-fPIC,-fvisibility=hidden"]
CUDA_LIBRARY = "_C_cuda.so"
DEFAULT_ARCHS = "8.0;9.0+PTX"
BYTES_PER_JOB = 2 * 2**30
LOG_TAIL = 8000  # characters
COMPILER_PACKAGE = "xcode-select --install" if sys.platform == "darwin" else "sudo apt-get install g++"
reinstall = run_path("advkern/_reinstall.py")["reinstall"]  # importing advkern would import torch
GET_TOOLS = f'pip install "torch>={ABI}" "setuptools>=77" pybind11 ninja && {reinstall()}'
GET_COMPILER = f"{COMPILER_PACKAGE} && CXX=c++ {reinstall()}"


def requested_mode() -> str:
    mode = os.environ.get("ADVKERN_BUILD") or "auto"
    if mode not in MODES:
        raise SystemExit(f"ADVKERN_BUILD must be one of {', '.join(MODES)}; got {mode!r}")
    return mode


def compiler_version() -> str | None:
    try:
        command = [*shlex.split(os.environ["CXX"]), "--version"]
        return subprocess.check_output(command, text=True).partition("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return None


def obstacle() -> tuple[str, str] | None:
    """Why nothing can be compiled here and the command that mends it."""
    try:
        import torch
    except Exception as error:  # a damaged torch raises OSError, RuntimeError, ... as well
        return f"torch cannot be imported in the build environment: {error}", GET_TOOLS
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        return f"torch {ABI} or later is needed, the build environment has {torch.__version__}", GET_TOOLS
    if find_spec("pybind11") is None:
        return "pybind11 is not in the build environment", GET_TOOLS
    if compiler_version() is None:
        return f"no C++ compiler: {os.environ['CXX']!r} (CXX) does not run", GET_COMPILER
    return None


def cpu_extension() -> Extension:
    import pybind11
    from torch.utils.cpp_extension import include_paths, library_paths

    return Extension(
        "advkern._C",
        sorted({"csrc/module.cpp", *glob("csrc/common/*.cpp"), *glob("csrc/*/*_cpu.cpp")}),
        depends=sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.cuh", recursive=True)),
        # pybind11's own headers come before the older copy in torch's folder.
        include_dirs=[os.path.abspath("csrc"), pybind11.get_include(), *include_paths()],
        library_dirs=library_paths(),
        libraries=["c10", "torch", "torch_cpu"],  # torch_python's ABI is not stable
        extra_compile_args=FLAGS,
        language="c++",
    )


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    usual = os.pathsep.join([os.environ["PATH"], "/usr/local/cuda/bin"])
    return shutil.which("nvcc", path=os.path.join(home, "bin") if home else usual)


def cuda_archs() -> list[str]:
    return (os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHS).replace(";", " ").split()


def cuda_obstacle(mode: str) -> tuple[str, str] | None:
    """Why the CUDA kernels are not compiled and the command that mends it."""
    import torch

    mend = reinstall("cuda")
    if mode == "cpu":
        return "ADVKERN_BUILD=cpu asked for the CPU kernels alone", mend
    if mode == "auto" and torch.version.cuda is None and os.environ.get("FORCE_CUDA") != "1":
        return f"torch {torch.__version__} of the build environment has no CUDA", mend
    if nvcc() is None:
        return "nvcc was not found, neither by CUDA_HOME nor on the PATH", f"CUDA_HOME=<the CUDA toolkit> {mend}"
    return None


def nvcc_command(*arguments: str) -> list[str]:
    from torch.utils.cpp_extension import include_paths

    targets = []
    for arch in cuda_archs():
        number = arch.removesuffix("+PTX").replace(".", "")
        codes = [f"sm_{number}"] + [f"compute_{number}"] * arch.endswith("+PTX")
        targets += [f"-gencode=arch=compute_{number},code=[{','.join(codes)}]"]
    folders = ["-Icsrc", *(f"-isystem={folder}" for folder in include_paths())]
    return [nvcc(), *NVCC_FLAGS, *targets, *folders, *arguments]


def compile_cuda(target: Path, folder: Path) -> None:
    """A plain shared library, apart from `_C`, so that a CPU-only torch never meets an unresolved symbol."""
    from torch.utils.cpp_extension import library_paths

    def run(command):
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}")
        print(done.stdout, end="")

    sources = {source: str(folder / f"{Path(source).stem}.o") for source in sorted(glob("csrc/*/*_cuda.cu"))}
    with ThreadPoolExecutor(int(os.environ["MAX_JOBS"])) as pool:
        list(pool.map(lambda pair: run(nvcc_command("-c", pair[0], "-o", pair[1])), sources.items()))
    # A CPU-only torch lacks libtorch_cuda: an empty one of its name serves the linker.
    run(
        [*shlex.split(os.environ["CXX"]), "-shared", "-Wl,-soname,libtorch_cuda.so", "-o", f"{folder}/libtorch_cuda.so"]
    )
    search = [f"-L{path}" for path in (*library_paths(), folder)]
    libraries = ["-Xlinker=--no-as-needed", "-ltorch_cuda", "-ltorch_cpu"]
    run(nvcc_command("-shared", "-o", str(target), *sources.values(), *search, *libraries))


def compiled(extensions: list[Extension]) -> dict:
    import torch

    facts = {
        "compiler": compiler_version(),
        "torch": torch.__version__,
        "stable_abi": ABI,
        "flags": FLAGS,
        "sources": [source for extension in extensions for source in extension.sources],
    }
    return compiled_with(facts)


def compiled_with(facts: dict) -> dict:
    return {"status": "compiled", "reason": None, "mend": None, "log": None, "facts": facts}


def pure(reason: str, mend: str, log: str | None = None) -> dict:
    return {"status": "pure", "reason": reason, "mend": mend, "log": log, "facts": {}}


def cuda_plan(mode: str) -> dict:
    """Whether the CUDA kernels are to be compiled, and the outcome to record if that goes well."""
    if found := cuda_obstacle(mode):
        if mode == "cuda":
            raise SystemExit("ADVKERN_BUILD=cuda: {}\nTo mend it: {}".format(*found))
        return pure(*found)
    version = subprocess.check_output([nvcc(), "--version"], text=True).split("release ")[1].partition(",")[0]
    return compiled_with({"nvcc": version, "archs": cuda_archs(), "flags": NVCC_FLAGS})


def plan(mode: str) -> tuple[list[Extension], dict]:
    """What to compile, and the outcome to record if that goes well."""
    if mode == "none":
        return [], pure("ADVKERN_BUILD=none asked for pure Python", reinstall("cpu"))
    if found := obstacle():
        if mode == "auto":
            return [], pure(*found)
        raise SystemExit("ADVKERN_BUILD={}: {}\nTo mend it: {}".format(mode, *found))
    extensions = [cpu_extension()]
    return extensions, compiled(extensions) | {"cuda": cuda_plan(mode)}


def failed(error: Exception, log: str, mode: str = "cpu") -> dict:
    first = next((line for line in log.splitlines() if "error: " in line or "error   :" in line), str(error))
    return pure(f"the compile failed: {first}", reinstall(mode), log[-LOG_TAIL:])


@contextmanager
def output_kept_in(log):
    """Keep in `log` what is printed, then print it; the compilers, ninja's children, write to fd 1 and 2."""
    saved = {fd: os.dup(fd) for fd in (1, 2)}
    for fd in saved:
        os.dup2(log.fileno(), fd)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, copy in saved.items():
            os.dup2(copy, fd)
            os.close(copy)
        log.seek(0)
        print(log.read(), flush=True)


def build_ext_command(mode: str, outcome: dict) -> type[Command]:
    from torch.utils.cpp_extension import BuildExtension

    class BuildExt(BuildExtension):
        """torch's own, but under `auto` a failed compile is recorded instead of raised."""

        def finalize_options(self):
            super().finalize_options()
            if self.editable_mode:  # setuptools' temporary folder would recompile everything each time
                self.build_temp = "build/editable"

        def build_extensions(self):
            with tempfile.TemporaryFile("w+", errors="replace") as log:
                try:
                    with output_kept_in(log):
                        super().build_extensions()
                except Exception as error:
                    log.seek(0)
                    outcome.update(failed(error, log.read()))
                    if mode != "auto":
                        raise SystemExit(f"ADVKERN_BUILD={mode}: {outcome['reason']}") from error
                    self.extensions.clear()

    return BuildExt


class PackageCommand(Command):
    """A part of the build that writes beside the modules."""

    user_options: ClassVar[list] = [("build-lib=", None, "folder of the package")]
    editable_mode = False

    def initialize_options(self):
        self.build_lib = None

    def finalize_options(self):
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def package(self) -> Path:
        return Path("" if self.editable_mode else self.build_lib, "advkern")


def build_cuda_command(mode: str, outcome: dict) -> type[Command]:
    class BuildCuda(PackageCommand):
        """Compiles `_C_cuda.so`; under `auto` a failed compile is recorded instead of raised."""

        def run(self):
            if outcome["status"] == "pure" or outcome["cuda"]["status"] == "pure":
                return
            self.package().mkdir(parents=True, exist_ok=True)
            try:
                with tempfile.TemporaryDirectory() as folder:
                    compile_cuda(self.package() / CUDA_LIBRARY, Path(folder))
            except (OSError, RuntimeError) as error:
                outcome["cuda"] = failed(error, str(error), "cuda")
                print(error)
                if mode == "cuda":
                    raise SystemExit(f"ADVKERN_BUILD=cuda: {outcome['cuda']['reason']}") from error

    return BuildCuda


def build_report_command(outcome: dict) -> type[Command]:
    class BuildReport(PackageCommand):
        """Writes `_build.json`."""

        def run(self):
            if outcome["status"] == "pure":
                self.remove("_C*" + sysconfig.get_config_var("EXT_SUFFIX"), CUDA_LIBRARY)
                print("advkern is installed as pure Python: {reason}\nTo mend it: {mend}".format(**outcome))
            elif outcome["cuda"]["status"] == "pure":
                self.remove(CUDA_LIBRARY)
            self.package().joinpath("_build.json").write_text(json.dumps(outcome, indent=2) + "\n")

        def remove(self, *patterns):
            """An earlier build's libraries would be loaded."""
            for pattern in patterns:
                for stale in self.package().glob(pattern):
                    stale.unlink()

    return BuildReport


class Build(build):
    # in this order, after build_ext
    sub_commands: ClassVar[list] = [*build.sub_commands, ("build_cuda", None), ("build_report", None)]


def max_jobs() -> int:
    cores = os.cpu_count() or 1
    if not hasattr(os, "sysconf"):
        return cores
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores, memory // BYTES_PER_JOB))


def main() -> None:
    os.environ.setdefault("MAX_JOBS", str(max_jobs()))
    os.environ.setdefault("CXX", "c++")
    # ninja lies beside an interpreter that is called by its path, without an activated environment.
    os.environ["PATH"] += os.pathsep + sysconfig.get_path("scripts")

    mode = requested_mode()
    extensions, outcome = plan(mode)
    commands = {
        "build": Build,
        "build_cuda": build_cuda_command(mode, outcome),
        "build_report": build_report_command(outcome),
    }
    if extensions:
        commands["build_ext"] = build_ext_command(mode, outcome)
    setup(ext_modules=extensions, cmdclass=commands)


main()
