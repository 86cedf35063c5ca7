"""``advkern::seed``: the random number from which an op's dropout follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# An op of its own, so that whatever repeats or traces a forward (checkpointing, the compiler) sees the draw; and a
# tensor, so that a kernel reads it from memory and nothing waits for the device.
torch.library.define("advkern::seed", "(Tensor like) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
_LEAST, _END = -(2**63), 2**63 - 1


@torch.library.impl("advkern::seed", "CompositeExplicitAutograd")
def _seed(like):
    return torch.randint(_LEAST, _END, (1,), dtype=torch.int64, device=like.device)


@torch.library.register_fake("advkern::seed")
def _seed_fake(like):
    return like.new_empty(1, dtype=torch.int64)


@torch.library.register_vmap("advkern::seed")
def _seed_vmap(info: Any, in_dims: tuple[int | None, ...], like: Tensor) -> tuple[Tensor, int | None]:
    """One seed for all entries or one each, as ``vmap(randomness=...)`` asks; by default vmap refuses randomness."""
    if info.randomness == "error":
        raise RuntimeError(
            'vmap: dropout draws a random seed: expected randomness="same" or randomness="different", got "error"'
        )
    if info.randomness == "same":
        return seed(like), None
    return torch.cat([seed(like) for _ in range(info.batch_size)])[:, None], 0


def seed(
    like: Tensor,  # of any shape: only its device counts
) -> Tensor:  # [1] int64
    """Draw a seed of 64 bits from the generator of ``like``'s device."""
    return torch.ops.advkern.seed.default(like)
