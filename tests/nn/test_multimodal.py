"""``MultimodalTransformer``: the tutorial's class, masks, positions and errors."""

import pytest
import torch
from drop_in import assert_same_start

from advkern.nn import MultimodalTransformer

SIZES = {
    "vocab_size": 30,
    "max_seq_len": 12,
    "img_size": 8,
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 6,
}


@pytest.fixture
def pair(theirs):
    """The tutorial's model and ours with its weights, in float64 and eval mode."""
    model = theirs["MultimodalTransformer"](**SIZES).double().eval()
    ours = MultimodalTransformer(**SIZES).double().eval()
    ours.load_state_dict(model.state_dict())
    return model, ours


@pytest.fixture
def model():
    return MultimodalTransformer(**SIZES).double().eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 8, 8, dtype=torch.float64)


@pytest.fixture
def text():
    return torch.randint(30, (3, 7))


@pytest.mark.parametrize("given", ["both", "images", "text"])
def test_model_is_the_tutorials(pair, given, images, text):
    inputs = {"images": images, "text_ids": text}
    if given != "both":
        inputs = {"images": images} if given == "images" else {"text_ids": text}
    results = []
    for model in pair:
        logits = model(**inputs)
        tokens, maps = model(**inputs, return_embeddings=True)
        grads = torch.autograd.grad(logits.square().sum(), list(model.parameters()), allow_unused=True)
        results.append((logits, tokens, [torch.as_tensor(m) for m in maps], grads))
    theirs, ours = results
    torch.testing.assert_close(ours[:2], theirs[:2])
    for actual, expected in zip(ours[2], theirs[2], strict=True):
        torch.testing.assert_close(actual + 0, expected)
    for actual, expected in zip(ours[3], theirs[3], strict=True):
        assert (actual is None) == (expected is None)
        if actual is not None:
            torch.testing.assert_close(actual, expected)


def test_keys_and_initial_weights_are_the_tutorials(theirs):
    assert_same_start(theirs["MultimodalTransformer"], MultimodalTransformer, **SIZES)


def test_pads_change_nothing(model, images, text):
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[:, 5:] = False
    expected = model(images, text[:, :5])
    torch.testing.assert_close(model(images, text, text_mask=mask), expected)
    text[:, 5:] = 0
    torch.testing.assert_close(model(images, text, text_mask=mask), expected)
    assert not torch.allclose(model(images, text), expected)


def test_text_of_pads_alone_is_finite(model, images, text):
    mask = torch.zeros(3, 7, dtype=torch.bool)
    torch.testing.assert_close(model(images, text, text_mask=mask), model(images))
    out = model(text_ids=text, text_mask=mask)
    torch.testing.assert_close(out, model.head.bias.expand(3, 6))
    out.sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_order_of_patches_counts_only_with_positions(images):
    swapped = images.clone()
    swapped[..., :4], swapped[..., 4:] = images[..., 4:], images[..., :4]
    for positions in (False, True):
        model = MultimodalTransformer(**SIZES, vision_pos_embed=positions).double().eval()
        assert torch.allclose(model(images), model(swapped)) == (not positions)
        assert ("vision_pos_embed" in model.state_dict()) == positions


def test_logits_alone_compute_no_maps(model, images, text):
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, args, kwargs, out: seen.append(out[1]), with_kwargs=True)
    model(images, text)
    assert seen == [None, None]
    assert model(images, text, True, need_weights=False)[1] is None


@pytest.mark.compile
def test_compiles_fullgraph(model, images, text):
    torch._dynamo.reset()
    mask = torch.rand(3, 7) < 0.7
    compiled = torch.compile(lambda i, t, m: model(i, t, text_mask=m), fullgraph=True)
    torch.testing.assert_close(compiled(images, text, mask), model(images, text, text_mask=mask))


@pytest.mark.compile
def test_exports(model, images, text):
    program = torch.export.export(model, (images, text))
    torch.testing.assert_close(program.module()(images, text), model(images, text))


WRONG = {
    "neither": (lambda m, i, t: m(), ValueError, r"images, text_ids: expected at least one"),
    "text_too_long": (
        lambda m, i, t: m(text_ids=t.repeat(1, 2)),
        ValueError,
        r"text_ids: .*length at most 12, got shape \(3, 14\)",
    ),
    "other_batch": (lambda m, i, t: m(i[:2], t), ValueError, r"text_ids: .*as images, 2, got 3 texts"),
    "image_of_another_size": (
        lambda m, i, t: m(i[:, :, :4]),
        ValueError,
        r"images: expected images \[B, 3, 8, 8\].*\(3, 3, 4, 8\)",
    ),
    "text_of_floats": (lambda m, i, t: m(text_ids=t.float()), TypeError, r"text_ids: .*int64, got torch.float32"),
    "text_is_a_string": (lambda m, i, t: m(text_ids="is it even?"), TypeError, r"text_ids: .*got str"),
    "mask_without_text": (
        lambda m, i, t: m(i, text_mask=torch.ones(3, 7) > 0),
        ValueError,
        r"text_mask: expected None",
    ),
    "mask_of_other_shape": (
        lambda m, i, t: m(text_ids=t, text_mask=torch.ones(3, 6) > 0),
        ValueError,
        r"text_mask: expected bool of shape \(3, 7\).*\(3, 6\)",
    ),
    "size_without_whole_patches": (
        lambda m, i, t: MultimodalTransformer(**SIZES | {"img_size": 9}),
        ValueError,
        r"img_size: expected a multiple of patch_size = 4, got 9",
    ),
    "no_words": (
        lambda m, i, t: MultimodalTransformer(**SIZES | {"vocab_size": 0}),
        ValueError,
        r"vocab_size: .*got 0",
    ),
}


@pytest.mark.parametrize("scenario", WRONG)
def test_wrong_input_is_named(scenario, model, images, text):
    call, exception, pattern = WRONG[scenario]
    with pytest.raises(exception, match=pattern):
        call(model, images, text)
