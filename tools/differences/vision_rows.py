"""Vision transformer, EfficientNet and multimodal transformer."""

from __future__ import annotations

import math
from typing import Any

import torch
from rows import Watch, refusal, rows_of, sums
from torch import Tensor, nn

import advkern

# -- vision transformer --------------------------------------------------------------------------------------------

vit = rows_of("Vision transformer")
SMALL = {"img_size": 32, "patch_size": 4, "num_classes": 10, "embed_dim": 48, "depth": 2, "num_heads": 4}


@vit
def vit_maps(lib: Any) -> str:
    """attention maps in training, dropout 0.1

    Taken before dropout.
    """
    maps = lib.VisionTransformer(**SMALL)(torch.randn(4, 3, 32, 32))[1]
    return sums(maps[0])


@vit
def vit_forward(lib: Any) -> str:
    """tensors of N x N made by the forward of two blocks, maps unread"""
    model, x = lib.VisionTransformer(**SMALL).eval(), torch.randn(4, 3, 32, 32)
    with torch.no_grad(), Watch() as watch:
        model(x)
    return str(sum(shape[-2:] == (65, 65) and len(shape) > 2 for _, shape in watch.seen))


@vit
def other_image(lib: Any) -> str:
    """an image of 64 x 16 pixels, given to a model of 32 x 32

    `resize()` takes a model to another size.
    """
    return f"logits {list(lib.VisionTransformer(**SMALL)(torch.randn(1, 3, 64, 16))[0].shape)}"


@vit
def untiled(lib: Any) -> str:
    """`img_size=30`, `patch_size=4`"""
    return refusal(
        lambda: lib.VisionTransformer(**SMALL | {"img_size": 30}), lambda model: model(torch.randn(1, 3, 30, 30))
    )


@vit
def large_scores(lib: Any) -> str:
    """float16, queries and keys of 80 in a head of 64 channels

    Scaled before the product and summed in float32, the scores stay in range.
    """
    attention = lib.MultiHeadSelfAttention(64, 1).half().eval()
    with torch.no_grad():
        attention.qkv.weight.zero_()
        attention.qkv.bias.copy_(torch.tensor([80.0, 80.0, 1.0]).repeat_interleave(64))
        out = attention(torch.zeros(1, 4, 64, dtype=torch.float16))[0]
    return "finite" if bool(out.isfinite().all()) else "NaN"


@vit
def patches(lib: Any) -> str:
    """copies of all patches made by `PatchEmbedding`

    The same weights, applied as a convolution.
    """
    embed, x = lib.PatchEmbedding(32, 4, 3, 16), torch.randn(2, 3, 32, 32)
    with torch.no_grad(), Watch() as watch:
        embed(x)
    return str(sum(name == "aten::clone" and math.prod(shape) == x.numel() for name, shape in watch.seen))


# -- EfficientNet --------------------------------------------------------------------------------------------------

efficientnet = rows_of("EfficientNet")


@efficientnet
def squeeze(lib: Any) -> str:
    """channels that `MBConvBlock(16, 24, 6, 2)` squeezes to

    A quarter of the widened 96, kept. The networks take a quarter of the 16 before, as the paper.
    """
    found = [m for m in lib.MBConvBlock(16, 24, 6, 2).modules() if type(m).__name__ == "SqueezeExcite"]
    return str(found[0].fc1.out_channels)


@efficientnet
def network(lib: Any) -> str:
    """parameters of B0, built of these blocks

    Stem, stages and head of the paper's table 1. The tutorial's block squeezes to up to six times as many channels.
    """
    if lib is advkern.nn:
        return f"{sum(p.numel() for p in lib.efficientnet_b0().parameters()):,}"
    stages = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3))
    stages += ((6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1))
    parts: list[nn.Module] = [nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32)]
    before = 32
    for ratio, kernel, stride, channels, blocks in stages:
        for k in range(blocks):
            parts.append(lib.MBConvBlock(before, channels, ratio, 1 if k else stride, kernel))
            before = channels
    parts += [nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.Linear(1280, 1000)]
    return f"{sum(p.numel() for part in parts for p in part.parameters()):,}"


@efficientnet
def fraction(lib: Any) -> str:
    """`expand_ratio=1.5`

    Channels are rounded.
    """
    return f"output {list(lib.MBConvBlock(16, 16, 1.5, 1)(torch.randn(2, 16, 8, 8)).shape)}"


@efficientnet
def even(lib: Any) -> str:
    """`kernel_size=4` in a block with a residual

    Padded so as to keep the shape; elsewhere as the tutorial's, one row and column more.
    """
    return f"output {list(lib.MBConvBlock(16, 16, 2, 1, kernel_size=4)(torch.randn(2, 16, 8, 8)).shape)}"


@efficientnet
def norms(lib: Any) -> str:
    """batch norms that a block of three runs in evaluation, without gradients

    On a CPU in float32 and float64 they are multiplied into the weights in every call, the same but for rounding;
    layers with hooks run as they are.
    """
    block = lib.MBConvBlock(16, 24, 6, 2).eval()
    with torch.no_grad(), Watch() as watch:
        block(torch.randn(1, 16, 8, 8))
    return str(sum("batch_norm" in name for name, _ in watch.seen))


@efficientnet
def relative(lib: Any) -> str:
    """parameters of B7, in multiples of B0's

    The tutorial's formula knows the resolution, parameters do not. `calculate_scaled_params` keeps it,
    `compound_scaling` counts.
    """
    if lib is advkern.nn:
        return f"{lib.compound_scaling('b7')['relative_params']:.1f}"
    return f"{lib.calculate_scaled_params(*lib.efficientnet_configs['B7'])['relative_params']:.1f}"


@efficientnet
def resolution(lib: Any) -> str:
    """resolution of B7, pixels

    The paper's in `compound_scaling`, the tutorial's kept in `calculate_scaled_params`.
    """
    if lib is advkern.nn:
        return str(lib.compound_scaling("b7")["resolution"])
    return str(lib.calculate_scaled_params(*lib.efficientnet_configs["B7"])["resolution"])


# -- multimodal ----------------------------------------------------------------------------------------------------

multimodal = rows_of("Multimodal transformer")


def small(lib: Any) -> Any:
    """A model of 16 patches and up to 24 words."""
    return lib.MultimodalTransformer(100, 24, img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=4).eval()


def shift(a: Tensor, b: Tensor) -> str:
    """The largest change of a logit, nothing below rounding."""
    change = (a - b).abs().max().item()
    return f"{change:.2f}" if change > 1e-4 else "0"


@multimodal
def neither(lib: Any) -> str:
    """neither image nor text"""
    return str(small(lib)())


@multimodal
def long_text(lib: Any) -> str:
    """a text of 30 words for 24 places"""
    return str(small(lib)(text_ids=torch.zeros(1, 30, dtype=torch.long)).shape)


@multimodal
def batches(lib: Any) -> str:
    """two images and three texts"""
    return str(small(lib)(torch.randn(2, 3, 16, 16), torch.zeros(3, 8, dtype=torch.long)).shape)


@multimodal
def pads(lib: Any) -> str:
    """8 pads after a text of 8 words: largest change of a logit

    With `text_mask`; without it they count as in the tutorial.
    """
    model, text = small(lib), torch.randint(1, 100, (1, 8))
    padded = nn.functional.pad(text, (0, 8))
    mask = {"text_mask": padded > 0} if lib is advkern.nn else {}
    return shift(model(text_ids=padded, **mask), model(text_ids=text))


@multimodal
def order(lib: Any) -> str:
    """shuffled patches: largest change of a logit

    Kept. `vision_pos_embed=True` gives the patches positions.
    """
    model, x = small(lib), torch.randn(1, 3, 16, 16)
    shuffled = x.roll(4, dims=3)  # by a patch
    return shift(model(shuffled), model(x))


@multimodal
def unreturned(lib: Any) -> str:
    """tensors of N x N made where only logits are asked for"""
    model, x = small(lib), torch.randn(2, 3, 16, 16)
    with torch.no_grad(), Watch() as watch:
        model(x)
    return str(sum(shape[-2:] == (16, 16) and len(shape) == 4 and shape[1] == 4 for _, shape in watch.seen))
