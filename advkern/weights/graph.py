"""Graph networks: PyTorch Geometric's stacks of ``GCNConv`` and ``GATConv`` and our GCN and GAT.

Its layers keep a matrix transposed, and all heads of an attention in one: ``lin.weight [heads * F, in]``, ``att_dst``
and ``att_src [1, heads, F]``. Ours keep the tutorial's: per head ``W [in, F]`` and ``a [2 F, 1]``, whose first half
scores the node that attends, and the second the one attended to. Our :class:`advkern.nn.GCNConv` and
:class:`advkern.nn.GATConv` have PyTorch Geometric's keys already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from advkern.nn import GAT, GCN, GraphAttentionLayer, GraphConvolutionLayer
from advkern.weights._rules import Format, Rule, State, transposed

_NAME = "pyg"
_LAYER = re.compile(r"(.*?)(\d+)\.lin\.weight")  # "convs.0.", "conv1.", "0.": the one matrix that every layer has


def _convolution(theirs: str, ours: str, layer: Any) -> Iterator[Rule]:
    yield Rule([f"{theirs}lin.weight"], [f"{ours}weight"], transposed, transposed)
    if layer.bias is not None:
        yield Rule([f"{theirs}bias"], [f"{ours}bias"])


def _attention(theirs: str, ours: list[str]) -> Rule:
    """One layer of theirs, as many modules of ours as it has heads."""
    heads = len(ours)

    def joined(tensors: list[Tensor]) -> list[Tensor]:
        weights, scores = tensors[:heads], torch.stack(tensors[heads:])  # [heads, 2 F, 1]
        att = scores.unflatten(1, (2, -1)).squeeze(3).transpose(0, 1)
        return [torch.cat(transposed(weights)), att[:1], att[1:]]

    def split(tensors: list[Tensor]) -> list[Tensor]:
        weight, *att = tensors
        scores = torch.cat(att).transpose(0, 1).flatten(1).unsqueeze(2)
        return [*transposed(list(weight.unflatten(0, (heads, -1)))), *scores]

    names = [f"{theirs}{name}" for name in ("lin.weight", "att_dst", "att_src")]
    return Rule(names, [f"{head}{name}" for name in ("W", "a") for head in ours], joined, split)


def _gcn_rules(model: Any) -> Iterator[Rule]:
    for i, layer in enumerate(model.layers):
        yield from _convolution(f"convs.{i}.", f"layers.{i}.", layer)


def _gat_rules(model: Any) -> Iterator[Rule]:
    yield _attention("convs.0.", [f"attention_heads.{k}." for k in range(len(model.attention_heads))])
    yield _attention("convs.1.", ["out_att."])


def _convolution_rules(layer: nn.Module) -> Iterable[Rule]:
    return _convolution("", "", layer)


def _attention_rules(layer: nn.Module) -> Iterable[Rule]:
    return [_attention("", [""])]


def _numbered(state: State) -> dict[str, Tensor]:
    """Layers that are called by a number ("conv1", "conv2") under the names of PyTorch Geometric's own models."""
    found = [match.groups() for match in map(_LAYER.fullmatch, state) if match]
    if len({stem for stem, _ in found}) != 1:
        return dict(state)
    before = [f"{stem}{number}." for stem, number in sorted(found, key=lambda layer: int(layer[1]))]
    renamed = {}
    for key, tensor in state.items():
        layer = next((i for i, prefix in enumerate(before) if key.startswith(prefix)), None)
        renamed[key if layer is None else f"convs.{layer}.{key.removeprefix(before[layer])}"] = tensor
    return renamed


def _stack_of_convolutions(state: State) -> tuple[dict[str, Tensor], list[str]]:
    return _numbered(state), []


def _stack_of_attentions(state: State) -> tuple[dict[str, Tensor], list[str]]:
    return _without_bias(_numbered(state))


def _without_bias(state: State) -> tuple[dict[str, Tensor], list[str]]:
    """Our attention has no bias: one of zeros can go, another cannot be converted and is reported as unexpected."""
    biases = [key for key in state if key.rpartition(".")[2] == "bias"]
    zeros = [key for key in biases if not state[key].any()]
    notes = [f"{key}: zeros, left out as our graph attention has no bias" for key in zeros]
    notes += [f"{key}: not convertible, as our graph attention has no bias" for key in biases if key not in zeros]
    return {key: tensor for key, tensor in state.items() if key not in zeros}, notes


def _options(layer: Any) -> str:
    return f"normalize={layer.normalize == 'sym'}, add_self_loops={layer.add_self_loops}"


def _convolution_refusal(layer: Any) -> str | None:
    if layer.normalize == "row" or (layer.normalize is None and layer.add_self_loops):
        options = f"normalize={layer.normalize!r}, add_self_loops={layer.add_self_loops}"
        return f"no GCNConv computes what {type(layer).__name__} does with {options}"
    return None


def _gcn_refusal(model: Any) -> str | None:
    return next(filter(None, map(_convolution_refusal, model.layers)), None)


def _attention_note(layer: Any) -> str:
    return f"equal to elu(GATConv(..., negative_slope={layer.alpha:g}, add_self_loops=False, bias=False))"


FORMATS = (
    Format(
        _NAME,
        GCN,
        _gcn_rules,
        _stack_of_convolutions,
        lambda model: [f"equal to log_softmax of GCN(..., {_options(model.layers[0])})"],
        _gcn_refusal,
    ),
    Format(
        _NAME,
        GraphConvolutionLayer,
        _convolution_rules,
        notes=lambda layer: [f"equal to GCNConv(..., {_options(layer)})"],
        refusal=_convolution_refusal,
    ),
    Format(
        _NAME,
        GAT,
        _gat_rules,
        _stack_of_attentions,
        lambda model: [f"each layer is {_attention_note(model.out_att)}, log_softmax follows the last"],
    ),
    Format(_NAME, GraphAttentionLayer, _attention_rules, _without_bias, lambda layer: [_attention_note(layer)]),
)
