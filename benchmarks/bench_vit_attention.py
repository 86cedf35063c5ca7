"""``vit_attention`` beside the tutorial's lines, eager and compiled, each backend of torch's own, and FlexAttention."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import relative_error
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from advkern.nn import TransformerBlock
from advkern.ops import vit_attention
from advkern.reference import vit_attention as reference

BATCH, HEADS, DIM = 4, 12, 64  # of ViT-B
LENGTHS = (65, 197, 577)
DROPOUT = 0.1
SDPA_BACKENDS = {"sdpa_flash": SDPBackend.FLASH_ATTENTION, "sdpa_math": SDPBackend.MATH}  # those of a CPU


def eager(qkv, dropout=0.0):
    """The tutorial's lines, from the packed projection."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    weights = ((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5).softmax(dim=-1)
    weights = torch.nn.functional.dropout(weights, dropout)
    return (weights @ v).transpose(1, 2)


def sdpa(backend):
    """Torch's attention on that backend."""

    def call(qkv, dropout=0.0):
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2)

    return call


def flex() -> dict:
    """FlexAttention, which is fast only when compiled, where it runs; on a CPU it has no backward."""
    compiled = torch.compile(flex_attention, dynamic=False)

    def call(qkv):
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return compiled(q, k, v).transpose(1, 2)

    try:
        call(torch.ones(1, 32, 3, 1, DIM))
    except RuntimeError:
        return {}
    return {"flex": call}


def ours(qkv, dropout=0.0):
    return vit_attention(qkv, dropout=dropout, training=True)


def functions() -> dict:
    torch._dynamo.reset()
    compiled = torch.compile(eager, dynamic=False)
    return {"advkern": ours, "eager": eager, "compiled": compiled} | {n: sdpa(b) for n, b in SDPA_BACKENDS.items()}


@pytest.fixture
def inputs():
    """The packed projection and the gradient of the output, by length."""

    def make(length):
        generator = torch.Generator().manual_seed(0)
        qkv = torch.randn(BATCH, length, 3, HEADS, DIM, generator=generator)
        return qkv, torch.randn(BATCH, length, HEADS, DIM, generator=generator)

    return make


def facts(work, length, threads):
    return {"work": work, "graph": f"N={length}", "length": length, "channels": DIM, "threads": threads}


@pytest.mark.parametrize("length", LENGTHS)
def bench_forward(compare, threads, inputs, length):
    qkv, _ = inputs(length)
    candidates = {name: lambda f=f: f(qkv) for name, f in (functions() | flex()).items()}
    compare(candidates, lambda: eager(qkv.double()), **facts("forward", length, threads))


def both(function, qkv, cotangent, *options):
    out = function(qkv, *options)
    return out.detach(), *torch.autograd.grad(out, qkv, cotangent)


@pytest.mark.parametrize("length", LENGTHS)
def bench_forward_backward(compare, threads, inputs, length):
    qkv, cotangent = inputs(length)
    leaf = qkv.requires_grad_()
    candidates = {name: lambda f=f: both(f, leaf, cotangent) for name, f in functions().items()}
    truth = lambda: both(eager, leaf.detach().double().requires_grad_(), cotangent.double())
    compare(candidates, truth, **facts("forward+backward", length, threads))


@pytest.mark.parametrize("length", LENGTHS)
def bench_dropout(compare, threads, inputs, length):
    """Everyone draws a mask of their own, so only ours is compared: with the same mask in float64."""
    qkv, cotangent = inputs(length)
    leaf = qkv.requires_grad_()
    error = dropout_error(leaf, cotangent)
    assert error < 1e-5
    chosen = {name: f for name, f in functions().items() if name != "sdpa_flash"}  # it knows no dropout on a CPU
    candidates = {name: lambda f=f: both(f, leaf, cotangent, DROPOUT) for name, f in chosen.items()}
    compare(candidates, error_ours=error, **facts("dropout, forward+backward", length, threads))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("work", ["forward", "forward+backward"])
def bench_block(compare, threads, length, work):
    """A whole block of ViT-B without maps, beside torch's own layers around the tutorial's attention and torch's."""
    torch.manual_seed(0)
    block = TransformerBlock(HEADS * DIM, HEADS, dropout=0.0)
    x = torch.randn(BATCH, length, HEADS * DIM, requires_grad=work != "forward")

    def run(attention, block=block, x=x):
        own = block.attn
        qkv = own.qkv(block.norm1(x)).unflatten(-1, (3, HEADS, DIM))
        y = x + own.proj(attention(qkv).flatten(2))
        return y + torch.nn.Sequential(*block.mlp)(block.norm2(y))

    def step(call):
        if work == "forward":
            with torch.no_grad():
                return call()
        out = call()
        return out.detach(), *torch.autograd.grad(out.sum(), [x, *block.parameters()])

    peers = {"eager": eager, "sdpa_flash": sdpa(SDPBackend.FLASH_ATTENTION)}
    candidates = {"advkern": lambda: step(lambda: block(x, need_weights=False)[0])}
    candidates |= {name: lambda f=f: step(lambda: run(f)) for name, f in peers.items()}
    wide = copy.deepcopy(block).double()
    truth = (lambda: run(eager, wide, x.double()).detach()) if work == "forward" else None  # gradients: in the tests
    compare(candidates, truth, **facts(f"block, {work}", length, threads))


def dropout_error(leaf, cotangent) -> float:
    torch.manual_seed(0)
    actual = both(ours, leaf, cotangent, DROPOUT)
    torch.manual_seed(0)
    seed = torch.ops.advkern.seed(leaf)

    def formula(qkv, dropout):
        return reference.vit_attention(*qkv.unbind(2), None, seed, DIM**-0.5, dropout)[0]

    return relative_error(actual, both(formula, leaf.detach().double().requires_grad_(), cotangent.double(), DROPOUT))
