"""EfficientNet's blocks: mobile inverted bottlenecks with squeeze and excitation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from advkern.nn._checks import check_positive, check_probability, check_size
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
            check_positive("squeeze_ratio", squeeze_ratio)
            squeeze_channels = max(1, int(in_channels * squeeze_ratio))
        check_size("squeeze_channels", squeeze_channels)
        self.fc1 = nn.Conv2d(in_channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, in_channels, 1)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled images."""
        check_images(x, self.fc1.in_channels)
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
        check_positive("expand_ratio", expand_ratio)
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
        check_images(x, self.in_channels)
        out = self.conv(x)
        if not self.use_residual:
            return out
        if self.training and self.drop_path.p > 0:
            return torch.addcmul(x, out, self.drop_path(out.new_ones(len(out), 1, 1, 1)))
        return x + out


def _mean(x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, C, 1, 1]
    """The mean over H and W, by a sum: its gradient is one number a channel, broadcast, and not a whole image."""
    if x.dtype in (torch.float16, torch.bfloat16):  # whose sums need float32 inside, as a mean has it
        return x.mean((2, 3), keepdim=True)
    return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])


def check_images(x: Tensor, channels: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor of images, got {type(x).__name__}")
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"x: expected images [B, {channels}, H, W], got shape {tuple(x.shape)}")
