"""EfficientNets of timm and torchvision and ours, at random weights: the same numbers, either way."""

from __future__ import annotations

import copy

import peers
import pytest
import torch
from torch import nn

from advkern.nn import EfficientNet
from advkern.nn.efficientnet import VARIANTS
from advkern.weights import WeightsError, export_state_dict, import_state_dict, load_pretrained

LIBRARIES = ("timm", "torchvision")
CLASSES = 5
of_every_library = pytest.mark.parametrize("library", LIBRARIES)


SMALL = {"width": 0.25, "depth": 0.5}  # of B0


def peer(library, variant="b0"):
    """The library's own network."""
    if library == "timm":
        return peers.timm().create_model(f"efficientnet_{variant}", num_classes=CLASSES)
    return getattr(peers.torchvision(), f"efficientnet_{variant}")(num_classes=CLASSES)


def small_peer(library):
    """The library's own classes, as few channels and blocks as in ``SMALL``, without dropout and stochastic depth."""
    if library == "timm":
        make = peers.timm().models.efficientnet._gen_efficientnet
        return make("efficientnet_b0", SMALL["width"], SMALL["depth"], num_classes=CLASSES)
    torchvision = peers.torchvision()
    make = torchvision.efficientnet._efficientnet_conf
    stages, _ = make("efficientnet_b0", width_mult=SMALL["width"], depth_mult=SMALL["depth"])
    return torchvision.EfficientNet(stages, dropout=0.0, stochastic_depth_prob=0.0, num_classes=CLASSES)


def ours(variant="b0", **options):
    return EfficientNet(variant, CLASSES, dropout=0.0, drop_path=0.0, **options)


@pytest.fixture(autouse=True)
def one_thread():
    """Of layers this small threads cost more than they do, above all where others use the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def x():
    return torch.randn(4, 3, 64, 64, dtype=torch.float64)


def randomized(model, x):
    """Random norms and biases, and running averages that are the moments of ``x``: its outputs are then of size 1."""
    model.double().train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the average over all batches, of which there is one
    with torch.no_grad():
        model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def assert_same(model, theirs, library, x, train):
    """Equal outputs, running averages and gradients, of the images and, converted, of every weight."""
    results = []
    for module in (model.train(train), theirs.train(train)):
        images = x.clone().requires_grad_()
        out = module(images)
        factor = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        results.append([out, *torch.autograd.grad((out * factor).sum(), [images, *module.parameters()])])
    (mine, image_gradient, *gradients), (other, other_image_gradient, *other_gradients) = results
    assert mine.detach().std() > 0.1
    torch.testing.assert_close((mine, image_gradient), (other, other_image_gradient))
    torch.testing.assert_close(export_state_dict(model, library), dict(theirs.state_dict()))
    as_weights = copy.deepcopy(theirs)
    with torch.no_grad():
        for parameter, gradient in zip(as_weights.parameters(), other_gradients, strict=True):
            parameter.copy_(gradient)
        torch.testing.assert_close(model(x), other)  # where norms are folded into convolutions
    converted = import_state_dict(model, as_weights.state_dict(), library)
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(converted[name], gradient)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@of_every_library
def test_theirs_into_ours(library, x, train):
    theirs, model = randomized(small_peer(library), x), ours(**SMALL).double()
    report = load_pretrained(model, theirs.state_dict())
    assert report.source == library and report.complete and report.notes == []
    assert sorted(report.matched) == sorted(theirs.state_dict())
    assert_same(model, theirs, library, x, train)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@of_every_library
def test_ours_into_theirs(library, x, train):
    theirs, model = small_peer(library).double(), randomized(ours(**SMALL), x)
    theirs.load_state_dict(export_state_dict(model, library))
    assert_same(model, theirs, library, x, train)


@of_every_library
def test_there_and_back_is_the_identity(library):
    model = ours(**SMALL)
    back = import_state_dict(model, export_state_dict(model, library), library)
    torch.testing.assert_close(back, dict(model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@of_every_library
def test_keys_and_shapes_of_every_variant(library, variant):
    with torch.device("meta"):
        exported = export_state_dict(ours(variant), library)
        expected = peer(library, variant).state_dict()
    assert {key: value.shape for key, value in exported.items()} == {
        key: value.shape for key, value in expected.items()
    }


@of_every_library
def test_maps_alone_leave_the_head_out(library):
    model = EfficientNet("b0", features_only=True, **SMALL)
    report = load_pretrained(model, small_peer(library).state_dict(), strict=False)
    assert not report.missing and not report.mismatched
    parts = {key.partition(".")[0] for key in report.unexpected}
    assert parts == ({"conv_head", "bn2", "classifier"} if library == "timm" else {"features", "classifier"})


@of_every_library
def test_another_variant_is_refused(library):
    with pytest.raises(WeightsError, match="mismatched"):
        load_pretrained(ours(width=0.5, depth=0.5), small_peer(library).state_dict())


@pytest.mark.parametrize(("library", "noted"), [("timm", True), ("torchvision", False)])
def test_eps_of_the_larger_variants(library, noted):
    """Those of timm's and torchvision's B5 differ; ours has torchvision's."""
    options = {"width": 0.1, "depth": 0.1}
    model = ours("b5", **options)
    report = load_pretrained(model, export_state_dict(model, library))
    assert bool(report.notes) == noted
    assert load_pretrained(ours("b5", **options, norm_eps=1e-5), export_state_dict(model, "timm")).notes == []
