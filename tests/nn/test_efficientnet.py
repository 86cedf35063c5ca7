"""``EfficientNet``: the paper's networks, their options, and what torch does with modules."""

import copy
import math
import pickle

import pytest
import torch
from drop_in import assert_compiled_matches, gradients, images
from torch import nn

from advkern.nn import EfficientNet, MBConvBlock

SMALL = {"width": 0.25, "depth": 0.5, "num_classes": 5}


# -- the paper's networks ------------------------------------------------------------------------------------------


def test_depth_of_drop_path_grows_linearly():
    model = EfficientNet("b1")
    drops = [m.drop_path.p for m in model.modules() if isinstance(m, MBConvBlock)]
    assert drops == pytest.approx([0.2 * i / 23 for i in range(23)])
    assert {m.drop_path.p for m in EfficientNet("b0", drop_path=0).modules() if isinstance(m, MBConvBlock)} == {0}


def test_squeeze_of_a_network_is_a_quarter_of_the_blocks_input():
    for block in EfficientNet("b0").modules():
        if isinstance(block, MBConvBlock):
            assert block.conv[-3].fc1.out_channels == block.in_channels // 4


def test_norms_are_torchvisions():
    for variant, expected in (("b4", (1e-5, 0.1)), ("b5", (1e-3, 0.01))):
        with torch.device("meta"):
            model = EfficientNet(variant)
        assert {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {expected}


@pytest.mark.parametrize("eps", [0.25, 0.0])
def test_norm_eps_is_taken_as_given(eps):
    norms = [m for m in EfficientNet("b0", **SMALL, norm_eps=eps).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.eps for m in norms} == {eps}


def test_initial_activations_keep_their_size():
    """He's rule for every convolution, the depthwise ones by their own channel."""
    model = EfficientNet("b0")
    for name, conv in model.features.named_modules():
        if isinstance(conv, nn.Conv2d) and conv.weight.numel() > 4000:
            reached = conv.out_channels * conv.kernel_size[0] ** 2 / conv.groups
            assert float(conv.weight.detach().std() * (reached / 2) ** 0.5) == pytest.approx(1, abs=0.06), name


def test_widths_of_a_small_network():
    model = EfficientNet("b0", **SMALL)
    assert [m.out_channels for m in model.features[0] if isinstance(m, nn.Conv2d)] == [8]
    assert [len(stage) for stage in model.features][1:8] == [1, 1, 1, 2, 2, 2, 1]
    assert model.num_features == 4 * 80
    assert model(torch.randn(2, 3, 40, 33)).shape == (2, 5)


def test_maps_have_their_strides_and_channels():
    model = EfficientNet("b0", features_only=True).eval()
    maps = model(torch.randn(2, 3, 64, 96))
    assert model.feature_channels == [16, 24, 40, 112, 320]
    shapes = [(2, c, 64 // s, 96 // s) for c, s in zip(model.feature_channels, (2, 4, 8, 16, 32), strict=True)]
    assert [tuple(m.shape) for m in maps] == shapes


def test_maps_are_those_of_the_whole_network():
    whole = EfficientNet("b0", **SMALL).eval()
    model = EfficientNet("b0", **SMALL, features_only=True).eval()
    missing, unexpected = model.load_state_dict(whole.state_dict(), strict=False)
    assert not missing and all(key.startswith(("features.8.", "classifier.")) for key in unexpected)
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(whole.features[8](model(x)[-1]), whole.forward_features(x))


def test_classifier_is_replaced():
    model = EfficientNet("b0", **SMALL).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    pooled = model.forward_features(x).mean((2, 3))
    model.reset_classifier(7)
    assert model.num_classes == 7 and model(x).shape == (2, 7)
    torch.testing.assert_close(model(x), model.classifier[1](pooled))
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)
    assert pooled.shape == (2, model.num_features)


def test_images_of_other_channels_are_taken():
    model = EfficientNet("b0", 4, 1, width=0.25, depth=0.5).eval()
    assert model(torch.randn(2, 1, 20, 20)).shape == (2, 4)


@pytest.mark.parametrize("convert", [nn.Module.train, nn.SyncBatchNorm.convert_sync_batchnorm], ids=["", "sync"])
def test_gradient_checkpointing_changes_nothing_but_memory(convert):
    model = convert(EfficientNet("b0", **SMALL).double())
    x = images(3, 3, 64, 64)
    results = []
    for checkpointing in (False, True):
        trained = copy.deepcopy(model)
        trained.gradient_checkpointing = checkpointing
        torch.manual_seed(1)
        out = trained(x)
        results.append((out, gradients(trained, x, out), dict(trained.state_dict())))
    torch.testing.assert_close(*results)


def test_gradient_checkpointing_keeps_less():
    def kept(checkpointing):
        model = EfficientNet("b0", **SMALL, gradient_checkpointing=checkpointing).train()
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.randn(2, 3, 64, 64))
        return total

    assert kept(True) < 0.5 * kept(False)


# -- torch's own machinery -----------------------------------------------------------------------------------------


@pytest.mark.compile
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_network_is_one_graph(training):
    model = EfficientNet("b0", **SMALL, dropout=0, drop_path=0, gradient_checkpointing=True).train(training)
    assert_compiled_matches(model, images(2, 3, 64, 64, dtype=torch.float32), "aot_eager")


@pytest.mark.compile
def test_eval_model_exports_for_any_batch():
    model = EfficientNet("b0", **SMALL).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: batch},))
    x = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    model = EfficientNet("b0", 5, width=0.25, depth=0.1, dropout=0).train()
    x = images(4, 3, 32, 32, dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        out = model(x)
        with torch.no_grad():
            half = model.eval()(x)
    assert half.dtype == out.dtype == dtype
    torch.testing.assert_close(half.float(), model(x).detach(), atol=0.05, rtol=0.05)
    out.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_channels_last_gives_the_same_and_stays():
    model = EfficientNet("b0", **SMALL).eval()
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(last), expected)
    assert model.forward_features(last).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_model_runs(dtype):
    model = EfficientNet("b0", **SMALL).to(dtype).eval()
    out = model(torch.randn(2, 3, 32, 32, dtype=dtype))
    assert out.dtype == dtype and out.isfinite().all()


def test_model_survives_copies_after_a_forward():
    model = EfficientNet("b0", **SMALL).eval()
    x = torch.randn(1, 3, 32, 32)
    out = model(x)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x), out)


def test_empty_batch_works():
    assert EfficientNet("b0", **SMALL).eval()(torch.randn(0, 3, 32, 32)).shape == (0, 5)


def test_model_learns():
    model = EfficientNet("b0", 5, width=0.25, depth=0.1, dropout=0, drop_path=0)
    x, target = torch.randn(20, 3, 16, 16), torch.arange(20) % 5
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
    assert loss < 0.5


# -- errors --------------------------------------------------------------------------------------------------------


WRONG = {
    "unknown_variant": (lambda: EfficientNet("b8"), ValueError, r"variant: expected one of b0, .*b7, got 'b8'"),
    "variant_is_a_number": (lambda: EfficientNet(0), TypeError, r"variant: .*got 0"),
    "no_channels": (lambda: EfficientNet("b0", in_channels=0), ValueError, r"in_channels: .*at least 1, got 0"),
    "classes_below_none": (lambda: EfficientNet("b0", -2), ValueError, r"num_classes: .*got -2"),
    "dropout_above_one": (lambda: EfficientNet("b0", dropout=1.5), ValueError, r"dropout: .*got 1.5"),
    "negative_width": (lambda: EfficientNet("b0", width=-1), ValueError, r"width: .*positive number, got -1"),
    "negative_eps": (lambda: EfficientNet("b0", norm_eps=-1e-5), ValueError, r"norm_eps: .*at least 0, got -1e-05"),
    "eps_is_no_number": (lambda: EfficientNet("b0", norm_eps=math.nan), ValueError, r"norm_eps: .*at least 0, got nan"),
    "eps_is_text": (lambda: EfficientNet("b0", norm_eps="0"), TypeError, r"norm_eps: expected a number, got '0'"),
    "depth_is_text": (lambda: EfficientNet("b0", depth="2"), TypeError, r"depth: expected a number, got '2'"),
    "images_of_other_channels": (
        lambda: EfficientNet("b0", **SMALL)(torch.randn(1, 1, 8, 8)),
        ValueError,
        r"x: expected images \[B, 3, H, W\], got shape \(1, 1, 8, 8\)",
    ),
}


@pytest.mark.parametrize("scenario", WRONG)
def test_wrong_input_is_named(scenario):
    call, exception, pattern = WRONG[scenario]
    with pytest.raises(exception, match=pattern):
        call()
