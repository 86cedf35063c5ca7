"""Vision transformers of timm and torchvision and ours, at random weights: the same numbers, either way."""

from __future__ import annotations

import peers
import pytest
import torch

from advkern.nn import VisionTransformer
from advkern.weights import WeightsError, export_state_dict, import_state_dict, load_pretrained

SIZES = {"img_size": 32, "patch_size": 8, "num_classes": 5, "embed_dim": 24, "depth": 3, "num_heads": 4}
LIBRARIES = ("timm", "torchvision")
of_every_library = pytest.mark.parametrize("library", LIBRARIES)


def peer(library, *, mlp_ratio=4, **changed):
    """The library's own class at random weights, biases and class token included, in float64."""
    sizes = SIZES | changed
    if library == "timm":
        model = peers.timm().models.vision_transformer.VisionTransformer(**sizes, mlp_ratio=mlp_ratio)
    else:
        model = peers.torchvision().VisionTransformer(
            image_size=sizes["img_size"],
            patch_size=sizes["patch_size"],
            num_layers=sizes["depth"],
            num_heads=sizes["num_heads"],
            hidden_dim=sizes["embed_dim"],
            mlp_dim=sizes["embed_dim"] * mlp_ratio,
            num_classes=sizes["num_classes"],
        )
    return randomized(model)


def ours(**changed):
    return VisionTransformer(**(SIZES | changed), dropout=0.0, norm_eps=1e-6).double()


def randomized(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def logits(model, x):
    out = model(x)
    return out[0] if isinstance(out, tuple) else out


def assert_same(model, theirs, library, train):
    """Equal outputs, and equal gradients of the image and of every weight under its name in the library."""
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    images, factor = [], None
    for module in (model.train(train), theirs.train(train)):
        out = logits(module, x)
        factor = torch.randn_like(out) if factor is None else factor
        images.append((out, *torch.autograd.grad((out * factor).sum(), x, retain_graph=True)))
        (out * factor).sum().backward(inputs=list(module.parameters()))
    torch.testing.assert_close(*images)
    gradients = VisionTransformer(**SIZES).double()
    gradients.load_state_dict({name: p.grad for name, p in model.named_parameters()})
    converted = export_state_dict(gradients, library)
    torch.testing.assert_close(converted, {name: p.grad for name, p in theirs.named_parameters()})


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@of_every_library
def test_theirs_into_ours(library, train):
    theirs, model = peer(library), ours()
    report = load_pretrained(model, theirs.state_dict())
    assert report.source == library and report.complete and report.notes == []
    assert sorted(report.matched) == sorted(theirs.state_dict())
    assert_same(model, theirs, library, train)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@of_every_library
def test_ours_into_theirs(library, train):
    theirs, model = peer(library), randomized(ours())
    theirs.load_state_dict(export_state_dict(model, library))
    assert_same(model, theirs, library, train)


@of_every_library
def test_there_and_back_is_the_identity(library):
    model = randomized(ours())
    back = import_state_dict(model, export_state_dict(model, library), library)
    torch.testing.assert_close(back, dict(model.state_dict()), rtol=0, atol=0)
    state = peer(library).state_dict()
    load_pretrained(model, state)
    torch.testing.assert_close(export_state_dict(model, library), dict(state), rtol=0, atol=0)


def test_ours_loads_into_ours():
    model, other = ours(), randomized(ours())
    report = load_pretrained(model, other.state_dict())
    assert report.source == "advkern" and report.complete
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_names_of_torchvisions_published_files():
    theirs, model = peer("torchvision"), ours()
    older = {
        key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value
        for key, value in theirs.state_dict().items()
    }
    assert load_pretrained(model, older).complete
    assert_same(model, theirs, "torchvision", train=False)


@of_every_library
def test_another_eps_of_the_norms_is_noted(library):
    report = load_pretrained(VisionTransformer(**SIZES), peer(library).float().state_dict())
    assert any("1e-06" in note and "1e-05" in note for note in report.notes)


@of_every_library
def test_another_head_is_reported_and_left(library):
    model, theirs = randomized(ours(num_classes=7)), peer(library)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"head\.weight: \[5, 24\] float64 in the checkpoint, \[7, 24\] float64"):
        load_pretrained(model, theirs.state_dict())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)

    report = load_pretrained(model, theirs.state_dict(), strict=False)
    assert [mismatch.key.split(".")[-2:] for mismatch in report.mismatched] == [["head", "weight"], ["head", "bias"]]
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(model.state_dict()[name], before[name], rtol=0, atol=0)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tokens = model.forward_features(x) @ theirs.state_dict()[report.mismatched[0].key].T
    bias = theirs.state_dict()[report.mismatched[1].key]
    torch.testing.assert_close(tokens[:, 0] + bias, logits(theirs.eval(), x))


@of_every_library
def test_another_image_size(library):
    model, theirs = ours(img_size=48), peer(library)
    with pytest.raises(WeightsError, match=r"\[1, 17, 24\] float64 in the checkpoint, \[1, 37, 24\]"):
        load_pretrained(model, theirs.state_dict())
    report = load_pretrained(model, theirs.state_dict(), resize_positions=True)
    assert report.complete and any("17 positions interpolated to 37" in note for note in report.notes)
    same = ours()
    load_pretrained(same, theirs.state_dict())
    torch.testing.assert_close(model.state_dict(), same.resize(48).state_dict(), rtol=0, atol=0)


def test_deeper_checkpoints_do_not_lose_their_blocks_silently():
    with pytest.raises(WeightsError, match=r"(?s)unexpected \(12\).*blocks\.3\.attn\.qkv\.weight"):
        load_pretrained(ours(), peer("timm", depth=4).state_dict())


def test_timm_options_that_ours_has_not_are_named():
    theirs = peers.timm().models.vision_transformer.VisionTransformer(**SIZES, init_values=1e-5, qkv_bias=False)
    with pytest.raises(
        WeightsError, match=r"(?s)missing.*blocks\.0\.attn\.qkv\.bias.*unexpected.*blocks\.0\.ls1\.gamma"
    ):
        load_pretrained(ours(), theirs.state_dict())
