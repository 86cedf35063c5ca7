"""Convolutions, norms and activations one after the other; in evaluation a norm costs no pass of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from advkern.nn._hooks import is_untouched


class ConvNormSequential(nn.Sequential):
    """``nn.Sequential`` that in evaluation multiplies a norm into the weights of the convolution before it.

    ``norm(conv(x)) = conv'(x)`` with ``weight' = weight * s``, ``bias' = beta - s * mean`` and
    ``s = gamma / sqrt(var + eps)``; a SiLU behind works in place. The weights are multiplied anew in every call: that
    is little beside the images, and no change of them can be missed. It happens where no gradient is wanted, in
    float32 and float64 on the CPU, to layers that are torch's own and have no hooks, nor all modules one;
    ``torch.compile`` and ``torch.export`` see the plain layers.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers in their order."""
        if self.training or not _may_fold(x):
            return super().forward(x)
        layers: list[Any] = list(self)
        while layers:
            layer = layers.pop(0)
            if not (layers and isinstance(layer, nn.Conv2d) and isinstance(layers[0], nn.BatchNorm2d)):
                x = layer(x)
            elif not _are_plain(layer, layers[0]):
                x = layers.pop(0)(layer(x))
            else:
                x = _folded(layer, layers.pop(0), x)
                if layers and is_untouched(layers[0], nn.SiLU):
                    layers.pop(0)
                    x = functional.silu(x, inplace=True)
        return x


def _may_fold(x: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
    )


def _are_plain(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    fixed = norm.affine and norm.running_var is not None and not norm.training
    return (
        is_untouched(conv, nn.Conv2d) and is_untouched(norm, nn.BatchNorm2d) and fixed and conv.padding_mode == "zeros"
    )


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    scale = norm.weight * torch.rsqrt(var + norm.eps)
    mean = mean if conv.bias is None else mean - conv.bias
    bias = norm.bias - scale * mean
    weight = conv.weight * scale[:, None, None, None]
    return functional.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
