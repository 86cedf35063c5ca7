"""Running the CPU kernels on another instruction set than this machine's best."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from advkern import backend


def available_isas() -> list[str]:
    """The instruction sets that the compiled part can run here, best first; none without a compiled part."""
    if backend.COMPILED.status != "loaded":
        return []
    from advkern._C import isas

    return isas()


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Let the CPU kernels use instruction set ``name`` inside the ``with``."""
    from advkern._C import isa, set_isa

    previous = isa()
    set_isa(name)
    try:
        yield
    finally:
        set_isa(previous)
