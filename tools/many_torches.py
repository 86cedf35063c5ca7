"""One build, many torches: builds one wheel and runs the ops' tests from it under several versions of torch."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from xml.etree import ElementTree

from torch_env import NEWEST, ROOT, UnobtainableError, install, make

VERSIONS = ("2.11.0", "2.13.0", NEWEST)
FOLDER = ROOT / "build" / "torches"
SOURCE = FOLDER / "source"
PACKAGES = ("hypothesis", "networkx", "numpy", "pytest", "scipy")  # what the ops' tests need
STEERING = ("ADVKERN_BACKEND", "ADVKERN_BUILD", "ADVKERN_STRICT", "PYTHONPATH")
NO_ANSWER = "-"


@dataclass
class Answer:
    """What one torch said: a row of the table."""

    torch: str
    cpu_kernels: str = NO_ANSWER
    cuda_kernels: str = NO_ANSWER
    passed: int | str = NO_ANSWER
    failed: int | str = NO_ANSWER
    skipped: int | str = NO_ANSWER
    verdict: str = "failed"


def main() -> None:
    """Build, ask each version, print the table; any answer but ``ok`` is an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", default=VERSIONS, help=f"of torch, or {NEWEST!r} (%(default)s)")
    parser.add_argument("-k", default="", help="only tests that match, as pytest's -k")
    args = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    wheel = build_wheel()
    answers = [ask(version, wheel, args.k) for version in args.versions]
    print(f"\n{wheel.name}, built beside torch {version_here()}:\n")
    show(answers)
    sys.exit(any(answer.verdict != "ok" for answer in answers))


def build_wheel() -> Path:
    """Build from a source distribution, as a user's pip does; its tests are the ones that will run."""
    mode = "cuda" if shutil.which("nvcc", path=f"{os.environ['PATH']}:/usr/local/cuda/bin") else "cpu"
    run(sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", FOLDER, cwd=ROOT)
    (sdist,) = FOLDER.glob("advkern-*.tar.gz")
    shutil.unpack_archive(sdist, FOLDER, filter="data")
    Path(FOLDER, sdist.name.removesuffix(".tar.gz")).rename(SOURCE)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", FOLDER)
    run(sys.executable, "-m", "pip", "wheel", *options, sdist, cwd=FOLDER, ADVKERN_BUILD=mode)
    (wheel,) = FOLDER.glob("advkern-*.whl")
    return wheel


def ask(version: str, wheel: Path, matching: str) -> Answer:
    """Install the wheel beside ``version`` in a fresh environment and run the ops' tests there."""
    print(f"== torch {version}", flush=True)
    folder = FOLDER / version
    try:
        python = make(folder, version, list(PACKAGES))
        install(python, "--no-deps", wheel)
        facts = json.loads(subprocess.check_output([python, "-m", "advkern", "info", "--json"], cwd=folder, env=env()))
    except UnobtainableError as error:
        return Answer(version, verdict=f"cannot be fetched: {error}")
    except (RuntimeError, subprocess.CalledProcessError) as error:
        return Answer(version, verdict=str(error))
    report = folder / "report.xml"
    tests = (SOURCE / "tests" / "ops", "-q", "-k", matching, f"--junitxml={report}", "-p", "no:cacheprovider")
    status = subprocess.run([python, "-m", "pytest", *tests], cwd=folder, env=env()).returncode  # not among the sources
    if not report.exists():
        return Answer(facts["torch"], verdict=f"the tests ended early, status {status}")
    suite = next(ElementTree.parse(report).iter("testsuite")).attrib
    failed, skipped = int(suite["failures"]) + int(suite["errors"]), int(suite["skipped"])
    cpu, cuda = facts["compiled"]["status"], facts["compiled_cuda"]["status"]
    passed = int(suite["tests"]) - failed - skipped
    good = status == 0 and cpu == "loaded" and passed > 0
    return Answer(facts["torch"], cpu, cuda, passed, failed, skipped, "ok" if good else "failed")


def run(*command: str | Path, cwd: Path, **variables: str) -> None:
    """Run a command, or end with what it was."""
    subprocess.run(command, cwd=cwd, env=env() | variables, check=True)


def env() -> dict[str, str]:
    """This environment, less what would steer advkern."""
    return {name: value for name, value in os.environ.items() if name not in STEERING}


def version_here() -> str:
    """The torch that the wheel was built beside."""
    code = "import torch; print(torch.__version__)"
    return subprocess.check_output([sys.executable, "-c", code], text=True).strip()


def show(answers: list[Answer]) -> None:
    """Print a table, columns as wide as they must be."""
    rows = [[field.name.replace("_", " ") for field in fields(Answer)]]
    rows += [[str(value) for value in astuple(answer)] for answer in answers]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
