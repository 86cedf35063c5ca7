"""``SqueezeExcite`` and ``MBConvBlock``: the tutorial's classes, and what was added to them."""

import copy

import pytest
import torch
from drop_in import assert_compiled_matches, assert_same_signature, assert_same_start, gradients, images, randomize
from torch import nn

import advkern.nn
from advkern.nn import MBConvBlock, SqueezeExcite

MODULES = {
    "squeeze": ("SqueezeExcite", (12,)),
    "squeeze_of_another_ratio": ("SqueezeExcite", (12, 0.5)),
    "squeeze_to_one_channel": ("SqueezeExcite", (3, 0.1)),
    "block": ("MBConvBlock", (8, 12, 4, 2)),
    "block_with_residual": ("MBConvBlock", (8, 8, 6, 1)),
    "block_of_kernel_5": ("MBConvBlock", (8, 8, 3, 1, 5)),
    "block_without_expansion": ("MBConvBlock", (8, 16, 1, 1)),
    "block_of_even_kernel": ("MBConvBlock", (8, 12, 2, 2, 4)),
}
of_every_module = pytest.mark.parametrize("scenario", MODULES)


def pair(theirs, name, *args):
    """The tutorial's module with random weights, and ours with the same, in float64."""
    module = randomize(theirs[name](*args).double())
    ours = getattr(advkern.nn, name)(*args).double()
    ours.load_state_dict(module.state_dict())
    return module, ours


# -- the tutorial --------------------------------------------------------------------------------------------------


@of_every_module
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_module_is_the_tutorials(theirs, scenario, training):
    name, args = MODULES[scenario]
    module, ours = pair(theirs, name, *args)
    x = images(3, args[0], 9, 7)
    left, right = module.train(training)(x), ours.train(training)(x)
    torch.testing.assert_close(right, left)
    torch.testing.assert_close(gradients(ours, x, right), gradients(module, x, left))
    torch.testing.assert_close(dict(ours.state_dict()), dict(module.state_dict()))  # the norms' averages


@of_every_module
def test_keys_order_and_initial_weights_are_the_tutorials(theirs, scenario):
    name, args = MODULES[scenario]
    assert_same_start(theirs[name], getattr(advkern.nn, name), *args)


@pytest.mark.parametrize("name", ["SqueezeExcite", "MBConvBlock"])
def test_keyword_arguments_and_defaults_are_the_tutorials(theirs, name):
    assert_same_signature(theirs[name], getattr(advkern.nn, name))


# -- what was added ------------------------------------------------------------------------------------------------


def test_float_ratio_gives_the_same_block():
    for ratio, hidden in ((4.0, 40), (1.15, 12), (0.25, 2)):
        assert MBConvBlock(10, 10, ratio, 1).conv[0].out_channels == hidden
    torch.manual_seed(1)
    whole = MBConvBlock(8, 8, 4, 1).eval()
    torch.manual_seed(1)
    assert torch.equal(MBConvBlock(8, 8, 4.0, 1).eval()(torch.ones(1, 8, 5, 5)), whole(torch.ones(1, 8, 5, 5)))


@pytest.mark.parametrize("kernel", [2, 4])
def test_residual_of_an_even_kernel_is_added(kernel):
    block = randomize(MBConvBlock(4, 4, 2, 1, kernel).double()).eval()
    x = images(2, 4, 7, 6)
    before = (kernel - 1) // 2
    padded = nn.functional.pad(block.conv[:3](x), (before, kernel // 2, before, kernel // 2))
    spread = nn.functional.conv2d(padded, block.conv[3].weight, groups=8)
    torch.testing.assert_close(block(x), x + block.conv[4:](spread))


def test_squeeze_channels_and_activation_reach_the_squeeze():
    block = MBConvBlock(8, 8, 4, 1, squeeze_channels=2, activation=nn.Hardswish)
    squeeze = block.conv[6]
    assert squeeze.fc1.out_channels == squeeze.fc2.in_channels == 2
    assert [type(m) for m in (block.conv[2], block.conv[5], squeeze.activation)] == [nn.Hardswish] * 3
    assert type(MBConvBlock(8, 8, 4, 1).conv[6].activation) is nn.ReLU
    assert SqueezeExcite(12, 0.5, squeeze_channels=1).fc1.out_channels == 1


def test_drop_path_leaves_whole_samples_out():
    block = randomize(MBConvBlock(4, 4, 2, 1, drop_path=0.25)).train()
    x = torch.randn(400, 4, 3, 3)
    branch = copy.deepcopy(block).conv(x)
    change = block(x) - x
    dropped = (change == 0).all(dim=(1, 2, 3))
    assert 60 < dropped.sum() < 140  # 100 expected, within 4.6 standard deviations
    torch.testing.assert_close(change[~dropped], branch[~dropped] / 0.75, atol=1e-5, rtol=1e-4)
    block.drop_path.p = 1.0
    assert torch.equal(block(x), x)


def test_drop_path_is_for_training_and_for_what_is_added():
    x = torch.randn(50, 4, 3, 3)
    kept = MBConvBlock(4, 4, 2, 1, drop_path=0.9).eval()
    assert torch.equal(kept(x), x + kept.conv(x))
    without = MBConvBlock(4, 8, 2, 1, drop_path=0.9).train()
    assert not (without(x) == 0).all(dim=(1, 2, 3)).any()


# -- torch's own machinery -----------------------------------------------------------------------------------------


@pytest.mark.compile
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_block_compiles_fullgraph(training):
    assert_compiled_matches(
        MBConvBlock(8, 8, 4, 1).train(training), images(2, 8, 9, 9, dtype=torch.float32), "inductor"
    )


@pytest.mark.compile
def test_stochastic_depth_compiles_fullgraph():
    torch._dynamo.reset()
    block = MBConvBlock(4, 4, 2, 1, drop_path=0.5).train()
    x = torch.randn(64, 4, 3, 3)
    out = torch.compile(block, fullgraph=True, backend="aot_eager")(x)
    assert 10 < (out == x).all(dim=(1, 2, 3)).sum() < 54


@pytest.mark.gradcheck
def test_second_derivative_of_the_block():
    block = randomize(MBConvBlock(2, 2, 1, 1).double()).eval()
    assert torch.autograd.gradgradcheck(block, images(1, 2, 3, 2))


# -- errors --------------------------------------------------------------------------------------------------------


WRONG = {
    "drop_path_above_one": (lambda: MBConvBlock(4, 4, 2, 1, drop_path=2), ValueError, r"drop_path: .*got 2"),
    "no_stride": (lambda: MBConvBlock(4, 4, 2, 0), ValueError, r"stride: .*got 0"),
    "kernel_is_a_pair": (lambda: MBConvBlock(4, 4, 2, 1, (3, 3)), TypeError, r"kernel_size: .*got \(3, 3\)"),
    "nothing_inside": (lambda: MBConvBlock(4, 4, 0.1, 1), ValueError, r"expand_ratio: .*channel of 4, got 0.1"),
    "negative_ratio": (lambda: SqueezeExcite(4, -1), ValueError, r"squeeze_ratio: .*got -1"),
    "no_squeeze_channels": (lambda: SqueezeExcite(4, squeeze_channels=0), ValueError, r"squeeze_channels: .*got 0"),
    "block_gets_other_channels": (
        lambda: MBConvBlock(4, 4, 2, 1)(torch.randn(1, 5, 8, 8)),
        ValueError,
        r"x: expected images \[B, 4, H, W\], got shape \(1, 5, 8, 8\)",
    ),
    "squeeze_gets_a_vector": (lambda: SqueezeExcite(4)(torch.randn(1, 4)), ValueError, r"x: .*got shape \(1, 4\)"),
    "image_is_not_a_tensor": (lambda: SqueezeExcite(4)([1]), TypeError, r"x: .*tensor of images, got list"),
}


@pytest.mark.parametrize("scenario", WRONG)
def test_wrong_input_is_named(scenario):
    call, exception, pattern = WRONG[scenario]
    with pytest.raises(exception, match=pattern):
        call()
