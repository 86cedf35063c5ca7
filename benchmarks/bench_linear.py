"""``linear`` beside torch's own product, at the sizes of graph layers and vision transformers, and where it begins."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from advkern.ops import linear

SHAPES = [
    (16, 4096, 1024),
    (512, 64, 64),
    (320, 256, 256),  # this and the next but one: the fewest multiplications at which layers use it
    (788, 192, 192),
    (5120, 64, 64),
    (788, 384, 1152),
    (2708, 64, 64),
    (2708, 1433, 16),
    (19717, 128, 64),
    (169343, 128, 2),
    (169343, 64, 40),
    (169343, 128, 64),
    (169343, 128, 256),
]


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES, ids=str)
@pytest.mark.parametrize("work", ["forward", "forward+backward"])
def bench_linear(compare, threads, work, rows, inputs, outputs):
    generator = torch.Generator().manual_seed(0)
    x, weight, cotangent = (
        torch.randn(shape, generator=generator) for shape in ((rows, inputs), (outputs, inputs), (rows, outputs))
    )
    leaves = (x.requires_grad_(), weight.requires_grad_())

    def run(function):
        if work == "forward":
            with torch.no_grad():
                return (function(x, weight),)
        out = function(x, weight)
        return out.detach(), *torch.autograd.grad(out, leaves, cotangent)

    def exact():
        x64, weight64, cotangent64 = (t.detach().double() for t in (x, weight, cotangent))
        results = x64 @ weight64.T, cotangent64 @ weight64, cotangent64.T @ x64
        return results[:1] if work == "forward" else results

    candidates = {name: lambda f=f: run(f) for name, f in (("advkern", linear), ("torch", functional.linear))}
    shape = f"{rows:,} x {inputs} to {outputs}"
    # torch's own gradient of two outputs, over 169,343 rows, is 1.2e-5 off; ours 1e-6
    compare(
        candidates, exact, tolerance=2e-5, work=work, graph=shape, channels=rows * inputs * outputs, threads=threads
    )
