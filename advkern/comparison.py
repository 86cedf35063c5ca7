"""``advkern.compare``: what models are for, how large they are, and what a forward of theirs costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from advkern._text import aligned, engineering
from advkern.testing import interleave, peak_allocated

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Figures:
    """The figures of one model; those of a forward are None where no inputs were given."""

    name: str
    use: str
    parameters: int
    flops: int | None  # of a forward
    seconds: float | None  # of a forward, the least of several
    peak_bytes: int | None  # by which a forward raises what torch has allocated, its outputs included


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found: ``rows`` to compute with, a table as text, a chart by :meth:`plot`."""

    rows: tuple[Figures, ...]

    def __str__(self) -> str:
        header = ("model", "use", "parameters", "FLOPs", "forward", "peak memory")
        return aligned(header, [_cells(row) for row in self.rows], left=2)

    def plot(self, ax: Axes | None = None, quantity: str = "parameters") -> Axes:
        """Draw one quantity, a field of the rows, as a bar for each model; see :func:`advkern.plots.model_sizes`.

        Raises:
            ImportError: matplotlib is missing.
            ValueError: a quantity that no row has, or that was not measured.
        """
        from advkern.plots import model_sizes

        if quantity not in _AXES:
            raise ValueError(f"quantity: expected one of {tuple(_AXES)}, got {quantity!r}")
        sizes = {row.name: getattr(row, quantity) for row in self.rows}
        if missing := [name for name, size in sizes.items() if size is None]:
            raise ValueError(f"quantity: {quantity} needs inputs of every model, and {missing[0]!r} had none")
        return model_sizes(sizes, ax, quantity=_AXES[quantity])


_BUDGET = 3.0  # seconds that timing may take beyond the fewest samples
_AXES = {
    "parameters": "parameters",
    "flops": "FLOPs of a forward",
    "seconds": "seconds a forward",
    "peak_bytes": "bytes that a forward takes at its peak",
}


def compare(
    models: Mapping[str, nn.Module | tuple[nn.Module, Any]],
    inputs: Mapping[str, Any] | None = None,
    *,
    use: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare any modules: parameters, and the FLOPs, time and peak memory of a forward in eval, without gradients.

    FLOPs are those of :class:`torch.utils.flop_counter.FlopCounterMode`, which counts matrix products, convolutions and
    attention, two for a multiplication and its addition, and by :mod:`advkern.flops` this package's ops. What is done
    elementwise counts as nothing, and so does what torch has no formula for, a product with a sparse matrix say. Times
    are the least of three to seven, equally many of each, the models in turn. Memory is what torch's allocator hands
    out during the call, at its highest, above what was there before: outputs and everything between count, parameters
    and inputs do not.

    Each part of a module is in training or eval again afterwards, as it was.

    Args:
        models: name -> a module, or a pair of a module and its inputs.
        inputs: name -> inputs of that module: a tensor, a tuple of positional arguments or a mapping of named ones. A
            model without inputs is compared by its parameters alone.
        use: name -> what the model is for, a column of the table.

    Raises:
        TypeError: no mapping, or what is no module.
        ValueError: no models, or a name in ``inputs`` or ``use`` that is none of theirs.
    """
    pairs = _pairs(models, inputs)
    for name in use or {}:
        if name not in pairs:
            raise ValueError(f"use: expected names out of {tuple(pairs)}, got {name!r}")
    calls = {name: _call(module, given) for name, (module, given) in pairs.items() if given is not None}
    with _evaluating([module for module, _ in pairs.values()]):
        times = interleave(calls, min_seconds=0.01, budget=_BUDGET)
        flops = {name: _flops(call) for name, call in calls.items()}
        peaks = {name: peak_allocated(call, _device(*pairs[name])) for name, call in calls.items()}
    rows = (
        Figures(
            name=name,
            use=(use or {}).get(name, ""),
            parameters=sum(p.numel() for p in module.parameters()),
            flops=flops.get(name),
            seconds=min(times[name]) if name in times else None,
            peak_bytes=peaks.get(name),
        )
        for name, (module, _) in pairs.items()
    )
    return Comparison(tuple(rows))


def _pairs(models: Any, inputs: Any) -> dict[str, tuple[nn.Module, Any]]:
    """Each module with its inputs, None where it has none."""
    for name, given in (("models", models), ("inputs", {} if inputs is None else inputs)):
        if not isinstance(given, Mapping):
            raise TypeError(f"{name}: expected a mapping from names, got {type(given).__name__}")
    if not models:
        raise ValueError("models: expected at least one, got none")
    for name in inputs or {}:
        if name not in models:
            raise ValueError(f"inputs: expected names out of {tuple(models)}, got {name!r}")
    pairs = {}
    for name, model in models.items():
        module, given = model if isinstance(model, tuple) and len(model) == 2 else (model, None)
        if not isinstance(module, nn.Module):
            raise TypeError(f"models: expected a module or (module, inputs) for {name!r}, got {type(module).__name__}")
        pairs[name] = module, (inputs or {}).get(name, given)
    return pairs


def _call(module: nn.Module, given: Any) -> Callable[[], Any]:
    """A forward; one on a GPU is waited for."""
    args, kwargs = ((), given) if isinstance(given, Mapping) else (given if isinstance(given, tuple) else (given,), {})
    wait = torch.cuda.synchronize if _device(module, given).type == "cuda" else lambda: None

    def call() -> Any:
        result = module(*args, **kwargs)
        wait()
        return result

    return call


@contextmanager
def _evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules into eval, without gradients; the mode of each part is as before afterwards."""
    training = {part: part.training for module in modules for part in module.modules()}
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in training.items():
            part.training = mode


def _flops(call: Callable[[], Any]) -> int:
    from advkern.flops import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _device(module: nn.Module, given: Any) -> torch.device:
    values = given.values() if isinstance(given, Mapping) else given if isinstance(given, tuple) else (given,)
    tensors = [*module.parameters(), *module.buffers(), *(value for value in values if isinstance(value, Tensor))]
    return tensors[0].device if tensors else torch.device("cpu")


def _cells(row: Figures) -> list[str]:
    return [
        row.name,
        row.use,
        engineering(row.parameters),
        "-" if row.flops is None else engineering(row.flops),
        "-" if row.seconds is None else f"{1000 * row.seconds:.3g} ms",
        "-" if row.peak_bytes is None else f"{engineering(row.peak_bytes)}B",
    ]
