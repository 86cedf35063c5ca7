"""EfficientNet and its blocks (Tan and Le 2019, arXiv:1905.11946)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from advkern.nn._checks import check_probability, check_size
from advkern.nn._conv_norm import ConvNormSequential


class SqueezeExcite(nn.Module):
    """Scale each channel by what a small network reads from all channels' means.

    ``out = x * sigmoid(fc2(activation(fc1(mean(x)))))``, ``x: [B, in_channels, H, W]``, the mean over H and W.

    Args:
        squeeze_ratio: channels between the two products, as a part of ``in_channels``; at least one.
        squeeze_channels: their number itself, in place of the ratio.
        activation: makes the module between the products.

    Raises:
        ValueError: a size below 1; in the call, images of other channels.

    Hu et al. 2018, "Squeeze-and-excitation networks", arXiv:1709.01507.
    """

    def __init__(
        self,
        in_channels: int,
        squeeze_ratio: float = 0.25,
        *,
        squeeze_channels: int | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        check_size("in_channels", in_channels)
        if squeeze_channels is None:
            _check_positive("squeeze_ratio", squeeze_ratio)
            squeeze_channels = max(1, int(in_channels * squeeze_ratio))
        check_size("squeeze_channels", squeeze_channels)
        self.fc1 = nn.Conv2d(in_channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, in_channels, 1)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled images."""
        _check_images(x, self.fc1.in_channels)
        scale = _mean(x)
        scale = self.activation(self.fc1(scale))
        scale = torch.sigmoid(self.fc2(scale))
        return x * scale


class MBConvBlock(nn.Module):
    """Mobile inverted bottleneck: widen, convolve each channel by itself, squeeze and excite, project.

    ``x: [B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)]`` for odd kernels; ``x`` is
    added where both have one shape. An even kernel pads as the tutorial's, ``kernel_size // 2`` on every side (one row
    and column more), except before that addition, where it keeps the shape.

    Args:
        expand_ratio: channels inside, in multiples of ``in_channels``, rounded; 1 leaves the widening out.
        squeeze_channels: of the :class:`SqueezeExcite`; None takes a quarter of the channels inside (the paper's
            networks: a quarter of ``in_channels``).
        activation: makes every activation, that of the :class:`SqueezeExcite` too; None is SiLU, there ReLU.
        drop_path: probability of leaving a sample's whole block out in training, where ``x`` is added (stochastic
            depth, Huang et al. 2016, arXiv:1603.09382).

    Raises:
        ValueError: a size below 1, a probability outside ``[0, 1]``; in the call, images of other channels.

    Sandler et al. 2018, "MobileNetV2", arXiv:1801.04381; Tan et al. 2019, "MnasNet", arXiv:1807.11626.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expand_ratio: float,
        stride: int,
        kernel_size: int = 3,
        *,
        squeeze_channels: int | None = None,
        activation: Callable[[], nn.Module] | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "stride": stride, "kernel_size": kernel_size}
        for name, size in sizes.items():
            check_size(name, size)
        _check_positive("expand_ratio", expand_ratio)
        check_probability("drop_path", drop_path)
        hidden = round(in_channels * expand_ratio)
        if hidden < 1:
            raise ValueError(f"expand_ratio: expected at least one channel of {in_channels}, got {expand_ratio}")
        self.in_channels, self.stride = in_channels, stride
        self.use_residual = stride == 1 and in_channels == out_channels
        self.drop_path = nn.Dropout(drop_path)  # of a one for each sample

        activate = activation or nn.SiLU
        padding: Any = "same" if self.use_residual and kernel_size % 2 == 0 else kernel_size // 2
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers += [nn.Conv2d(in_channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), activate()]
        layers += [
            nn.Conv2d(hidden, hidden, kernel_size, stride, padding, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            activate(),
            SqueezeExcite(hidden, squeeze_channels=squeeze_channels, activation=activation or nn.ReLU),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = ConvNormSequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        _check_images(x, self.in_channels)
        out = self.conv(x)
        if not self.use_residual:
            return out
        if self.training and self.drop_path.p > 0:
            return torch.addcmul(x, out, self.drop_path(out.new_ones(len(out), 1, 1, 1)))
        return x + out


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
        ValueError: an unknown variant, a size below 1, a probability outside ``[0, 1]``; in the call, images of other
            channels.

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
        _check_positive("width", width)
        _check_positive("depth", depth)
        dropout = config.dropout if dropout is None else dropout
        check_probability("dropout", dropout)
        check_probability("drop_path", drop_path)
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
            norm.eps, norm.momentum = norm_eps or config.norm_eps, config.norm_momentum
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
        _check_images(x, self.in_channels)
        for part in self.features:
            x = self._run(part, x)
        return x

    def _maps(self, x: Tensor) -> list[Tensor]:
        _check_images(x, self.in_channels)
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


def _norms(module: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d))


@contextmanager
def _averages_kept(module: nn.Module) -> Iterator[None]:
    """Norms take the batch's moments as in training, and leave their running averages and count alone."""
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in _norms(module)]
    for norm, *_ in before:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count


def _mean(x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, C, 1, 1]
    """The mean over H and W, by a sum: its gradient is one number a channel, broadcast, and not a whole image."""
    if x.dtype in (torch.float16, torch.bfloat16):  # whose sums need float32 inside, as a mean has it
        return x.mean((2, 3), keepdim=True)
    return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])


def _check_positive(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a positive number, got {value}")


def _check_images(x: Tensor, channels: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor of images, got {type(x).__name__}")
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"x: expected images [B, {channels}, H, W], got shape {tuple(x.shape)}")
