"""Which backends exist here, which one an op takes, and why not another."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

BACKENDS = ("cpu", "cuda", "triton", "torch")
_REINSTALL = "pip install --no-build-isolation --force-reinstall --no-deps ."
MEND = f"ADVKERN_BUILD=cpu {_REINSTALL}"
MEND_CUDA = f"ADVKERN_BUILD=cuda {_REINSTALL}"


class BackendError(RuntimeError):
    """A backend that was asked for cannot run; the message has the reason against each."""


class FallbackWarning(UserWarning):
    """An op runs in plain PyTorch where a kernel of its own could have run."""


@dataclass(frozen=True)
class CompiledPart:
    """The state of a compiled library: loaded, missing (with the build's reason) or broken (with the loader's)."""

    status: str
    reason: str | None = None
    mend: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def _built() -> dict[str, Any]:
    """What the build left behind."""
    path = Path(__file__).with_name("_build.json")
    return json.loads(path.read_text()) if path.is_file() else {}


def _load_compiled() -> CompiledPart:
    """Load the CPU kernels, which register themselves with torch; never raises."""
    build = _built()
    facts = build.get("facts", {})
    try:
        module = importlib.import_module("advkern._C")
    except ModuleNotFoundError:
        reason = build.get("reason") or "advkern was installed without its compiled part"
        return CompiledPart("missing", reason, build.get("mend") or MEND, facts)
    except (ImportError, OSError) as error:
        return CompiledPart("broken", f"advkern._C cannot be loaded: {error}", MEND, facts)
    return CompiledPart("loaded", facts=facts | module.build_facts())


def _load_cuda(library: Path) -> CompiledPart:
    """Load the CUDA kernels, which register themselves with torch, where torch has CUDA; never raises."""
    build = _built().get("cuda", {})
    facts = build.get("facts", {})
    if not library.is_file():
        reason = build.get("reason") or "advkern was installed without its CUDA kernels"
        return CompiledPart("missing", reason, build.get("mend") or MEND_CUDA, facts)
    if torch.version.cuda is None:
        reason = f"{library.name} cannot be loaded: torch {torch.__version__} has no CUDA"
        return CompiledPart("broken", reason, "install a torch with CUDA", facts)
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return CompiledPart("broken", f"{library.name} cannot be loaded: {error}", MEND_CUDA, facts)
    return CompiledPart("loaded", facts=facts)


COMPILED = _load_compiled()
CUDA = _load_cuda(Path(__file__).with_name("_C_cuda.so"))

_ops: dict[str, Mapping[str, str]] = {}  # op -> {device type: its kernel backend there}
_forced: dict[str, str] | None = None  # what use_backend asked for; None: ADVKERN_BACKEND, not read yet
_choices: dict[tuple[str, str], str] = {}  # (op, device type) -> backend; what torch.compile guards
_warned: set[tuple[str, str]] = set()


def register_op(op: str, kernels: Mapping[str, str]) -> None:
    """Tell that ``op`` has, for each device type of ``kernels``, a kernel backend beside plain PyTorch."""
    _ops[op] = kernels


def registered_ops() -> tuple[str, ...]:
    """The names of all ops."""
    return tuple(_ops)


def why_not(op: str, backend: str, device_type: str) -> str | None:
    """Return the reason why ``op`` cannot run on ``backend`` with tensors of ``device_type``, or None if it can."""
    if backend == "torch":
        return None
    devices = [device for device, kernel in _ops[op].items() if kernel == backend]
    if not devices:
        return f"{op} has no {backend} kernel"
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        return "triton is not installed; mend it with: pip install triton"
    if backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        return None  # on every device, for tests
    if device_type not in devices:
        return f"{backend} takes tensors on {' or '.join(devices)}, got {device_type}"
    part = {"cpu": COMPILED, "cuda": CUDA}.get(backend)
    if part is not None and part.status != "loaded":
        return f"{part.reason}; mend it with: {part.mend}"
    return _uncovered_architecture() if backend == "cuda" else None


def _uncovered_architecture() -> str | None:
    """Why the current CUDA device cannot run what was built, or None if it can."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    archs = CUDA.facts.get("archs", [])
    device = torch.cuda.get_device_capability()
    if not archs or any(_covers(arch, device) for arch in archs):
        return None
    asked = "{}.{}".format(*device)
    built = ", ".join(archs)
    mend = f"TORCH_CUDA_ARCH_LIST={asked} {MEND_CUDA}"
    return f"the CUDA kernels were built for {built} and the device is {asked}; mend it with: {mend}"


def _covers(arch: str, device: tuple[int, int]) -> bool:
    """Machine code serves later minor versions of its major one; PTX serves every later version."""
    major, minor = (int(part) for part in arch.removesuffix("+PTX").split("."))
    return (major, minor) <= device and (arch.endswith("+PTX") or major == device[0])


def choose(op: str, device_type: str) -> str:
    """Return the backend that ``op`` takes for tensors of ``device_type``."""
    backend = _choices.get((op, device_type))
    return _resolve(op, device_type) if backend is None else backend


def _resolve(op: str, device_type: str) -> str:
    default = _ops[op].get(device_type, "torch")
    forced = _forced_backends()
    asked = forced.get(op, forced.get("*"))
    if asked not in ("torch", *_ops[op].values()):
        asked = None  # an op that by design has no such backend keeps its own
    wanted = asked or default
    reason = why_not(op, wanted, device_type)
    if reason is not None:
        if asked or os.environ.get("ADVKERN_STRICT") == "1":
            raise BackendError(f"advkern: {op} cannot run on {wanted}. {_all_reasons(op, device_type)}")
        _warn_once(op, device_type, reason)
        wanted = "torch"
    _choices[op, device_type] = wanted
    return wanted


def _all_reasons(op: str, device_type: str) -> str:
    reasons = ((backend, why_not(op, backend, device_type)) for backend in BACKENDS)
    return " ".join(f"[{backend}: {reason or 'can run'}]" for backend, reason in reasons)


def _warn_once(op: str, device_type: str, reason: str) -> None:
    if (op, device_type) not in _warned:
        _warned.add((op, device_type))
        warnings.warn(f"advkern: {op} falls back to plain PyTorch: {reason}", FallbackWarning, stacklevel=2)


def _forced_backends() -> dict[str, str]:
    global _forced
    if _forced is None:
        _forced = _parse(os.environ.get("ADVKERN_BACKEND", ""))
    return _forced


def _parse(text: str) -> dict[str, str]:
    """Read ``"torch"`` or ``"gcn_aggregate=torch,vit_attention=triton"``."""
    pairs = [item.rpartition("=") for item in text.split(",") if item.strip()]
    return _checked({(op.strip() or "*"): backend.strip() for op, _, backend in pairs}, "ADVKERN_BACKEND")


def _checked(forced: dict[str, str], argument: str) -> dict[str, str]:
    for op, backend in forced.items():
        if backend not in BACKENDS:
            raise ValueError(f"{argument}: expected a backend out of {BACKENDS}, got {backend!r}")
        if op != "*" and op not in _ops:
            raise ValueError(f"{argument}: expected an op out of {registered_ops()}, got {op!r}")
    return forced


class use_backend(AbstractContextManager["use_backend"]):
    """Choose backends for every op (``"torch"``) or some (``{"gcn_aggregate": "torch"}``) inside a ``with``.

    An op that by design has no such backend keeps its default; one that has it and cannot run it raises
    :class:`BackendError` when it is called. The choice is the process's, not the thread's, so that
    ``torch.compile`` can guard on it.
    """

    def __init__(self, backend: str | Mapping[str, str]) -> None:
        chosen = {"*": backend} if isinstance(backend, str) else dict(backend)
        self._chosen = _checked(chosen, "backend")

    def __enter__(self) -> use_backend:
        self._previous = _forced_backends()
        _force(self._previous | self._chosen if "*" not in self._chosen else self._chosen)
        return self

    def __exit__(self, *exc: object) -> None:
        _force(self._previous)


def _force(forced: dict[str, str] | None) -> None:
    """Make ``forced`` the choice (None: read the environment again); what was resolved before is forgotten."""
    global _forced, _choices
    _forced, _choices = forced, {}


def info() -> dict[str, Any]:
    """Everything a bug report should start with: versions, backends with reasons, build facts."""
    from advkern._version import __version__

    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    return {
        "version": __version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "compiled": asdict(COMPILED),
        "compiled_cuda": asdict(CUDA),
        "ops": {
            op: {device: {name: why_not(op, name, device) or "can run" for name in BACKENDS} for device in devices}
            for op in registered_ops()
        },
    }
