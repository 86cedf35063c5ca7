"""``ConvNormSequential``: in evaluation norms are multiplied into convolutions, and nobody misses a call."""

import copy

import pytest
import torch
from drop_in import randomize
from torch import nn

from advkern.nn import MBConvBlock
from advkern.nn._conv_norm import ConvNormSequential


@pytest.fixture
def evaluated():
    """A block in evaluation with nothing neutral in it, its input, and its output by the layers themselves."""
    block = randomize(MBConvBlock(6, 6, 3, 1).double()).eval()
    x = torch.randn(2, 6, 8, 7, dtype=torch.float64)
    return block, x, x + nn.Sequential(*block.conv)(x)


def test_norm_is_folded_where_no_gradient_is_wanted(evaluated):
    block, x, expected = evaluated
    calls = []
    original = nn.BatchNorm2d.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.BatchNorm2d, "forward", lambda self, x: calls.append(1) or original(self, x))
        with torch.no_grad():
            torch.testing.assert_close(block(x), expected)
        assert not calls
        torch.testing.assert_close(block(x), expected)
        assert len(calls) == 3


@torch.no_grad()
def test_fold_notices_every_change(evaluated):
    block, x, _ = evaluated
    block(x)
    for name, value in block.state_dict().items():
        if value.is_floating_point():
            value.data.mul_(1.5)
            torch.testing.assert_close(block(x), x + nn.Sequential(*block.conv)(x), msg=name)


@torch.no_grad()
@pytest.mark.parametrize("index", range(3))
def test_hooks_of_layers_run(evaluated, index):
    block, x, expected = evaluated
    seen = []
    block.conv[index].register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.testing.assert_close(block(x), expected)
    (output,) = seen
    torch.testing.assert_close(output, nn.Sequential(*block.conv[: index + 1])(x))


@torch.no_grad()
def test_hooks_of_all_modules_see_every_layer(evaluated):
    block, x, expected = evaluated
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    with handle:
        torch.testing.assert_close(block(x), expected)
    assert all(any(layer is module for module in seen) for layer in block.conv)


@torch.no_grad()
@pytest.mark.parametrize("index", range(3))
def test_a_replaced_forward_is_called(evaluated, index):
    block, x, expected = evaluated
    layer = block.conv[index]
    layer.forward = lambda x, forward=layer.forward: forward(x) + 1
    assert not torch.allclose(block(x), expected)
    torch.testing.assert_close(block(x), x + nn.Sequential(*block.conv)(x))


@torch.no_grad()
def test_other_layers_are_left_alone(evaluated):
    block, x, _ = evaluated
    nn.utils.parametrizations.weight_norm(block.conv[0])
    block.conv[4] = nn.BatchNorm2d(18, affine=False).double().eval()
    block.conv[8] = nn.GroupNorm(2, 6).double()
    torch.testing.assert_close(block(x), x + nn.Sequential(*block.conv)(x))
    block.conv[1].train()
    copied = copy.deepcopy(block)
    torch.testing.assert_close(block(x), x + nn.Sequential(*copied.conv)(x))


@torch.no_grad()
def test_bias_of_the_convolution_is_folded():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4)).double()
    randomize(layers).eval()
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(ConvNormSequential(*layers).eval()(x), layers(x))
