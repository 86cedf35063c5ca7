"""Weights of other libraries into our models and back; everything is checked before the model is touched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from advkern.nn import VisionTransformer
from advkern.nn.vit import resized_positions
from advkern.weights import efficientnet, graph, vit
from advkern.weights._read import WeightsError, read
from advkern.weights._rules import Format, Rule, State, to_ours, to_theirs

_OWN = Format("advkern", nn.Module, lambda model: [Rule([key], [key]) for key in model.state_dict()])
_FORMATS = (_OWN, *vit.FORMATS, *efficientnet.FORMATS, *graph.FORMATS)


@dataclass(frozen=True)
class Mismatch:
    """A tensor of the checkpoint that does not fit: its shape and type, and those that the model has there."""

    key: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.key}: {self.found} in the checkpoint, {self.expected} in the model"


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint has of a model's weights. Keys are the source's own.

    Attributes:
        source: "advkern" (the model's own keys), "timm", "torchvision" or "pyg".
        matched: keys that were loaded (that fit, where nothing was).
        missing: keys that the model needs and the checkpoint lacks.
        unexpected: keys of the checkpoint that the model has no place for.
        mismatched: keys of another shape.
        notes: what was unwrapped, resized, or must be equal beside the weights for equal outputs.
    """

    source: str
    matched: list[str]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[Mismatch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether model and checkpoint have the same weights, all of them."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.matched)} matched"]
        for name in ("missing", "unexpected", "mismatched"):
            entries = getattr(self, name)
            lines += [f"  {name} ({len(entries)}):", *(f"    {entry}" for entry in entries)] if entries else []
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def load_pretrained(
    model: nn.Module,
    source: str | PathLike[str] | Mapping[str, Any],
    *,
    strict: bool = True,
    resize_positions: bool = False,
) -> LoadReport:
    """Load a checkpoint of ours, timm, torchvision or PyTorch Geometric, whichever it is, into a model.

    Files are read safely: nothing but tensors is unpickled. Whatever goes wrong, the model is as it was before.

    Args:
        model: a model of ``advkern.nn``; with its own keys any module.
        source: a ``.pt``, ``.pth`` or ``.bin`` file, a ``.safetensors`` file, or a ``state_dict``; the usual wrappers
            (``{"state_dict": ...}``, ``"module."`` before every key) are taken off.
        strict: raise unless every tensor has its counterpart; with False load those that have one.
        resize_positions: interpolate (bicubic) a vision transformer's positions from another image size.

    Raises:
        WeightsError: (a ValueError) a file that is no checkpoint of tensors, or whose tensors do not fit the model;
            its ``report`` says which.
        TypeError: a model that is no module, a source that is neither path nor mapping.
        OSError: a file that cannot be opened.
    """
    _check_model(model)
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ValueError("model: expected one that can hold values, got parameters on the meta device")
    state, notes = read(source, model.state_dict().keys())
    with torch.no_grad():
        ours, report = _matched(model, state, _recognised(model, state), notes, resize_positions)
        if not report.matched or (strict and not report.complete):
            raise _error(model, report)
        model.load_state_dict({**model.state_dict(), **ours})
    return report


def import_state_dict(model: nn.Module, state_dict: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The weights of a peer's ``state_dict`` under the keys and in the shapes of ``model``, which stays as it is.

    Args:
        source: "timm", "torchvision", "pyg" or "advkern".

    Raises:
        WeightsError: (a ValueError) tensors that do not fit the model.
        ValueError: a source that does not exist for such a model.
    """
    _check_model(model)
    state, notes = read(state_dict, model.state_dict().keys())
    with torch.no_grad():
        ours, report = _matched(model, state, _format(model, "source", source), notes)
    if not report.complete:
        raise _error(model, report)
    return {key: ours[key].contiguous() for key in model.state_dict()}


def export_state_dict(model: nn.Module, target: str) -> dict[str, Tensor]:
    """The weights of ``model`` under the keys and in the shapes of its peer in another library.

    Args:
        target: "timm", "torchvision", "pyg" or "advkern".

    Raises:
        ValueError: a target that does not exist for such a model.
        WeightsError: (a ValueError) options of the model that have no counterpart there.
    """
    _check_model(model)
    entry = _format(model, "target", target)
    _check_equal(model, entry)
    with torch.no_grad():
        return {key: value.contiguous() for key, value in to_theirs(entry.rules(model), model.state_dict()).items()}


def _formats(model: nn.Module) -> list[Format]:
    return [entry for entry in _FORMATS if isinstance(model, entry.model)]


def _format(model: nn.Module, argument: str, name: str) -> Format:
    entries = {entry.name: entry for entry in _formats(model)}
    if name not in entries:
        expected = ", ".join(map(repr, entries))
        raise ValueError(f"{argument}: expected one of {expected} for {type(model).__name__}, got {name!r}")
    return entries[name]


def _recognised(model: nn.Module, state: State) -> Format:
    """The format under which the checkpoint has the most of what the model needs."""
    return max(_formats(model), key=lambda entry: len(_expected(model, entry).keys() & entry.prepare(state)[0].keys()))


def _expected(model: nn.Module, entry: Format) -> dict[str, Tensor]:
    """The peer's state dict, without values."""
    return to_theirs(entry.rules(model), {key: value.to("meta") for key, value in model.state_dict().items()})


def _matched(
    model: nn.Module, state: State, entry: Format, notes: list[str], resize_positions: bool = False
) -> tuple[dict[str, Tensor], LoadReport]:
    """What fits, under our keys, and what the report says of it."""
    _check_equal(model, entry)
    rules, expected = list(entry.rules(model)), _expected(model, entry)
    state, prepared = entry.prepare(state)
    notes = [*notes, *prepared, *entry.notes(model)]
    if resize_positions:
        state, resized = _with_positions_resized(model, rules, state)
        notes += resized
    mismatched = [
        Mismatch(key, _described(state[key]), _described(tensor))
        for key, tensor in expected.items()
        if key in state and not _fits(state[key], tensor)
    ]
    wrong = {mismatch.key for mismatch in mismatched}
    fitting = {key: state[key] for key in expected if key in state and key not in wrong}
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    ours = to_ours(rules, fitting)
    loaded = [key for rule in rules if rule.ours[0] in ours for key in rule.theirs]
    notes += [f"{key}: fits, but is of no use without its partners" for key in fitting if key not in loaded]
    return ours, LoadReport(entry.name, loaded, missing, unexpected, mismatched, notes)


def _check_equal(model: nn.Module, entry: Format) -> None:
    refusal = entry.refusal(model)
    if refusal is not None:
        raise WeightsError(f"{entry.name}: {refusal}")


def _fits(tensor: Tensor, expected: Tensor) -> bool:
    return tensor.shape == expected.shape and tensor.is_floating_point() == expected.is_floating_point()


def _described(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _with_positions_resized(model: nn.Module, rules: list[Rule], state: State) -> tuple[dict[str, Tensor], list[str]]:
    if not isinstance(model, VisionTransformer):
        raise ValueError(
            f"resize_positions: expected False for {type(model).__name__}, which has no positions, got True"
        )
    key = next(rule.theirs[0] for rule in rules if rule.ours == ["pos_embed"])
    found, count = state.get(key), model.pos_embed.shape[1]
    if found is None or found.dim() != 3 or found.shape[1] == count or not _is_square(found.shape[1] - 1):
        return dict(state), []
    note = f"{key}: {found.shape[1]} positions interpolated to {count}"
    return {**state, key: resized_positions(found, count - 1)}, [note]


def _is_square(n: int) -> bool:
    return n > 0 and math.isqrt(n) ** 2 == n


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")


def _error(model: nn.Module, report: LoadReport) -> WeightsError:
    name = type(model).__name__
    if report.matched:
        what = f"does not fit {name} (strict=False loads what does)"
    elif report.mismatched:
        what = f"has nothing that fits {name}: other sizes"
    else:
        names = ", ".join(entry.name for entry in _formats(model))
        what = f"has nothing of {name}, by the keys of {names}: another architecture"
    error = WeightsError(f"the checkpoint {what}\n{report}")
    error.report = report
    return error
