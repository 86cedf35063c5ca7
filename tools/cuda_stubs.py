"""Stand-ins for NVIDIA's libraries, so that a CUDA build of torch imports where there is no GPU.

Its wheel needs gigabytes of libraries to import, whose functions nobody calls without a GPU. A stand-in has the
functions' names alone; a call of one ends the process. The two libraries that are called even so, the runtime and
CUPTI, are small and have to be there. Linux, with the readelf, nm and compiler of g++.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

NVIDIA = re.compile(r"lib(cu(?!da\.so)|nccl|nv)")  # libcuda.so is the driver's: loaded when a device is looked for
# What torch calls of libraries without versioned symbols; any one of the stand-ins can have it.
UNVERSIONED = re.compile(r"(cu[a-zA-Z]|cudnn|nccl|nvshmem|nvrtc|nvJit)")


def stub(lib: Path, found: list[Path]) -> list[str]:
    """Write into ``lib``, torch's folder of libraries, those they need beside ``found``; return their names."""
    users = sorted(lib.glob("*.so"))
    tables = {user: _output("readelf", "-dVW", user) for user in users}
    needed = {name for table in tables.values() for name in re.findall(r"\(NEEDED\).*\[(.+)\]", table)}
    here = {path.name for path in [*lib.iterdir(), *found]}
    missing = sorted(name for name in needed - here if NVIDIA.match(name))

    symbols: dict[str, dict[str, set[str]]] = {
        name: defaultdict(set) for name in missing
    }  # library -> version -> names
    present = {name for path in found for name in _symbols("--defined-only", path)}
    for user, table in tables.items():
        libraries = _library_of_version(table)
        for symbol in _symbols("--undefined-only", user):
            name, _, version = symbol.partition("@")
            if libraries.get(version) in symbols:
                symbols[libraries[version]][version].add(name)
            elif not version and UNVERSIONED.match(name) and name not in present and missing:
                symbols[missing[0]][""].add(name)
    for name, versions in symbols.items():
        _compile(lib / name, versions)
    return missing


def _library_of_version(table: str) -> dict[str, str]:
    """``{version: library}`` of the versions that a library needs."""
    libraries, current = {}, ""
    for line in table.splitlines():
        if found := re.search(r"File: (\S+)", line):
            current = found[1]
        elif found := re.search(r"Name: (\S+)\s+Flags", line):
            libraries[found[1]] = current
    return libraries


def _compile(target: Path, versions: dict[str, set[str]]) -> None:
    """Compile a library of functions that trap, under the symbol versions that its users ask for."""
    functions = sorted(set().union(*versions.values()))
    script = "".join(f"{v} {{ global: {'; '.join(sorted(names))}; }};\n" for v, names in versions.items() if v)
    with tempfile.TemporaryDirectory() as folder:
        source, exported = Path(folder, "stub.c"), Path(folder, "stub.map")
        source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in functions))
        exported.write_text(script)
        command = ["cc", "-w", "-fPIC", "-shared", f"-Wl,-soname,{target.name}", "-o", str(target), str(source)]
        subprocess.run(command + [f"-Wl,--version-script,{exported}"] * bool(script), check=True)


def _symbols(which: str, library: Path) -> list[str]:
    return [line.split()[-1] for line in _output("nm", "-D", which, library).splitlines() if line.strip()]


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
