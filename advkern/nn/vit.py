"""The vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from advkern.nn._checks import check_norm_eps, check_probability, check_size
from advkern.nn._linear import LinearSequential, is_plain_linear, linear, run_linear
from advkern.nn._self_attention_maps import SelfAttentionMap, SelfAttentionMaps, self_attention_map
from advkern.ops.vit_attention import vit_attention


class _Patches(nn.Module):
    """``[B, C, H, W] -> [B, patches, patch_size * patch_size * C]``: what the projection's weights are ordered by."""

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size

    def forward(self, x: Tensor) -> Tensor:
        p = self.patch_size
        return x.unflatten(3, (-1, p)).unflatten(2, (-1, p)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


class PatchEmbedding(nn.Module):
    """Cut an image into patches and project each linearly.

    ``x: [B, in_channels, img_size, img_size] -> [B, num_patches, embed_dim]``, row by row. The projection's weights are
    the tutorial's, ``[embed_dim, patch_size * patch_size * in_channels]``, but applied as a convolution, which copies
    no patches.

    Raises:
        ValueError: a size below 1, an ``img_size`` that patches do not tile; in the call, an image of another size.
    """

    def __init__(self, img_size: int = 224, patch_size: int = 16, in_channels: int = 3, embed_dim: int = 768) -> None:
        super().__init__()
        sizes = {"img_size": img_size, "patch_size": patch_size, "in_channels": in_channels, "embed_dim": embed_dim}
        for name, size in sizes.items():
            check_size(name, size)
        if img_size % patch_size:
            raise ValueError(f"img_size: expected a multiple of patch_size = {patch_size}, got {img_size}")
        self.img_size, self.patch_size = img_size, patch_size
        self.num_patches = (img_size // patch_size) ** 2
        self.projection = nn.Sequential(_Patches(patch_size), nn.Linear(patch_size**2 * in_channels, embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedded patches."""
        linear: Any = self.projection[1]
        p, channels = self.patch_size, linear.in_features // self.patch_size**2
        _check_images("x", x, channels, self.img_size)
        weight = linear.weight.unflatten(1, (p, p, channels)).permute(0, 3, 1, 2)
        return nn.functional.conv2d(x, weight, linear.bias, stride=p).flatten(2).transpose(1, 2)


class MultiHeadSelfAttention(nn.Module):
    """Self-attention with ``num_heads`` heads, between two linear maps.

    ``x: [B, N, embed_dim] -> ([B, N, embed_dim], attention [B, num_heads, N, N])``. The attention is a
    :class:`SelfAttentionMap`: nothing of N x N exists until it is read. It is taken before dropout.

    Args:
        embed_dim: channels, a multiple of ``num_heads``.
        dropout: probability of dropping an attention weight, and an output feature, in training.

    Raises:
        ValueError: a size below 1, an ``embed_dim`` that heads do not divide, a dropout outside ``[0, 1]``; in the
            call, shapes that do not fit.

    Vaswani et al. 2017, arXiv:1706.03762.
    """

    def __init__(self, embed_dim: int, num_heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        check_size("embed_dim", embed_dim)
        check_size("num_heads", num_heads)
        check_probability("dropout", dropout)
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim: expected a multiple of num_heads = {num_heads}, got {embed_dim}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.qkv = nn.Linear(embed_dim, embed_dim * 3)
        self.attention_dropout = nn.Dropout(dropout)  # its probability and mode; the kernel draws the mask
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,  # [B, N, embed_dim]
        *,
        need_weights: bool = True,
        key_padding_mask: Tensor | None = None,  # [B, N] bool: True is ignored
    ) -> tuple[Tensor, SelfAttentionMap | None]:
        """Return the output and the attention; None in its place where ``need_weights`` is False."""
        _check_sequence(x, self.embed_dim)
        qkv, q, k = _projections(self, x, need_weights)
        drop = self.attention_dropout
        out: Any = vit_attention(qkv, dropout=drop.p, training=drop.training, key_padding_mask=key_padding_mask)
        attention = self_attention_map(q, k, key_padding_mask, self.head_dim**-0.5) if need_weights else None
        return self.proj_dropout(run_linear(self.proj, out.flatten(2))), attention


def _projections(
    attention: Any,  # a MultiHeadSelfAttention, or the tutorial's, which `convert` lends its forward
    x: Tensor,  # [B, N, embed_dim]
    need_weights: bool,
) -> tuple[Any, Tensor, Tensor]:  # twice [B, N, num_heads, head_dim]
    """What :func:`vit_attention` takes, and the queries and keys in it.

    It is packed, but the values apart where a map will keep queries and keys, and no backward keeps them all.
    """
    layer, sizes, width = attention.qkv, (attention.num_heads, attention.head_dim), attention.embed_dim
    if not need_weights or torch.is_grad_enabled() or not is_plain_linear(layer):
        qkv = run_linear(layer, x).unflatten(-1, (3, *sizes))
        return qkv, *qkv.unbind(2)[:2]
    kept, dropped = slice(2 * width), slice(2 * width, None)
    biases = (None, None) if layer.bias is None else (layer.bias[kept], layer.bias[dropped])
    q, k = linear(x, layer.weight[kept], biases[0]).unflatten(-1, (2, *sizes)).unbind(2)
    v = linear(x, layer.weight[dropped], biases[1]).unflatten(-1, sizes)
    return (q, k, v), q, k


class TransformerBlock(nn.Module):
    """A pre-norm transformer block: ``x + attention(norm(x))``, then ``x + mlp(norm(x))`` with GELU.

    ``x: [B, N, embed_dim] -> ([B, N, embed_dim], attention)``, as :class:`MultiHeadSelfAttention`, whose arguments and
    errors it shares.

    Args:
        mlp_ratio: hidden channels of the MLP, in multiples of ``embed_dim``.
        norm_eps: what the norms add to the variance.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        *,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        check_norm_eps(norm_eps)
        hidden = int(embed_dim * mlp_ratio)
        if hidden < 1:
            raise ValueError(f"mlp_ratio: expected at least one hidden channel of {embed_dim}, got {mlp_ratio}")
        self.norm1 = nn.LayerNorm(embed_dim, norm_eps)
        self.attn = MultiHeadSelfAttention(embed_dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(embed_dim, norm_eps)
        self.mlp = LinearSequential(
            nn.Linear(embed_dim, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, embed_dim),
            nn.Dropout(dropout),
        )

    def forward(
        self,
        x: Tensor,  # [B, N, embed_dim]
        *,
        need_weights: bool = True,
        key_padding_mask: Tensor | None = None,  # [B, N] bool: True is ignored
    ) -> tuple[Tensor, SelfAttentionMap | None]:
        """Return the output and the attention; None in its place where ``need_weights`` is False."""
        out, attention = self.attn(self.norm1(x), need_weights=need_weights, key_padding_mask=key_padding_mask)
        x = x + out
        return x + self.mlp(self.norm2(x)), attention


class VisionTransformer(nn.Module):
    """A vision transformer with a class token and learned positions.

    ``x: [B, in_channels, img_size, img_size] -> ([B, num_classes] logits, maps)`` with ``maps`` a list with one
    attention map ``[B, num_heads, N, N]`` a block, N = patches + 1 (:class:`SelfAttentionMaps`), computed when read.

    Args:
        dropout: in training, of the embedded patches and inside the blocks.
        norm_eps: what the norms add to the variance.
        gradient_checkpointing: in training keep only each block's input and run its forward again in the backward;
            it asks for ``need_weights=False``.

    Raises:
        ValueError: a size below 1, an ``img_size`` that patches do not tile, an ``embed_dim`` that heads do not divide,
            a dropout outside ``[0, 1]``; in the call, an image of another size.

    Dosovitskiy et al. 2021, "An image is worth 16x16 words", arXiv:2010.11929.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        *,
        dropout: float = 0.1,
        norm_eps: float = 1e-5,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_size("num_classes", num_classes)
        check_size("depth", depth)
        check_probability("dropout", dropout)
        self.patch_embed = PatchEmbedding(img_size, patch_size, in_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches + 1, embed_dim))
        self.pos_drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, dropout=dropout, norm_eps=norm_eps) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, norm_eps)
        self.head = nn.Linear(embed_dim, num_classes)
        self.gradient_checkpointing = gradient_checkpointing
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: Tensor, *, need_weights: bool = True) -> tuple[Tensor, SelfAttentionMaps | None]:
        """Return the logits and the blocks' attention; None in its place where ``need_weights`` is False."""
        x, maps = self._features(x, need_weights)
        return self.head(x[:, 0]), maps

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the normed tokens ``[B, patches + 1, embed_dim]``, the class token first."""
        return self._features(x, need_weights=False)[0]

    def _features(self, x: Tensor, need_weights: bool) -> tuple[Tensor, SelfAttentionMaps | None]:
        x = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.pos_drop(x + self.pos_embed)
        x, maps = run_blocks(self.blocks, x, need_weights, None, self.gradient_checkpointing and self.training)
        return self.norm(x), maps

    @torch.no_grad()
    def resize(self, img_size: int) -> VisionTransformer:
        """Take images of another size from now on; the patches' positions are interpolated (bicubic). Returns self.

        The parameter ``pos_embed`` is replaced: call it before an optimiser is made.
        """
        embed = self.patch_embed
        resized = PatchEmbedding(img_size, embed.patch_size, 1, 1)  # checks the size
        positions = resized_positions(self.pos_embed, resized.num_patches)
        self.pos_embed = nn.Parameter(positions, requires_grad=self.pos_embed.requires_grad)
        embed.img_size, embed.num_patches = img_size, resized.num_patches
        return self


def resized_positions(
    positions: Tensor,  # [1, 1 + n * n, D], the class token's first
    num_patches: int,  # m * m
) -> Tensor:  # [1, 1 + m * m, D]
    """Interpolate the patches' positions (bicubic) to another number of patches; the class token keeps its own."""
    cls, grid = positions[:, :1], positions[:, 1:]
    before, after = math.isqrt(grid.shape[1]), math.isqrt(num_patches)
    image = grid.transpose(1, 2).unflatten(2, (before, before))
    image = nn.functional.interpolate(image.float(), (after, after), mode="bicubic", antialias=True).to(grid.dtype)
    return torch.cat((cls, image.flatten(2).transpose(1, 2)), dim=1)


def run_blocks(
    blocks: nn.ModuleList,
    x: Tensor,  # [B, N, embed_dim]
    need_weights: bool,
    key_padding_mask: Tensor | None = None,  # [B, N]
    checkpointing: bool = False,
) -> tuple[Tensor, SelfAttentionMaps | None]:
    """Run transformer blocks one after the other and collect their attention."""
    if checkpointing and need_weights:
        raise ValueError("need_weights: expected False, as gradient checkpointing keeps nothing of a block, got True")
    maps = []
    for block in blocks:
        if checkpointing:
            x, _ = checkpoint(block, x, need_weights=False, key_padding_mask=key_padding_mask, use_reentrant=False)
            continue
        x, attention = block(x, need_weights=need_weights, key_padding_mask=key_padding_mask)
        maps.append(attention)
    return x, SelfAttentionMaps(maps) if need_weights else None


def _check_images(name: str, x: Tensor, channels: int, size: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor of images, got {type(x).__name__}")
    if x.dim() != 4 or x.shape[1] != channels or x.shape[2] != size or x.shape[3] != size:
        raise ValueError(f"{name}: expected images [B, {channels}, {size}, {size}], got shape {tuple(x.shape)}")


def _check_sequence(x: Tensor, channels: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    if x.dim() != 3 or x.shape[2] != channels:
        raise ValueError(f"x: expected [B, N, {channels}], got shape {tuple(x.shape)}")
