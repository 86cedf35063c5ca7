"""A vision transformer on handwritten digits, beside the tutorial's own formula with its N x N maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from advkern import plots
from advkern.demo.data import digit_images
from advkern.demo.picture import Figure, Picture
from advkern.demo.runner import Contender, Experiment, Result
from advkern.nn import VisionTransformer

PATCH = 2  # pixels: 16 patches of an image of 8 x 8
EMBED_DIM, DEPTH, NUM_HEADS = 48, 2, 4


def experiments(device: torch.device) -> list[Experiment]:
    """The digit of an image of 8 x 8 pixels; one image in four is tested."""
    data = digit_images().to(device)
    sizes = (8, PATCH, 1, len(data.classes), EMBED_DIM, DEPTH, NUM_HEADS)
    return [
        Experiment(
            model="ViT",
            data=data,
            op="vit_attention",
            ours=Contender(
                build=lambda: placed(VisionTransformer(*sizes), "pos_embed"),
                scores=lambda model, rows: model(data.features[rows], need_weights=False)[0],
            ),
            twin=Contender(
                build=lambda: placed(EagerVisionTransformer(*sizes), "pos_embed"),
                scores=lambda model, rows: model(data.features[rows])[0],
            ),
            epochs=6,
            batch_size=32,
            learning_rate=0.003,
            cooling=True,
            weight_decay=0.0,
            loss=nn.functional.cross_entropy,
            pictures=pictures,
        )
    ]


def placed(model: nn.Module, positions: str) -> nn.Module:
    """Let learned positions start as large as the embedded patches: at the usual 0.02 they take most of the epochs."""
    nn.init.normal_(model.get_parameter(positions), std=0.5)
    return model


def pictures(result: Result) -> list[Picture]:
    """A tested image of each digit, cut into patches, and the class token's attention to those."""
    model, data = result.ours[0].model, result.experiment.data
    rows = torch.stack([data.test[data.labels[data.test] == digit][0] for digit in range(len(data.classes))])
    with torch.no_grad():
        logits, maps = model.eval()(data.features[rows])
    attention = maps[-1].cls().mean(dim=1).cpu()  # [10, patches + 1]
    images, found = data.features[rows, 0].cpu(), logits.argmax(dim=1).tolist()
    patches = attention.shape[1] - 1

    def draw_patches(k: int, ax: Any) -> None:
        plots.patch_grid(images[k], PATCH, ax, cmap="gray_r").set_title(data.classes[k])

    def draw_attention(k: int, ax: Any) -> None:
        plots.class_token_attention(images[k], attention[k], ax, cmap="gray_r").set_title(f"taken for {found[k]}")

    quarter = attention[:, 1:].topk(patches // 4).values.sum() / attention[:, 1:].sum()
    return [
        Picture(
            name="vit_patches",
            title=f"An image is a sequence of {patches} patches",
            caption=f"Each image of {images.shape[-1]} x {images.shape[-2]} pixels is cut along the lines into patches "
            f"of {PATCH} x {PATCH}. The vision transformer sees them as {patches} tokens beside a class token, one "
            "after another, and learns where each stands.",
            draw=lambda: _ten(draw_patches),
        ),
        Picture(
            name="vit_class_token",
            title="What the class token attends to",
            caption="The stronger the tint, the more of its attention the class token pays that patch, in the last "
            "block and as the mean of its heads. The quarter of the patches that it prefers gets "
            f"{quarter:.0%} of what goes to patches, where an even share were 25%.",
            draw=lambda: _ten(draw_attention),
        ),
    ]


def _ten(draw: Callable[[int, Any], None]) -> Figure:
    figure = Figure(figsize=(6.8, 3.5), layout="constrained")
    for k, ax in enumerate(figure.subplots(2, 5).flat):
        draw(k, ax)
    return figure


class EagerPatchEmbedding(nn.Module):
    """A linear map of each patch, whose pixels stand row by row with their channels innermost."""

    def __init__(self, img_size: int, patch_size: int, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.num_patches = (img_size // patch_size) ** 2
        self.projection = nn.Sequential(nn.Identity(), nn.Linear(patch_size**2 * in_channels, embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Embed the patches of ``x: [B, C, H, W]``, row by row: ``[B, num_patches, embed_dim]``."""
        p = self.patch_size
        patches = x.unfold(2, p, p).unfold(3, p, p)  # [B, C, H / p, W / p, p, p]
        return self.projection(patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2))


class EagerSelfAttention(nn.Module):
    """``dropout(softmax(q k^T / sqrt(dim))) v`` for each head, with every weight in memory."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.attention_dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and the map ``[B, num_heads, N, N]``, after dropout as in the tutorial."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, N, dim]
        weights = ((q @ k.mT) * q.shape[-1] ** -0.5).softmax(dim=-1)
        weights = self.attention_dropout(weights)
        out = (weights @ v).transpose(1, 2).flatten(2)
        return self.proj_dropout(self.proj(out)), weights


class EagerBlock(nn.Module):
    """Attention and an MLP, each after a norm and beside a residual."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attn = EagerSelfAttention(embed_dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        wide, narrow = nn.Linear(embed_dim, 4 * embed_dim), nn.Linear(4 * embed_dim, embed_dim)
        self.mlp = nn.Sequential(wide, nn.GELU(), nn.Dropout(dropout), narrow, nn.Dropout(dropout))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens ``[B, N, embed_dim]`` and the map."""
        out, weights = self.attn(self.norm1(x))
        x = x + out
        return x + self.mlp(self.norm2(x)), weights


class EagerVisionTransformer(nn.Module):
    """The tutorial's vision transformer; its weights have the names of ``advkern.nn.VisionTransformer``'s."""

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_channels: int,
        num_classes: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
    ) -> None:
        super().__init__()
        self.patch_embed = EagerPatchEmbedding(img_size, patch_size, in_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches + 1, embed_dim))
        self.pos_drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(EagerBlock(embed_dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits ``[B, num_classes]`` and the map of every block."""
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)), dim=1)
        x = self.pos_drop(x + self.pos_embed)
        maps = []
        for block in self.blocks:
            x, weights = block(x)
            maps.append(weights)
        return self.head(self.norm(x)[:, 0]), maps
