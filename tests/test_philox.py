"""Dropout by counter: the reference generator against its authors' known answers, and the op that draws its seed."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from advkern.ops._seed import seed
from advkern.reference._philox import half_words, keep_factor, philox, threshold

# counter, key, words: published with Random123 (kat_vectors, philox4x32 10)
KNOWN_ANSWERS = {
    "zeros": ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    "ones": ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    "digits_of_pi": (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
}


@pytest.mark.parametrize("name", KNOWN_ANSWERS)
def test_known_answers(name):
    counter, (low, high), words = KNOWN_ANSWERS[name]
    key = torch.tensor([low | (high - 2**32 if high >= 2**31 else high) << 32])
    assert philox(tuple(torch.tensor([c]) for c in counter), key).tolist() == [words]


def test_counters_broadcast_and_each_gives_its_own_words():
    key = torch.tensor([7])
    words = philox((torch.arange(5)[:, None], 0, torch.arange(3), 0), key)
    assert words.shape == (5, 3, 4)
    assert words.unique().numel() == words.numel()
    assert torch.equal(words[4, 2], philox((4, 0, 2, 0), key)[0])


def test_half_words_come_low_first():
    assert half_words(torch.tensor([[0x00010002, 0xFFFE0003]])).tolist() == [[2, 1, 3, 0xFFFE]]


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.6, 1.0])
def test_keep_factor_keeps_the_mean(p, bits):
    words = philox((torch.arange(50_000), 0, 0, 0), torch.tensor([1]))
    random = half_words(words) if bits == 16 else words
    factor = keep_factor(random, threshold(p, bits), bits, torch.float64)
    assert factor.mean() == pytest.approx(0 if p == 1 else 1, abs=0.02)
    assert (factor == 0).double().mean() == pytest.approx(p, abs=0.01)
    assert factor.max() == pytest.approx(0 if p == 1 else 1 / (1 - p), rel=1e-4)


# -- the seed ----------------------------------------------------------------------------------------------------


def test_manual_seed_repeats_the_seed():
    torch.manual_seed(3)
    first, second = seed(torch.ones(2)), seed(torch.ones(2))
    torch.manual_seed(3)
    assert first.shape == (1,) and first.dtype == torch.int64
    assert torch.equal(seed(torch.ones(2)), first) and not torch.equal(first, second)


def test_opcheck():
    torch.library.opcheck(
        torch.ops.advkern.seed.default, (torch.ones(2),), test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.compile
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiled_code_draws_what_eager_code_draws(compiler):
    torch._dynamo.reset()

    def two(x):
        return seed(x), seed(x)

    torch.manual_seed(3)
    expected = two(torch.ones(2))
    compiled = torch.compile(two, fullgraph=True, backend=compiler)
    torch.manual_seed(3)
    actual = compiled(torch.ones(2))
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])
    assert not torch.equal(compiled(torch.ones(2))[0], actual[0])


def test_checkpoint_draws_the_same_seed_again():
    drawn = []

    def layer(x):
        drawn.append(seed(x))
        return x * (drawn[-1] % 7 + 1)

    checkpoint(layer, torch.ones(2, requires_grad=True), use_reentrant=False).sum().backward()
    assert len(drawn) == 2 and torch.equal(*drawn)


def test_vmap_asks_how_to_draw():
    x = torch.ones(3, 2)
    with pytest.raises(RuntimeError, match=r"vmap: dropout draws a random seed: .*randomness="):
        torch.func.vmap(seed)(x)
    same = torch.func.vmap(seed, randomness="same")(x)
    different = torch.func.vmap(seed, randomness="different")(x)
    assert same.shape == different.shape == (3, 1)
    assert same.unique().numel() == 1 and different.unique().numel() == 3
