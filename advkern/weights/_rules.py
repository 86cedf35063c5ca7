"""What a format of checkpoints is: which of its tensors hold which of ours, in a table that is read both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

State = Mapping[str, Tensor]
Convert = Callable[[list[Tensor]], list[Tensor]]


def unchanged(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors themselves: only their names differ."""
    return tensors


def transposed(tensors: list[Tensor]) -> list[Tensor]:
    """Each matrix transposed."""
    return [tensor.t() for tensor in tensors]


@dataclass(frozen=True)
class Rule:
    """Tensors that belong together: what they are called there and here, and how each side is made of the other."""

    theirs: list[str]
    ours: list[str]
    to_theirs: Convert = unchanged
    to_ours: Convert = unchanged


def as_it_is(state: State) -> tuple[dict[str, Tensor], list[str]]:
    """A checkpoint that has the table's names."""
    return dict(state), []


@dataclass(frozen=True)
class Format:
    """The checkpoints of one library for one of our models.

    Attributes:
        name: what :func:`load_pretrained` and the others call it.
        model: the type of ours that it fits.
        rules: the table for a model of that type.
        prepare: brings the library's other names to those of the table; and what it has to say of it.
        notes: what else must be the same for equal outputs, and no checkpoint says.
        refusal: why the library has nothing equal to a model of these options, if so.
    """

    name: str
    model: type[nn.Module]
    rules: Callable[[Any], Iterable[Rule]]
    prepare: Callable[[State], tuple[dict[str, Tensor], list[str]]] = as_it_is
    notes: Callable[[Any], list[str]] = lambda model: []
    refusal: Callable[[Any], str | None] = lambda model: None


def module_rules(model: nn.Module, names: Iterable[tuple[str, str]]) -> Iterator[Rule]:
    """A rule for every tensor of the modules (or the tensor itself) that ``names`` pairs: theirs, ours."""
    keys = list(model.state_dict())
    for theirs, ours in names:
        for key in keys:
            if key == ours or key.startswith(f"{ours}."):
                yield Rule([theirs + key.removeprefix(ours)], [key])


def to_theirs(rules: Iterable[Rule], state: State) -> dict[str, Tensor]:
    """Our tensors under their names and in their shapes."""
    converted: dict[str, Tensor] = {}
    for rule in rules:
        converted |= zip(rule.theirs, rule.to_theirs([state[key] for key in rule.ours]), strict=True)
    return converted


def to_ours(rules: Iterable[Rule], state: State) -> dict[str, Tensor]:
    """The reverse; rules of which a tensor is absent are left out."""
    converted: dict[str, Tensor] = {}
    for rule in rules:
        if all(key in state for key in rule.theirs):
            converted |= zip(rule.ours, rule.to_ours([state[key] for key in rule.theirs]), strict=True)
    return converted
