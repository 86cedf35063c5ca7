"""Whole vision transformers beside the tutorial's formula and timm's: forward and training step, time and memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advkern.demo.vit import EagerVisionTransformer
from advkern.nn import VisionTransformer
from advkern.testing import peak_memory
from advkern.testing.peers import import_peer

# embed_dim, depth, num_heads of patches of 16 x 16
SIZES = {"ViT-S/16": (384, 12, 6), "ViT-B/16": (768, 12, 12)}
CLASSES, DROPOUT = 1000, 0.1
BATCH, PIXELS = 8, 224


def model(name: str, size: str = "ViT-S/16", pixels: int = PIXELS) -> nn.Module:
    """``advkern``, ``tutorial`` (the demo's twin, which the tests hold to the tutorial) or ``timm``, dropout included.

    All from the same random numbers, which gives the first two the same weights.
    """
    torch.manual_seed(0)
    shape = SIZES[size]
    if name != "timm":
        kind = {"advkern": VisionTransformer, "tutorial": EagerVisionTransformer}[name]
        return kind(pixels, 16, 3, CLASSES, *shape)
    options = dict(zip(("embed_dim", "depth", "num_heads"), shape, strict=True))
    drops = dict.fromkeys(("pos_drop_rate", "proj_drop_rate", "attn_drop_rate"), DROPOUT)
    norm = partial(nn.LayerNorm, eps=1e-5)
    return import_peer("timm.models").VisionTransformer(pixels, norm_layer=norm, **options, **drops)


def forward(name: str, net: nn.Module, reads: bool) -> Callable[[Tensor], Tensor]:
    """The images' logits, and where it ``reads`` the whole map of the last block, kept to the end of the call."""

    def ours(x: Tensor) -> Tensor:
        logits, maps = net(x, need_weights=reads)
        return seen(logits, maps) if reads else logits

    def tutorials(x: Tensor) -> Tensor:
        logits, maps = net(x)
        return seen(logits, maps) if reads else logits

    return {"advkern": ours, "tutorial": tutorials, "timm": net}[name]


def seen(logits: Tensor, maps: list[Tensor]) -> Tensor:
    """The logits, once a number has been computed of the last map."""
    assert torch.isfinite(maps[-1].amax())
    return logits


def training_step(call: Callable[[Tensor], Tensor], net: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """Forward, backward and AdamW."""
    optimizer = torch.optim.AdamW(net.train().parameters(), lr=1e-4)

    def step(x: Tensor, labels: Tensor) -> None:
        nn.functional.cross_entropy(call(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def images(batch: int, pixels: int = PIXELS) -> tuple[Tensor, Tensor]:
    """Images and their labels."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, pixels, pixels, generator=generator), torch.arange(batch)


def peers(reads: bool) -> list[str]:
    """Whom to compare: timm, where it is there, gives no maps."""
    names = ["advkern", "tutorial"]
    if not reads:
        try:
            model("timm")
            names.append("timm")
        except ImportError:
            pass
    return names


def told(work: str, reads: bool) -> str:
    return f"{work}, one map of twelve read" if reads else work


reading = pytest.mark.parametrize("reads", [False, True], ids=["", "reading"])


@reading
def bench_forward(compare, threads, reads):
    """Inference; the two of the same weights are checked against each other in float64."""
    x, _ = images(BATCH)
    nets = {name: model(name).eval() for name in peers(reads)}
    wide = model("tutorial").eval().double()

    def call(name):
        with torch.no_grad():
            return forward(name, nets[name], reads)(x)

    with torch.no_grad():
        truth = wide(x.double())[0]
    errors = {name: float((call(name).double() - truth).abs().max() / truth.abs().max()) for name in nets}
    errors.pop("timm", None)  # other weights
    assert max(errors.values()) < 1e-5
    candidates = {name: lambda name=name: call(name) for name in nets}
    compare(candidates, rounds=3, work=told("forward", reads), graph="ViT-S/16", threads=threads, output_errors=errors)


@reading
def bench_training(compare, threads, reads):
    """Forward, backward and AdamW; gradients are compared in the tests."""
    batch = images(BATCH)
    nets = {name: model(name) for name in peers(reads)}
    steps = {name: training_step(forward(name, net, reads), net) for name, net in nets.items()}
    candidates = {name: lambda step=step: step(*batch) for name, step in steps.items()}
    compare(candidates, rounds=2, work=told("training step", reads), graph="ViT-S/16", threads=threads)


MEASURED = """
import sys, torch
sys.path.insert(0, {folder!r})
from bench_vit import forward, images, model, training_step
torch.set_num_threads(2)
net = model({name!r}, {size!r}, {pixels})
call = forward({name!r}, net, {reads})
def inference(x, labels):
    with torch.no_grad():
        call(x)
step = training_step(call, net) if {trains} else inference
net.train({trains})
step(*images(1, {pixels}))  # loads what loads lazily, and the optimiser makes its state
batch = images({batch}, {pixels})
def measured():
    step(*batch)
"""


@pytest.mark.parametrize(
    ("size", "pixels", "batch", "trains", "reads"),
    [
        ("ViT-S/16", 224, 8, True, True),
        ("ViT-S/16", 512, 2, True, True),
        ("ViT-B/16", 224, 8, False, False),
        ("ViT-B/16", 224, 8, False, True),
        ("ViT-B/16", 224, 8, True, False),
        ("ViT-B/16", 224, 8, True, True),
    ],
)
def bench_memory(keep_row, size, pixels, batch, trains, reads):
    """By how many bytes the peak of a process rises over the model, its optimiser and the images."""
    facts = {"size": size, "pixels": pixels, "batch": batch}
    code = partial(MEASURED.format, folder=str(Path(__file__).parent), trains=trains, reads=reads, **facts)
    peaks = {name: peak_memory(code(name=name)) for name in peers(reads)}
    work = told("training step" if trains else "forward", reads)
    keep_row(facts | {"work": work, "peak_bytes": peaks, "ratio": round(peaks["advkern"] / peaks["tutorial"], 3)})
