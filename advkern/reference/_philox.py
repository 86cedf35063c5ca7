"""Dropout by counter: Philox4x32-10, in plain PyTorch.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". The words are 32 bits wide and stand in int64; the
kernels compute the same ones (``csrc/common/philox.h``), so every backend draws the same mask from the same seed.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def philox(
    counter: tuple[Tensor | int, Tensor | int, Tensor | int, Tensor | int],  # words, of shapes that broadcast
    seed: Tensor,  # [1] int64: the key, its low word first
) -> Tensor:  # [..., 4]
    """Return the four random words of each counter."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*(torch.as_tensor(c, device=seed.device) for c in counter))
    keys = [seed & _WORD, (seed >> 32) & _WORD]
    for _ in range(_ROUNDS):
        high0, low0 = _product(c0, _MULTIPLIERS[0])
        high1, low1 = _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ keys[0], low1, high0 ^ c3 ^ keys[1], low0
        keys = [(key + step) & _WORD for key, step in zip(keys, _KEY_STEPS, strict=True)]
    return torch.stack([c0, c1, c2, c3], dim=-1)


def _product(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """The high and the low word of a product, which in int64 may wrap, but keeps its 64 bits."""
    product = word * multiplier
    return (product >> 32) & _WORD, product & _WORD


def half_words(words: Tensor) -> Tensor:  # [..., n] -> [..., 2 n]
    """Split words into half-words of 16 bits, the low one first."""
    return torch.stack([words & 0xFFFF, words >> 16], dim=-1).flatten(-2)


def threshold(p: float, bits: int) -> int:
    """Return the number T of ``bits`` bits for which a random number is below T with probability ``p``."""
    return round(p * 2**bits)


def keep_factor(
    random: Tensor,  # numbers of so many bits
    threshold: int,
    bits: int,
    dtype: torch.dtype,
) -> Tensor:
    """Return what dropout multiplies with: 0 where the number is below the threshold, ``2^b / (2^b - T)`` elsewhere."""
    kept = 2**bits - threshold
    scale = 2**bits / kept if kept else 0.0
    return (random >= threshold).to(dtype) * scale
