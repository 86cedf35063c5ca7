"""Which backends exist here, which one an op takes, and why not another."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from advkern._reinstall import reinstall

BACKENDS = ("cpu", "cuda", "triton", "torch")


class BackendError(RuntimeError):
    """A backend that was asked for cannot run; the message has the reason against each."""


class FallbackWarning(UserWarning):
    """An op runs in plain PyTorch where a kernel of its own could have run."""


@dataclass(frozen=True)
class CompiledPart:
    """A compiled library: loaded, not built (with the build's reason) or not loadable (with the loader's)."""

    status: str
    reason: str | None = None
    mend: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def _built() -> dict[str, Any]:
    """What the build left behind; a damaged report must not keep the package from loading."""
    try:
        return dict(json.loads(Path(__file__).with_name("_build.json").read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _load_compiled() -> CompiledPart:
    """Load the CPU kernels, which register themselves with torch; never raises."""
    build = _built()
    facts = build.get("facts", {})
    try:
        module = importlib.import_module("advkern._C")
    except ModuleNotFoundError:
        reason = build.get("reason") or f"no compiled part lies in {Path(__file__).parent}"
        return CompiledPart("not built", reason, build.get("mend") or reinstall("cpu"), facts)
    except (ImportError, OSError) as error:
        return CompiledPart("not loadable", f"advkern._C: {error}", reinstall("cpu"), facts)
    return CompiledPart("loaded", facts=facts | module.build_facts())


def _load_cuda(library: Path) -> CompiledPart:
    """Load the CUDA kernels, which register themselves with torch, where torch has CUDA; never raises."""
    build = _built().get("cuda", {})
    facts = build.get("facts", {})
    if not library.is_file():
        reason = build.get("reason") or f"no {library.name} lies in {library.parent}"
        return CompiledPart("not built", reason, build.get("mend") or reinstall("cuda"), facts)
    if torch.version.cuda is None:
        reason = f"{library.name}: torch {torch.__version__} has no CUDA"
        return CompiledPart("not loadable", reason, "a torch with CUDA", facts)
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return CompiledPart("not loadable", f"{library.name}: {error}", reinstall("cuda"), facts)
    return CompiledPart("loaded", facts=facts)


COMPILED = _load_compiled()
CUDA = _load_cuda(Path(__file__).with_name("_C_cuda.so"))


@dataclass(frozen=True)
class _Kernels:
    """What an op has beside plain PyTorch, and what these kernels cover; an absent entry covers everything."""

    backends: Mapping[str, str]  # device type -> its kernel backend there
    dtypes: Mapping[str, Sequence[torch.dtype]]  # by backend
    isas: Mapping[str, Sequence[str]]  # by backend


class Decision(NamedTuple):
    """What an op takes and why; no backend at all where the call is an error."""

    backend: str | None
    because: str
    fallback: bool = False


@dataclass
class Record:
    """What ops chose and what they said of themselves while :func:`recording`."""

    decisions: dict[_Key, Decision] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)  # an ordered set


_Key = tuple[str, str, torch.dtype | None]  # op, device type, dtype

_ops: dict[str, _Kernels] = {}
_asked: str = os.environ.get("ADVKERN_BACKEND", "")  # or what use_backend asks for, in the same words
_choices: dict[tuple[str, _Key], str] = {}  # by what was asked for
_warned: set[_Key] = set()
_record: Record | None = None


def register_op(
    op: str,
    kernels: Mapping[str, str],
    *,
    dtypes: Mapping[str, Sequence[torch.dtype]] | None = None,
    isas: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Tell that ``op`` has, for each device type of ``kernels``, a kernel backend beside plain PyTorch.

    ``dtypes`` and ``isas`` name, by backend, the types and the instruction sets that its kernels cover, where these
    are not all. An op with ``dtypes`` gives :func:`choose` the type of its input.
    """
    _ops[op] = _Kernels(kernels, dtypes or {}, isas or {})


def registered_ops() -> tuple[str, ...]:
    """The names of all ops."""
    return tuple(_ops)


def why_not(op: str, backend: str, device_type: str, dtype: torch.dtype | None = None) -> str | None:
    """Return the reason why ``op`` cannot run on ``backend`` with tensors of a device and type, or None if it can."""
    if backend == "torch":
        return None
    kernels = _ops[op]
    devices = [device for device, kernel in kernels.backends.items() if kernel == backend]
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
        return f"{part.status}: {part.reason}; what mends it: {part.mend}"
    return (
        _uncovered_type(kernels.dtypes.get(backend), dtype)
        or _uncovered_isa(kernels.isas.get(backend))
        or (_uncovered_architecture() if backend == "cuda" else None)
    )


def _uncovered_type(covered: Sequence[torch.dtype] | None, dtype: torch.dtype | None) -> str | None:
    if covered is None or dtype is None or dtype in covered:
        return None
    return f"type not covered: the kernel takes {', '.join(map(_name, covered))}, got {_name(dtype)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _uncovered_isa(covered: Sequence[str] | None) -> str | None:
    here = COMPILED.facts.get("isas", [])
    if covered is None or set(covered) & set(here):
        return None
    return f"instruction set not covered: the kernel needs {' or '.join(covered)}, this machine has {', '.join(here)}"


def _uncovered_architecture() -> str | None:
    """Why the current CUDA device cannot run what was built, or None if it can."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    archs = CUDA.facts.get("archs", [])
    device = torch.cuda.get_device_capability()
    if not archs or any(_covers(arch, device) for arch in archs):
        return None
    asked = "{}.{}".format(*device)
    mend = f"TORCH_CUDA_ARCH_LIST={asked} {reinstall('cuda')}"
    return f"architecture not covered: built for {', '.join(archs)}, the device is {asked}; what mends it: {mend}"


def _covers(arch: str, device: tuple[int, int]) -> bool:
    """Machine code serves later minor versions of its major one; PTX serves every later version."""
    major, minor = (int(part) for part in arch.removesuffix("+PTX").split("."))
    return (major, minor) <= device and (arch.endswith("+PTX") or major == device[0])


def choose(op: str, device_type: str, dtype: torch.dtype | None = None) -> str:
    """Return the backend that ``op`` takes for tensors of a device type and, where kernels differ in it, a dtype."""
    return _chosen(_asked, (op, device_type, dtype))


def _chosen(asked: str, key: _Key) -> str:
    backend = _choices.get((asked, key))
    return _resolve(asked, key) if backend is None else backend


# A constant of compiled code, which guards what was asked for and traces no reasons and warnings. This is what
# torch.compiler.assume_constant_result does; calling that imports torch._dynamo, as slow as torch itself.
_chosen._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a mark on the function


def _resolve(asked: str, key: _Key) -> str:
    decision = _decide(asked, *key)
    if _record is not None:
        _record.decisions[key] = decision
    elif decision.backend is None:
        raise BackendError(f"advkern: {key[0]}: {decision.because}. {_all_reasons(*key)}")
    elif decision.fallback and key not in _warned:
        _warned.add(key)
        text = f"advkern: {key[0]} falls back to plain PyTorch: {decision.because}"
        warnings.warn(text, FallbackWarning, stacklevel=4)
    return _choices.setdefault((asked, key), decision.backend or "torch")


def _decide(asked: str, op: str, device_type: str, dtype: torch.dtype | None) -> Decision:
    kernels = _ops[op].backends
    forced = _parse(asked)
    wish = forced.get(op, forced.get("*", ""))
    by_default = wish not in ("torch", *kernels.values())  # an op that by design has no such backend keeps its own
    wanted = kernels.get(device_type, "torch") if by_default else wish
    reason = why_not(op, wanted, device_type, dtype)
    if reason is None:
        because = f"the default on {device_type}" if by_default else "use_backend or ADVKERN_BACKEND asks for it"
        return Decision(wanted, because)
    if not by_default:
        return Decision(None, f"{wanted} was asked for and cannot run")
    if _strict():
        return Decision(None, f"{wanted} cannot run, and ADVKERN_STRICT allows no fallback")
    return Decision("torch", f"{wanted} cannot run: {reason}", fallback=True)


def _strict() -> bool:
    return os.environ.get("ADVKERN_STRICT", "") not in ("", "0")


def _all_reasons(op: str, device_type: str, dtype: torch.dtype | None) -> str:
    reasons = ((backend, why_not(op, backend, device_type, dtype)) for backend in BACKENDS)
    return " ".join(f"[{backend}: {reason or 'can run'}]" for backend, reason in reasons)


@contextmanager
def recording() -> Iterator[Record]:
    """Record what ops choose inside the ``with``: every choice is made anew, and none warns or raises."""
    global _record, _choices
    before = _record, _choices
    record, _choices = Record(), {}
    _record = record
    try:
        yield record
    finally:
        _record, _choices = before


def note(op: str, reason: str) -> None:
    """Let an op tell ``advkern.explain`` why this call goes one of several ways on the same backend."""
    if _record is not None:
        _record.notes[f"{op}: {reason}"] = None


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
        chosen = {"*": backend} if isinstance(backend, str) else backend
        pairs = _checked(dict(chosen), "backend").items()
        self._words = ",".join(f"{op}={name}" for op, name in pairs)
        self._for_all = "*" in chosen

    def __enter__(self) -> use_backend:
        global _asked
        self._before = _asked
        _asked = self._words if self._for_all else f"{_asked},{self._words}"  # of two words for an op the later holds
        return self

    def __exit__(self, *exc: object) -> None:
        global _asked
        _asked = self._before


def info() -> dict[str, Any]:
    """Everything a bug report should start with: versions, choices, backends with reasons, build facts."""
    from advkern._version import __version__

    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    return {
        "version": __version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "environment": {name: os.environ.get(name, "not set") for name in ("ADVKERN_BACKEND", "ADVKERN_STRICT")},
        "compiled": asdict(COMPILED),
        "compiled_cuda": asdict(CUDA),
        "ops": {op: {device: _outlook(op, device) for device in devices} for op in registered_ops()},
    }


def _outlook(op: str, device: str) -> dict[str, str]:
    """What ``op`` takes on a device, and of each backend whether it can run."""
    try:
        decision = _decide(_asked, op, device, None)
        takes = decision.backend or f"nothing: {decision.because}"
    except ValueError as error:  # of what ADVKERN_BACKEND holds
        takes = f"nothing: {error}"
    return {"takes": takes} | {name: why_not(op, name, device) or _can_run(op, name) for name in BACKENDS}


def _can_run(op: str, backend: str) -> str:
    covered = _ops[op].dtypes.get(backend)
    return f"can run {', '.join(map(_name, covered))}" if covered else "can run"
