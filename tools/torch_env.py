"""An environment of its own for some version of torch.

Of a CUDA build only torch's own wheel is fetched (some 500 MB): stand-ins take the place of NVIDIA's libraries, which
are gigabytes. Such a torch computes on the CPU, loads CUDA code and finds no device.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from cuda_stubs import stub

ROOT = Path(__file__).parents[1]
NEWEST = "newest"
NOT_NEEDED = ("cuda-", "nvidia-", "triton")  # of what a CUDA build requires

# Reads the wheel without importing it, which a CUDA build cannot do yet.
FACTS = f"""
import json, runpy
from importlib.metadata import distribution
wheel = distribution("torch")
facts = runpy.run_path(str(wheel.locate_file("torch/version.py")))
requires = [r for r in wheel.requires if not r.startswith({NOT_NEEDED}) and "extra ==" not in r]
print(json.dumps(dict(torch=facts["__version__"], cuda=facts["cuda"], requires=requires)))
"""


class UnobtainableError(Exception):
    """The wheel of that torch cannot be fetched; the message is pip's."""


def make(folder: Path, version: str, packages: list[str]) -> Path:
    """Make the environment anew and return its interpreter."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder.absolute() / "bin" / "python"
    try:
        install(python, "--no-deps", "torch" if version == NEWEST else f"torch=={version}")
    except RuntimeError as error:
        shutil.rmtree(folder)
        raise UnobtainableError(str(error)) from error
    build = json.loads(subprocess.check_output([python, "-c", FACTS], text=True))
    install(python, *build["requires"])
    if build["cuda"]:
        install(python, "--no-deps", *(f"nvidia-cuda-{part}=={build['cuda']}.*" for part in ("runtime", "cupti")))
        site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        names = stub(site / "torch" / "lib", sorted(site.glob("nvidia/**/*.so*")))
        print(f"torch {build['torch']}: stand-ins for {', '.join(names)}", file=sys.stderr)
    install(python, "--constraint", ROOT / "constraints.txt", *packages)
    return python


def install(python: Path, *arguments: str | Path) -> None:
    """Install into the environment of ``python`` with this one's pip; RuntimeError with what pip said."""
    quiet = ("--quiet", "--disable-pip-version-check", "--no-compile")
    command = [sys.executable, "-m", "pip", "--python", python, "install", *quiet, *arguments]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
        raise RuntimeError("\n".join(errors) or done.stdout)


def main() -> None:
    """Make one and print its interpreter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("version", help=f"of torch, or {NEWEST!r}")
    parser.add_argument("packages", nargs="*", help="to install as well")
    parser.add_argument("--if-obtainable", action="store_true", help="a torch that cannot be fetched is no error")
    args = parser.parse_args()
    try:
        print(make(args.folder, args.version, args.packages))
    except UnobtainableError as error:
        print(f"torch {args.version} cannot be fetched: {error}", file=sys.stderr)
        sys.exit(0 if args.if_obtainable else 1)


if __name__ == "__main__":
    main()
