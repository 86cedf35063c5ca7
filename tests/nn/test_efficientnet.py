"""``EfficientNet`` and its blocks: the tutorial's classes, the paper's networks, and what torch does with modules."""

import contextlib
import copy
import io
import pickle

import pytest
import torch
import tutorial
from torch import nn

import advkern.nn
from advkern.nn import EfficientNet, MBConvBlock, SqueezeExcite, compound_scaling, efficientnet_configs
from advkern.nn._conv_norm import ConvNormSequential

SMALL = {"width": 0.25, "depth": 0.5, "num_classes": 5}
# torchvision's documented counts of parameters; the paper's table 2: FLOPs (rounded there), pixels a side, dropout
PAPER = {
    "b0": (5_288_548, 0.39e9, 224, 0.2),
    "b1": (7_794_184, 0.70e9, 240, 0.2),
    "b2": (9_109_994, 1.0e9, 260, 0.3),
    "b3": (12_233_232, 1.8e9, 300, 0.3),
    "b4": (19_341_616, 4.2e9, 380, 0.4),
    "b5": (30_389_784, 9.9e9, 456, 0.4),
    "b6": (43_040_704, 19e9, 528, 0.5),
    "b7": (66_347_960, 37e9, 600, 0.5),
}


@pytest.fixture
def theirs():
    """The tutorial's classes by name."""
    return tutorial.namespace()


def images(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def randomize(module):
    """Weights, averages and variances that leave nothing at a neutral value."""
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if "running_var" in name else value.normal_(0, 0.4)
    return module


def pair(theirs, name, *args):
    """The tutorial's module with random weights, and ours with the same, in float64."""
    module = randomize(theirs[name](*args).double())
    ours = getattr(advkern.nn, name)(*args).double()
    ours.load_state_dict(module.state_dict())
    return module, ours


def gradients(module, x, out):
    """The gradients of a fixed function of the output, in x and in every parameter."""
    factor = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return torch.autograd.grad((out * factor).sum(), [x, *module.parameters()])


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


# -- the tutorial ------------------------------------------------------------------------------------------------


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
    states = []
    for kind in (theirs[name], getattr(advkern.nn, name)):
        torch.manual_seed(3)
        states.append(kind(*args).state_dict())
    assert list(states[0]) == list(states[1])
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value)


@pytest.mark.parametrize("name", ["SqueezeExcite", "MBConvBlock"])
def test_keyword_arguments_and_defaults_are_the_tutorials(theirs, name):
    parameters = []
    for kind in (theirs[name], getattr(advkern.nn, name)):
        code = kind.__init__.__code__
        parameters.append((code.co_varnames[1 : code.co_argcount], kind.__init__.__defaults__))
    assert parameters[0] == parameters[1]


def test_cells_of_the_tutorial_print_the_same_with_ours():
    """Cells 8 and 9: the blocks, and the table of scaling, with its own functions and with ours."""
    cells = tutorial.cells()
    tutorial.namespace()  # chooses a backend of matplotlib that needs no screen
    definitions, table = cells[9].split("print(", 1)
    printed = []
    for space in ({}, vars(advkern.nn).copy()):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            if not space:
                for code in (cells[0], cells[8], definitions):
                    exec(code, space)
            exec("print(" + table, space)
        printed.append(out.getvalue())
    assert "B7: Width=2.0x" in printed[0].rpartition("Compound Scaling")[2]
    assert printed[0].rpartition("Compound Scaling")[2] == printed[1].rpartition("Compound Scaling")[2]


def test_configs_and_estimate_are_the_tutorials():
    space = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(tutorial.cells()[9], space)
    assert efficientnet_configs == space["efficientnet_configs"]
    for scale in [*efficientnet_configs.values(), (0.3, 2, 1.234)]:
        assert advkern.nn.calculate_scaled_params(*scale) == space["calculate_scaled_params"](*scale)


# -- the blocks' additions -----------------------------------------------------------------------------------------


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


# -- the paper's networks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", PAPER)
def test_networks_are_the_papers(variant):
    parameters, flops, resolution, dropout = PAPER[variant]
    found = compound_scaling(variant)
    assert found["params"] == parameters
    assert found["flops"] == pytest.approx(flops, rel=0.05)
    assert found["resolution"] == resolution
    assert (found["width"], found["depth"]) == efficientnet_configs[variant.upper()][:2]
    with torch.device("meta"):
        model = getattr(advkern.nn, f"efficientnet_{variant}")()
    assert model.classifier[0].p == dropout
    assert model.resolution == resolution
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_scaling_is_told_in_multiples_of_b0():
    found = compound_scaling("B7")
    assert found["relative_params"] == pytest.approx(12.5, abs=0.1)
    assert found["relative_flops"] == pytest.approx(97.8, abs=0.1)
    found["params"] = 0
    assert compound_scaling("b7")["params"] == 66_347_960


def test_flops_are_the_multiply_adds_of_every_layer():
    """Beside a count by hooks, which knows convolutions and linear maps by their formula."""
    model = EfficientNet("b0").to("meta").eval()
    counted = 0

    def count(module, inputs, output):
        nonlocal counted
        counted += module.weight.numel() * (output.shape[2] * output.shape[3] if output.dim() == 4 else 1)

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    model(torch.empty(1, 3, 224, 224, device="meta"))
    assert compound_scaling("b0")["flops"] == counted


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
    norms = [m for m in EfficientNet("b0", norm_eps=0.25).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.eps for m in norms} == {0.25}


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


def test_gradient_checkpointing_changes_nothing_but_memory():
    model = EfficientNet("b0", **SMALL).double().train()
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


# -- norms in evaluation -------------------------------------------------------------------------------------------


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


# -- torch's own machinery -----------------------------------------------------------------------------------------


def compare_compiled(model, x, backend):
    """Outputs and gradients beside a copy that is not compiled."""
    torch._dynamo.reset()
    right = copy.deepcopy(model)
    expected = right(x)
    actual = torch.compile(model, fullgraph=True, backend=backend)(x)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients(model, x, actual), gradients(right, x, expected), atol=2e-3, rtol=2e-3)


@pytest.mark.compile
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_network_is_one_graph(training):
    model = EfficientNet("b0", **SMALL, dropout=0, drop_path=0, gradient_checkpointing=True).train(training)
    compare_compiled(model, images(2, 3, 64, 64, dtype=torch.float32), "aot_eager")


@pytest.mark.compile
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_block_compiles_fullgraph(training):
    compare_compiled(MBConvBlock(8, 8, 4, 1).train(training), images(2, 8, 9, 9, dtype=torch.float32), "inductor")


@pytest.mark.compile
def test_stochastic_depth_compiles_fullgraph():
    torch._dynamo.reset()
    block = MBConvBlock(4, 4, 2, 1, drop_path=0.5).train()
    x = torch.randn(64, 4, 3, 3)
    out = torch.compile(block, fullgraph=True, backend="aot_eager")(x)
    assert 10 < (out == x).all(dim=(1, 2, 3)).sum() < 54


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


@pytest.mark.gradcheck
def test_second_derivative_of_the_block():
    block = randomize(MBConvBlock(2, 2, 1, 1).double()).eval()
    assert torch.autograd.gradgradcheck(block, images(1, 2, 3, 2))


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
    "unknown_variant_to_scale": (lambda: compound_scaling("L2"), ValueError, r"variant: .*got 'L2'"),
    "no_channels": (lambda: EfficientNet("b0", in_channels=0), ValueError, r"in_channels: .*at least 1, got 0"),
    "classes_below_none": (lambda: EfficientNet("b0", -2), ValueError, r"num_classes: .*got -2"),
    "dropout_above_one": (lambda: EfficientNet("b0", dropout=1.5), ValueError, r"dropout: .*got 1.5"),
    "drop_path_above_one": (lambda: MBConvBlock(4, 4, 2, 1, drop_path=2), ValueError, r"drop_path: .*got 2"),
    "negative_width": (lambda: EfficientNet("b0", width=-1), ValueError, r"width: .*positive number, got -1"),
    "depth_is_text": (lambda: EfficientNet("b0", depth="2"), TypeError, r"depth: expected a number, got '2'"),
    "no_stride": (lambda: MBConvBlock(4, 4, 2, 0), ValueError, r"stride: .*got 0"),
    "kernel_is_a_pair": (lambda: MBConvBlock(4, 4, 2, 1, (3, 3)), TypeError, r"kernel_size: .*got \(3, 3\)"),
    "nothing_inside": (lambda: MBConvBlock(4, 4, 0.1, 1), ValueError, r"expand_ratio: .*channel of 4, got 0.1"),
    "negative_ratio": (lambda: SqueezeExcite(4, -1), ValueError, r"squeeze_ratio: .*got -1"),
    "no_squeeze_channels": (lambda: SqueezeExcite(4, squeeze_channels=0), ValueError, r"squeeze_channels: .*got 0"),
    "images_of_other_channels": (
        lambda: EfficientNet("b0", **SMALL)(torch.randn(1, 1, 8, 8)),
        ValueError,
        r"x: expected images \[B, 3, H, W\], got shape \(1, 1, 8, 8\)",
    ),
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
