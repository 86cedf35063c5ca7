"""Vision transformers: timm's and torchvision's names for the parts of :class:`advkern.nn.VisionTransformer`.

All three keep q, k and v in one matrix in the same order. The patches' projection is a convolution there,
``[embed_dim, C, P, P]``, and a matrix ``[embed_dim, P * P * C]`` here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from advkern.nn import VisionTransformer
from advkern.weights._rules import Format, Rule, State, module_rules

# theirs, ours
_TIMM = (
    ("cls_token", "cls_token"),
    ("pos_embed", "pos_embed"),
    ("patch_embed.proj.bias", "patch_embed.projection.1.bias"),
    ("norm", "norm"),
    ("head", "head"),
)
_TIMM_BLOCK = (
    ("norm1", "norm1"),
    ("attn.qkv", "attn.qkv"),
    ("attn.proj", "attn.proj"),
    ("norm2", "norm2"),
    ("mlp.fc1", "mlp.0"),
    ("mlp.fc2", "mlp.3"),
)
_TORCHVISION = (
    ("class_token", "cls_token"),
    ("encoder.pos_embedding", "pos_embed"),
    ("conv_proj.bias", "patch_embed.projection.1.bias"),
    ("encoder.ln", "norm"),
    ("heads.head", "head"),
)
_TORCHVISION_BLOCK = (
    ("ln_1", "norm1"),
    ("self_attention.in_proj_weight", "attn.qkv.weight"),
    ("self_attention.in_proj_bias", "attn.qkv.bias"),
    ("self_attention.out_proj", "attn.proj"),
    ("ln_2", "norm2"),
    ("mlp.0", "mlp.0"),
    ("mlp.3", "mlp.3"),
)
_TORCHVISION_BEFORE_0_13 = ((".mlp.linear_1.", ".mlp.0."), (".mlp.linear_2.", ".mlp.3."))  # its published files too
_NORM_EPS = 1e-6  # of both libraries' networks


def _timm_rules(model: nn.Module) -> Iterator[Rule]:
    yield _patches(model, "patch_embed.proj.weight")
    yield from module_rules(model, [*_TIMM, *_blocks(model, "blocks.{}", _TIMM_BLOCK)])


def _torchvision_rules(model: nn.Module) -> Iterator[Rule]:
    yield _patches(model, "conv_proj.weight")
    names = _blocks(model, "encoder.layers.encoder_layer_{}", _TORCHVISION_BLOCK)
    yield from module_rules(model, [*_TORCHVISION, *names])


def _blocks(model: Any, theirs: str, names: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(f"{theirs.format(i)}.{a}", f"blocks.{i}.{b}") for i in range(len(model.blocks)) for a, b in names]


def _patches(model: Any, theirs: str) -> Rule:
    size = model.patch_embed.patch_size

    def to_convolution(tensors: list[Tensor]) -> list[Tensor]:
        return [weight.unflatten(1, (size, size, -1)).permute(0, 3, 1, 2) for weight in tensors]

    def to_matrix(tensors: list[Tensor]) -> list[Tensor]:
        return [weight.permute(0, 2, 3, 1).flatten(1) for weight in tensors]

    return Rule([theirs], ["patch_embed.projection.1.weight"], to_convolution, to_matrix)


def _with_present_names(state: State) -> tuple[dict[str, Tensor], list[str]]:
    renamed = {}
    for key, tensor in state.items():
        present = key
        for old, new in _TORCHVISION_BEFORE_0_13:
            present = present.replace(old, new)
        renamed[key if present in state else present] = tensor
    return renamed, []


def _notes(model: nn.Module) -> list[str]:
    eps = {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)}
    if eps == {_NORM_EPS}:
        return []
    found = ", ".join(f"{value:g}" for value in sorted(eps))
    return [f"the networks of timm and torchvision have norms with eps {_NORM_EPS:g}, this model {found} (norm_eps)"]


FORMATS = (
    Format("timm", VisionTransformer, _timm_rules, notes=_notes),
    Format("torchvision", VisionTransformer, _torchvision_rules, _with_present_names, _notes),
)
