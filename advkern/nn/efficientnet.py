"""EfficientNet (Tan and Le 2019, arXiv:1905.11946)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from advkern.nn._checks import check_norm_eps, check_positive, check_probability, check_size
from advkern.nn._conv_norm import ConvNormSequential
from advkern.nn._mbconv import MBConvBlock, SqueezeExcite, check_images

__all__ = ["EfficientNet", "MBConvBlock", "SqueezeExcite"]


class Variant(NamedTuple):
    """One of the paper's networks: B0 scaled, and how it was trained."""

    width: float  # channels, in multiples of B0's
    depth: float  # blocks, in multiples of B0's
    resolution: int  # of the images it was trained on, pixels a side
    dropout: float  # before the classifier
    norm_eps: float = 1e-5  # these two as in torchvision, whose weights then give the same numbers
    norm_momentum: float = 0.1


VARIANTS = {
    "b0": Variant(1.0, 1.0, 224, 0.2),
    "b1": Variant(1.0, 1.1, 240, 0.2),
    "b2": Variant(1.1, 1.2, 260, 0.3),
    "b3": Variant(1.2, 1.4, 300, 0.3),
    "b4": Variant(1.4, 1.8, 380, 0.4),
    "b5": Variant(1.6, 2.2, 456, 0.4, 1e-3, 0.01),
    "b6": Variant(1.8, 2.6, 528, 0.5, 1e-3, 0.01),
    "b7": Variant(2.0, 3.1, 600, 0.5, 1e-3, 0.01),
}


class _Stage(NamedTuple):
    """Blocks of one size; the first takes the stride and changes the channels."""

    expand_ratio: int
    kernel_size: int
    stride: int
    channels: int
    blocks: int


_STEM_CHANNELS = 32
_STAGES = (  # of B0: the paper's table 1
    _Stage(1, 3, 1, 16, 1),
    _Stage(6, 3, 2, 24, 2),
    _Stage(6, 5, 2, 40, 2),
    _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3),
    _Stage(6, 5, 2, 192, 4),
    _Stage(6, 3, 1, 320, 1),
)
_HEAD_RATIO = 4  # channels of the head, in multiples of the last stage's


class EfficientNet(nn.Module):
    """The paper's networks B0 to B7, for images of any size.

    ``x: [B, in_channels, H, W] -> [B, num_classes]`` logits; ``[B, num_features]`` pooled features where
    ``num_classes`` is 0; a list of five maps, of 1/2, 1/4, 1/8, 1/16 and 1/32 of H and W and of ``feature_channels``
    channels, with ``features_only``. Parameters are named as in torchvision outside the blocks (``features.N``,
    ``classifier.1``) and as in the tutorial inside (``conv.N``).

    Args:
        variant: "b0" ... "b7"; ``resolution`` is the image size it was made for.
        features_only: leave out the head and the classifier and return the maps.
        dropout: before the classifier; None is the variant's, 0.2 to 0.5.
        drop_path: stochastic depth of the last block; it grows linearly from 0 at the first, ``drop_path * block /
            blocks``.
        width, depth: other multiples of B0's channels and blocks than the variant's.
        norm_eps: what the norms add to the variance; None is torchvision's, 1e-5, from B5 on 1e-3.
        gradient_checkpointing: in training keep only each block's input and run its forward again in the backward.
            Ignored under ``torch.compile``, which chooses itself what to compute again.

    Raises:
        ValueError: an unknown variant, a size below 1, a probability outside ``[0, 1]``, a negative ``norm_eps``; in
            the call, images of other channels.

    Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", arXiv:1905.11946.
    """

    def __init__(
        self,
        variant: str,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        features_only: bool = False,
        dropout: float | None = None,
        drop_path: float = 0.2,
        width: float | None = None,
        depth: float | None = None,
        norm_eps: float | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.variant, config = find_variant(variant)
        check_size("in_channels", in_channels)
        width = config.width if width is None else width
        depth = config.depth if depth is None else depth
        check_positive("width", width)
        check_positive("depth", depth)
        dropout = config.dropout if dropout is None else dropout
        check_probability("dropout", dropout)
        check_probability("drop_path", drop_path)
        norm_eps = config.norm_eps if norm_eps is None else norm_eps
        check_norm_eps(norm_eps)
        self.in_channels, self.resolution = in_channels, config.resolution
        self.features_only, self.gradient_checkpointing = features_only, gradient_checkpointing

        channels = _scaled_channels(_STEM_CHANNELS, width)
        self.features = nn.Sequential(_conv_norm(in_channels, channels, 3, stride=2))
        total, before = sum(_scaled_blocks(stage, depth) for stage in _STAGES), 0
        for stage in _STAGES:
            count = _scaled_blocks(stage, depth)
            drops = [drop_path * (before + i) / total for i in range(count)]
            self.features.append(_stage(stage, channels, _scaled_channels(stage.channels, width), drops))
            channels, before = _scaled_channels(stage.channels, width), before + count
        self.num_features = _HEAD_RATIO * channels
        if not features_only:
            self.features.append(_conv_norm(channels, self.num_features, 1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Identity())
        _initialize(self.features)
        for norm in _norms(self.features):
            norm.eps, norm.momentum = norm_eps, config.norm_momentum
        self.reset_classifier(0 if features_only else num_classes)

    @property
    def feature_channels(self) -> list[int]:
        """Channels of the maps that ``features_only`` returns."""
        stages: Any = self.features
        return [stages[index][-1].conv[-1].num_features for index in _last_stages()]

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new classifier of that many classes in place; 0 returns the pooled features themselves.

        The parameters are replaced: call it before an optimiser is made.
        """
        if num_classes != 0:
            check_size("num_classes", num_classes)
        self.num_classes = num_classes
        old = next(self.features.parameters())
        self.classifier[1] = (
            _linear(self.num_features, num_classes).to(old.device, old.dtype) if num_classes else nn.Identity()
        )

    def forward(self, x: Tensor) -> Any:
        """Return the logits; the list of maps with ``features_only``."""
        if self.features_only:
            return self._maps(x)
        return self.classifier(self.forward_features(x).mean((2, 3)))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map, ``[B, num_features, ceil(H / 32), ceil(W / 32)]``, before the pool."""
        check_images(x, self.in_channels)
        for part in self.features:
            x = self._run(part, x)
        return x

    def _maps(self, x: Tensor) -> list[Tensor]:
        check_images(x, self.in_channels)
        maps = []
        for index, part in enumerate(self.features):
            x = self._run(part, x)
            if index in _last_stages():
                maps.append(x)
        return maps

    def _run(self, part: nn.Module, x: Tensor) -> Tensor:
        if not (self.gradient_checkpointing and self.training) or torch.compiler.is_compiling():
            return part(x)
        blocks = list(part.children())
        for block in blocks if isinstance(blocks[0], MBConvBlock) else [part]:
            # the norms have seen the batch in the first run: the second must not move their averages again
            contexts = lambda block=block: (nullcontext(), _averages_kept(block))
            x = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
        return x


def find_variant(variant: str) -> tuple[str, Variant]:
    """The name in lower case and its entry in ``VARIANTS``; raise where there is none."""
    if not isinstance(variant, str):
        raise TypeError(f'variant: expected one of "b0" ... "b7", got {variant!r}')
    name = variant.lower()
    if name not in VARIANTS:
        raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, got {variant!r}")
    return name, VARIANTS[name]


def efficientnet_b0(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> EfficientNet:
    """:class:`EfficientNet` "b0": 5.3 M parameters, made for images of 224 pixels."""
    return EfficientNet("b0", num_classes, in_channels, **options)


def efficientnet_b1(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> EfficientNet:
    """:class:`EfficientNet` "b1": 7.8 M parameters, made for images of 240 pixels."""
    return EfficientNet("b1", num_classes, in_channels, **options)


def efficientnet_b2(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> EfficientNet:
    """:class:`EfficientNet` "b2": 9.1 M parameters, made for images of 260 pixels."""
    return EfficientNet("b2", num_classes, in_channels, **options)


def efficientnet_b3(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> EfficientNet:
    """:class:`EfficientNet` "b3": 12.2 M parameters, made for images of 300 pixels."""
    return EfficientNet("b3", num_classes, in_channels, **options)


def efficientnet_b4(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> EfficientNet:
    """:class:`EfficientNet` "b4": 19.3 M parameters, made for images of 380 pixels."""
    return EfficientNet("b4", num_classes, in_channels, **options)


def efficientnet_b5(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> EfficientNet:
    """:class:`EfficientNet` "b5": 30.4 M parameters, made for images of 456 pixels."""
    return EfficientNet("b5", num_classes, in_channels, **options)


def efficientnet_b6(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> EfficientNet:
    """:class:`EfficientNet` "b6": 43.0 M parameters, made for images of 528 pixels."""
    return EfficientNet("b6", num_classes, in_channels, **options)


def efficientnet_b7(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> EfficientNet:
    """:class:`EfficientNet` "b7": 66.3 M parameters, made for images of 600 pixels."""
    return EfficientNet("b7", num_classes, in_channels, **options)


def _scaled_channels(channels: int, width: float) -> int:
    """The nearest multiple of 8, one further where that would lose more than a tenth."""
    wanted = channels * width
    scaled = max(8, int(wanted + 4) // 8 * 8)
    return scaled if scaled >= 0.9 * wanted else scaled + 8


def _scaled_blocks(stage: _Stage, depth: float) -> int:
    return math.ceil(stage.blocks * depth)


def _last_stages() -> list[int]:
    """Where in ``features`` the images have one size for the last time."""
    return [i for i in range(1, len(_STAGES)) if _STAGES[i].stride > 1] + [len(_STAGES)]


def _stage(stage: _Stage, in_channels: int, out_channels: int, drops: list[float]) -> nn.Sequential:
    blocks = nn.Sequential()
    for i, drop in enumerate(drops):
        channels, stride = (in_channels, stage.stride) if i == 0 else (out_channels, 1)
        block = MBConvBlock(
            channels,
            out_channels,
            stage.expand_ratio,
            stride,
            stage.kernel_size,
            squeeze_channels=max(1, channels // 4),
            activation=nn.SiLU,
            drop_path=drop,
        )
        blocks.append(block)
    return blocks


def _conv_norm(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> ConvNormSequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return ConvNormSequential(conv, nn.BatchNorm2d(out_channels), nn.SiLU())


def _linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    bound = out_features**-0.5
    nn.init.uniform_(linear.weight, -bound, bound)
    nn.init.zeros_(linear.bias)
    return linear


def _initialize(features: nn.Module) -> None:
    """Normal weights whose variance is 2 over the outputs that one input reaches."""
    for conv in features.modules():
        if isinstance(conv, nn.Conv2d):
            reached = conv.out_channels * math.prod(conv.kernel_size) // conv.groups
            nn.init.normal_(conv.weight, std=math.sqrt(2 / reached))
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)


def _norms(module: nn.Module) -> Iterator[nn.BatchNorm2d | nn.SyncBatchNorm]:
    return (norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm))


@contextmanager
def _averages_kept(module: nn.Module) -> Iterator[None]:
    """Norms take the batch's moments as in training, and leave their running averages and count alone."""
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in _norms(module)]
    for norm, _, count in before:
        norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
