"""From a file or a mapping to tensors by name. Nothing but tensors is ever unpickled."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PICKLED = (".pt", ".pth", ".bin")
SAFETENSORS = ".safetensors"
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # under these keys, training scripts keep the weights
_DEEPEST = 8  # wrappers inside wrappers
_REFUSED = re.compile(r"Unsupported global: GLOBAL (\S+)")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel, of torch.compile


class WeightsError(ValueError):
    """A checkpoint that cannot be read, or does not fit the model; the model is as it was.

    Attributes:
        report: what fits and what does not, where it came so far.
    """

    report: Any = None


def read(source: Any, own: Set[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file or a mapping for a model whose own keys are ``own``, and notes on what was unwrapped."""
    if isinstance(source, str | os.PathLike):
        name, content = os.fspath(source), _read_file(Path(source))
    elif isinstance(source, Mapping):
        name, content = "state_dict", source
    else:
        raise TypeError(f"source: expected a path or a state_dict, got {type(source).__name__}")
    content, notes = _unwrapped(content, own)
    return _checked(name, content), notes


def _read_file(path: Path) -> Any:
    if path.suffix not in (*PICKLED, SAFETENSORS):
        expected = ", ".join((*PICKLED, SAFETENSORS))
        raise WeightsError(f"{path}: expected a file whose name ends in one of {expected}")
    load = _load_safetensors if path.suffix == SAFETENSORS else _load_pickled
    path.open("rb").close()  # a file that cannot be opened says so itself
    try:
        return load(path)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # whatever the readers make of damaged bytes; OSError is among it
        raise WeightsError(f"{path}: {_explained(error)}") from error


def _explained(error: Exception) -> str:
    """What is wrong with a file, without torch's advice to load it all the same."""
    refused = _REFUSED.search(str(error))
    if refused:
        return f"expected tensors and plain containers, got a pickle that calls {refused[1]}: it could run code"
    reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition(". ")[0]
    return (
        "expected a whole file of tensors and plain containers, got one that does not read as such "
        f"({type(error).__name__}: {reason})"
    )


def _load_pickled(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _load_safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        message = f"{path}: reading it takes safetensors: pip install 'advkern[weights]'"
        raise ModuleNotFoundError(message) from error
    return load_file(path)


def _unwrapped(content: Any, own: Set[str]) -> tuple[Any, list[str]]:
    notes: list[str] = []
    while isinstance(content, Mapping) and len(notes) < _DEEPEST:  # a mapping may hold itself
        wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        prefix = next((p for p in _PREFIXES if _wrapped_in(p, content, own)), None)
        if wrapper is not None:
            notes.append(f"taken from under the key {wrapper!r}")
            content = content[wrapper]
        elif prefix is not None:
            notes.append(f"without the prefix {prefix!r} of every key")
            content = _without(prefix, content)
        else:
            break
    return content, notes


def _wrapped_in(prefix: str, content: Mapping[str, Any], own: Set[str]) -> bool:
    """Whether all keys begin so and the model, which may have such keys itself, knows more of them without."""
    if not content or not all(str(key).startswith(prefix) for key in content):
        return False
    known = own & content.keys()
    return not known or len(own & _without(prefix, content).keys()) > len(known)


def _without(prefix: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in content.items()}


def _checked(name: str, content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise WeightsError(f"{name}: expected tensors by name, got {type(content).__name__}")
    if not content:
        raise WeightsError(f"{name}: expected tensors by name, got an empty mapping")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{name}: expected tensors by name, got {type(value).__name__} at {key!r}")
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise WeightsError(f"{name}: expected dense tensors that hold values, got another kind at {key!r}")
    return dict(content)
