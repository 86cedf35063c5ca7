"""A transformer over image patches and text tokens in one sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advkern.nn._checks import check_probability, check_size
from advkern.nn._self_attention_maps import SelfAttentionMaps
from advkern.nn.vit import PatchEmbedding, TransformerBlock, _check_images, run_blocks


class MultimodalTransformer(nn.Module):
    """Classify an image, a text or both: one sequence, one stack of transformer blocks, mean pooling.

    ``images: [B, 3, img_size, img_size], text_ids: [B, length] -> [B, num_classes]`` logits; with
    ``return_embeddings`` the normed tokens ``[B, N, embed_dim]``, patches first, and the blocks' attention
    (:class:`SelfAttentionMaps`, computed when read).

    Args:
        vocab_size: number of token ids.
        max_seq_len: the longest text.
        vision_pos_embed: give the patches learned positions; without them, as in the tutorial, their order is lost.
        dropout: inside the blocks, in training.

    Raises:
        ValueError: a size below 1, an ``img_size`` that patches do not tile, an ``embed_dim`` that heads do not divide;
            in the call, neither images nor text, other shapes, a text that is too long, batches that differ.
    """

    def __init__(
        self,
        vocab_size: int,
        max_seq_len: int,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 512,
        depth: int = 6,
        num_heads: int = 8,
        num_classes: int = 1000,
        *,
        vision_pos_embed: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = {"vocab_size": vocab_size, "max_seq_len": max_seq_len, "depth": depth, "num_classes": num_classes}
        for name, size in sizes.items():
            check_size(name, size)
        check_probability("dropout", dropout)
        self.vision_embed = PatchEmbedding(img_size, patch_size, 3, embed_dim)
        self.text_embed = nn.Embedding(vocab_size, embed_dim)
        self.text_pos_embed = nn.Parameter(torch.zeros(1, max_seq_len, embed_dim))
        self.vision_type_embed = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.text_type_embed = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.blocks = nn.ModuleList(TransformerBlock(embed_dim, num_heads, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        self.vision_pos_embed = None
        if vision_pos_embed:
            self.vision_pos_embed = nn.Parameter(torch.zeros(1, self.vision_embed.num_patches, embed_dim))
            nn.init.trunc_normal_(self.vision_pos_embed, std=0.02)

    def forward(
        self,
        images: Tensor | None = None,  # [B, 3, img_size, img_size]
        text_ids: Tensor | None = None,  # [B, length] int32 or int64
        return_embeddings: bool = False,
        *,
        text_mask: Tensor | None = None,  # [B, length] bool: True is a token, False a pad
        need_weights: bool = True,
    ) -> Tensor | tuple[Tensor, SelfAttentionMaps | None]:
        """Return logits, or the tokens and the attention (None where ``need_weights`` is False).

        Pads are attended to by nobody and left out of the mean. Logits alone compute and keep no maps.
        """
        self._check(images, text_ids, text_mask)
        parts, seen = [], []
        if images is not None:
            vision = self.vision_embed(images) + self.vision_type_embed
            parts.append(vision if self.vision_pos_embed is None else vision + self.vision_pos_embed)
            seen.append(parts[0].new_ones(parts[0].shape[:2], dtype=torch.bool))
        if text_ids is not None:
            parts.append(self.text_embed(text_ids) + self.text_pos_embed[:, : text_ids.shape[1]] + self.text_type_embed)
            seen.append(text_mask)
        x = torch.cat(parts, dim=1)
        tokens = None if text_mask is None else torch.cat(seen, dim=1)  # [B, N]
        hidden = None if tokens is None else ~tokens
        x, maps = run_blocks(self.blocks, x, need_weights and return_embeddings, hidden)
        x = self.norm(x)
        return (x, maps) if return_embeddings else self.head(_mean(x, tokens))

    def _check(self, images: Tensor | None, text_ids: Tensor | None, text_mask: Tensor | None) -> None:
        if images is None and text_ids is None:
            raise ValueError("images, text_ids: expected at least one of them, got neither")
        if images is not None:
            _check_images("images", images, 3, self.vision_embed.img_size)
        if text_ids is None:
            if text_mask is not None:
                raise ValueError("text_mask: expected None where there are no text_ids, got a mask")
            return
        if not isinstance(text_ids, Tensor) or text_ids.dtype not in (torch.int32, torch.int64):
            kind = text_ids.dtype if isinstance(text_ids, Tensor) else type(text_ids).__name__
            raise TypeError(f"text_ids: expected a tensor of int32 or int64, got {kind}")
        longest = self.text_pos_embed.shape[1]
        if text_ids.dim() != 2 or text_ids.shape[1] > longest:
            shape = tuple(text_ids.shape)
            raise ValueError(f"text_ids: expected [B, length] with length at most {longest}, got shape {shape}")
        if images is not None and images.shape[0] != text_ids.shape[0]:
            raise ValueError(
                f"text_ids: expected as many texts as images, {images.shape[0]}, got {text_ids.shape[0]} texts"
            )
        if text_mask is not None and (text_mask.dtype != torch.bool or text_mask.shape != text_ids.shape):
            raise ValueError(
                f"text_mask: expected bool of shape {tuple(text_ids.shape)}, got {text_mask.dtype} of shape "
                f"{tuple(text_mask.shape)}"
            )


def _mean(
    x: Tensor,  # [B, N, embed_dim]
    tokens: Tensor | None,  # [B, N]
) -> Tensor:  # [B, embed_dim]
    """The mean over the tokens; 0 where there are none."""
    if tokens is None:
        return x.mean(dim=1)
    total = x.masked_fill(~tokens[:, :, None], 0).sum(dim=1)
    return total / tokens.sum(dim=1, keepdim=True).clamp(min=1)
