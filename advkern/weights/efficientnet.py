"""EfficientNets: timm's and torchvision's names for the parts of :class:`advkern.nn.EfficientNet`.

Values and shapes are the same everywhere. Ours are named as torchvision's outside the blocks and as the tutorial's
inside, where the layers are numbered through; those without weights are counted too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from advkern.nn import EfficientNet
from advkern.nn.efficientnet import VARIANTS
from advkern.weights._rules import Format, Rule, module_rules

Names = tuple[tuple[str, str], ...]  # theirs, ours

_TIMM: Names = (
    ("conv_stem", "features.0.0"),
    ("bn1", "features.0.1"),
    ("conv_head", "features.8.0"),
    ("bn2", "features.8.1"),
    ("classifier", "classifier.1"),
)
_TIMM_BLOCK: Names = (
    ("conv_pw", "conv.0"),
    ("bn1", "conv.1"),
    ("conv_dw", "conv.3"),
    ("bn2", "conv.4"),
    ("se.conv_reduce", "conv.6.fc1"),
    ("se.conv_expand", "conv.6.fc2"),
    ("conv_pwl", "conv.7"),
    ("bn3", "conv.8"),
)
_TIMM_BLOCK_NOT_WIDENED: Names = (
    ("conv_dw", "conv.0"),
    ("bn1", "conv.1"),
    ("se.conv_reduce", "conv.3.fc1"),
    ("se.conv_expand", "conv.3.fc2"),
    ("conv_pw", "conv.4"),
    ("bn2", "conv.5"),
)
_TORCHVISION: Names = (
    ("features.0", "features.0"),
    ("features.8", "features.8"),
    ("classifier.1", "classifier.1"),
)
_TORCHVISION_BLOCK: Names = (
    ("block.0.0", "conv.0"),
    ("block.0.1", "conv.1"),
    ("block.1.0", "conv.3"),
    ("block.1.1", "conv.4"),
    ("block.2", "conv.6"),
    ("block.3.0", "conv.7"),
    ("block.3.1", "conv.8"),
)
_TORCHVISION_BLOCK_NOT_WIDENED: Names = (
    ("block.0.0", "conv.0"),
    ("block.0.1", "conv.1"),
    ("block.1", "conv.3"),
    ("block.2.0", "conv.4"),
    ("block.2.1", "conv.5"),
)
_LAYERS_NOT_WIDENED = 6
_STAGES = range(1, 8)  # of `features`; before them comes the stem, after them the head


def _timm_rules(model: nn.Module) -> Iterator[Rule]:
    blocks = _blocks(model, lambda stage, i: f"blocks.{stage - 1}.{i}", _TIMM_BLOCK, _TIMM_BLOCK_NOT_WIDENED)
    return module_rules(model, [*_TIMM, *blocks])


def _torchvision_rules(model: nn.Module) -> Iterator[Rule]:
    names = _TORCHVISION_BLOCK, _TORCHVISION_BLOCK_NOT_WIDENED
    return module_rules(model, [*_TORCHVISION, *_blocks(model, lambda stage, i: f"features.{stage}.{i}", *names)])


def _blocks(
    model: Any, theirs: Callable[[int, int], str], widened: Names, not_widened: Names
) -> Iterator[tuple[str, str]]:
    for stage in _STAGES:
        for i, block in enumerate(model.features[stage]):
            for a, b in widened if len(block.conv) > _LAYERS_NOT_WIDENED else not_widened:
                yield f"{theirs(stage, i)}.{a}", f"features.{stage}.{i}.{b}"


def _timm_notes(model: Any) -> list[str]:
    return _eps_notes(model, "timm", 1e-5)


def _torchvision_notes(model: Any) -> list[str]:
    return _eps_notes(model, "torchvision", VARIANTS[model.variant].norm_eps)


def _eps_notes(model: Any, library: str, theirs: float) -> list[str]:
    ours = model.features[0][1].eps
    if ours == theirs:
        return []
    return [f"{library}'s norms have eps {theirs:g} in {model.variant}, this model's {ours:g} (norm_eps)"]


FORMATS = (
    Format("timm", EfficientNet, _timm_rules, notes=_timm_notes),
    Format("torchvision", EfficientNet, _torchvision_rules, notes=_torchvision_notes),
)
