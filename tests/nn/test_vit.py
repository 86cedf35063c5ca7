"""``VisionTransformer`` and its parts: the tutorial's classes, their maps, and what torch does with modules."""

import contextlib
import copy
import io
import pickle

import pytest
import torch
import tutorial
from drop_in import assert_same_signature, assert_same_start, gradients, images
from torch import nn

import advkern.nn
from advkern.nn import MultiHeadSelfAttention, PatchEmbedding, TransformerBlock, VisionTransformer
from advkern.ops.linear import linear as fused_linear

VIT = {"img_size": 16, "patch_size": 4, "in_channels": 3, "num_classes": 5, "embed_dim": 24, "depth": 3, "num_heads": 4}


def pair(theirs, name, *args, **kwargs):
    """The tutorial's module and ours with its weights, in float64 and without dropout."""
    module = theirs[name](*args, **kwargs).double().eval()
    ours = getattr(advkern.nn, name)(*args, **kwargs).double().eval()
    ours.load_state_dict(module.state_dict())
    return module, ours


MODULES = {
    "PatchEmbedding": ((16, 4, 3, 20), (2, 3, 16, 16)),
    "MultiHeadSelfAttention": ((24, 4), (2, 17, 24)),
    "TransformerBlock": ((24, 4, 2.0), (2, 17, 24)),
    "VisionTransformer": (tuple(VIT.values()), (2, 3, 16, 16)),
}
of_every_module = pytest.mark.parametrize("name", MODULES)


# -- the tutorial ------------------------------------------------------------------------------------------------


@of_every_module
def test_module_is_the_tutorials(theirs, name):
    args, shape = MODULES[name]
    module, ours = pair(theirs, name, *args)
    x = images(*shape)
    left, right = module(x), ours(x)
    if name == "PatchEmbedding":
        left, right = (left, None), (right, None)
    torch.testing.assert_close(right[0], left[0])
    torch.testing.assert_close(gradients(ours, x, right[0]), gradients(module, x, left[0]))
    if name == "VisionTransformer":
        assert isinstance(right[1], list) and len(right[1]) == len(left[1])
        for actual, expected in zip(right[1], left[1], strict=True):
            assert actual.shape == expected.shape
            torch.testing.assert_close(actual.dense(), expected)
    elif left[1] is not None:
        torch.testing.assert_close(right[1].dense(), left[1])


@of_every_module
def test_keys_order_and_initial_weights_are_the_tutorials(theirs, name):
    assert_same_start(theirs[name], getattr(advkern.nn, name), *MODULES[name][0])


@of_every_module
def test_keyword_arguments_and_defaults_are_the_tutorials(theirs, name):
    assert_same_signature(theirs[name], getattr(advkern.nn, name))


def test_cells_of_the_tutorial_run_with_our_classes():
    """Cells 5 to 7 and 12 to 13: the classes (then replaced by ours), a model, its picture; images beside text."""
    cells = tutorial.cells()
    tutorial.namespace()  # chooses a backend of matplotlib that needs no screen
    names = ("PatchEmbedding", "MultiHeadSelfAttention", "TransformerBlock", "VisionTransformer")
    space = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for index in (0, 5, 6, 7, 12, 13):
            exec(cells[index], space)
            for name in (*names, "MultimodalTransformer"):
                if name in space:
                    space[name] = getattr(advkern.nn, name)
    assert "torch.Size([1, 10])" in printed.getvalue()
    assert type(space["vit"]) is VisionTransformer


# -- maps ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def read():
    """A float64 model in training without dropout, its logits, its maps, and the same maps as plain tensors."""
    model = VisionTransformer(**VIT, dropout=0.0).double()
    logits, maps = model(images(2, 3, 16, 16))
    return model, logits, maps, [m.dense() for m in copy.copy(maps)]


def test_parts_of_a_map_are_the_map_s(read):
    model, *_ = read
    x = images(2, 3, 16, 16)
    for first_whole in (False, True):
        attention = model(x)[1][1]
        if first_whole:
            attention.dense()
        parts = {
            "rows": attention.rows(torch.tensor([3, 0])),
            "last_row": attention.rows(-1),
            "rows_of_a_head": attention.rows(slice(2, 5), head=1),
            "row_of_the_last_head": attention.rows(4, head=-1),
            "cls": attention.cls(),
            "mean_heads": attention.mean_heads(),
        }
        whole = attention.dense()
        expected = {
            "rows": whole[:, :, [3, 0]],
            "last_row": whole[:, :, -1],
            "rows_of_a_head": whole[:, 1, 2:5],
            "row_of_the_last_head": whole[:, -1, 4],
            "cls": whole[:, :, 0],
            "mean_heads": whole.mean(1),
        }
        torch.testing.assert_close(parts, expected)


def test_rollout_is_the_product_of_the_layers(read):
    _, _, maps, dense = read
    eye = torch.eye(17, dtype=torch.float64)
    expected = eye.expand(2, 17, 17)
    for layer in dense:
        expected = (layer.mean(1) + eye) / 2 @ expected
    torch.testing.assert_close(maps.rollout(), expected)
    torch.testing.assert_close(maps.rollout().sum(-1), torch.ones(2, 17, dtype=torch.float64))


def test_maps_are_differentiable_also_when_first_read_under_no_grad(theirs):
    module, ours = pair(theirs, "VisionTransformer", **VIT)
    x = images(2, 3, 16, 16)
    expected = torch.autograd.grad(module(x)[1][-1].square().sum(), x)
    maps = ours(x)[1]
    with torch.no_grad():
        maps[-1].sum()
    torch.testing.assert_close(torch.autograd.grad(maps[-1].square().sum(), x), expected)
    rows = ours(x)[1][-1].rows(slice(None))
    torch.testing.assert_close(torch.autograd.grad(rows.square().sum(), x), expected)


def test_maps_of_no_grad_forward_have_no_gradient(read):
    model, *_ = read
    with torch.no_grad():
        _, maps = model(images(1, 3, 16, 16))
    assert not maps[0].requires_grad and not maps[0].dense().requires_grad and not maps[0].cls().requires_grad


def test_maps_of_no_grad_forward_keep_queries_and_keys_alone():
    layer, x = MultiHeadSelfAttention(24, 4).double().eval(), images(2, 17, 24)
    with torch.no_grad():
        out, attention = layer(x)
        torch.testing.assert_close(out, layer(x, need_weights=False)[0])
    kept = attention._source.q.untyped_storage()
    assert kept.data_ptr() == attention._source.k.untyped_storage().data_ptr()
    assert kept.nbytes() == 2 * x.numel() * x.element_size()
    torch.testing.assert_close(attention.dense(), layer(x)[1].dense().detach())


def test_maps_are_taken_before_dropout():
    model = VisionTransformer(**VIT, dropout=0.5).train()
    _, maps = model(images(2, 3, 16, 16, dtype=torch.float32))
    for attention in maps:
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 4, 17))


def test_stack_of_maps_and_numpy_work(read):
    _, _, maps, dense = read
    assert torch.equal(torch.stack(maps), torch.stack(dense))
    assert maps[0].detach().numpy().shape == (2, 4, 17, 17)


def test_released_maps_say_so(read):
    _, _, maps, _ = read
    maps.release()
    for use in (lambda: maps[0] + 1, lambda: maps[1].cls(), maps.rollout):
        with pytest.raises(RuntimeError, match="release"):
            use()


def test_index_out_of_range_is_named(read):
    _, _, maps, _ = read
    with pytest.raises(IndexError, match=r"query_index: expected one of 17 positions, got 17"):
        maps[0].rows(17)
    with pytest.raises(IndexError, match=r"head: expected one of 4 heads, got 9"):
        maps[0].rows(0, head=9)


def test_without_weights_nothing_is_returned(read):
    model, *_ = read
    assert model(images(1, 3, 16, 16), need_weights=False)[1] is None
    assert model.blocks[0](images(1, 17, 24), need_weights=False)[1] is None
    assert model.blocks[0].attn(images(1, 17, 24), need_weights=False)[1] is None


# -- what was added ------------------------------------------------------------------------------------------------


def test_ignored_keys_change_nothing():
    block = TransformerBlock(24, 4).double().eval()
    x = images(2, 9, 24)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, 6:] = True
    out, attention = block(x, key_padding_mask=mask)
    torch.testing.assert_close(out[0, :6], block(x[:1, :6])[0][0])
    assert not attention.dense()[0, :, :, 6:].any()


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", ["attn.qkv", "attn.proj", "mlp", "mlp.0", "mlp.3"])
def test_hooks_of_inner_layers_are_called(name, grad):
    block, seen = TransformerBlock(24, 4).double(), []
    block.get_submodule(name).register_forward_hook(lambda *each: seen.append(each[2]))
    with torch.set_grad_enabled(grad):
        block(images(2, 9, 24))
    assert len(seen) == 1


def test_block_on_large_products_is_torchs(monkeypatch):
    """Sizes from which on the products are ours, with rows and channels that end in the middle of a block."""
    block = TransformerBlock(264, 3, dropout=0.0).double()
    x = images(3, 101, 264)
    results, calls = [], []
    counted = lambda *each: calls.append(each) or fused_linear(*each)
    monkeypatch.setattr("advkern.nn._linear.fused_linear", counted)
    for worth in (0, float("inf")):
        monkeypatch.setattr("advkern.nn._linear._WORTH", worth)
        out, _ = block(x, need_weights=False)
        results.append((out, gradients(block, x, out)))
    assert len(calls) == 4  # qkv, proj, and two of the mlp, in the first round alone
    torch.testing.assert_close(*results)


class Packed(torch.Tensor):
    """A weight whose memory is its own affair, as quantised ones: it cannot be sliced."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        assert func is not torch.Tensor.__getitem__, "a packed weight has no rows"
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("grad", [True, False])
def test_weights_of_a_kind_of_their_own_are_left_to_their_layer(grad):
    layer, x = MultiHeadSelfAttention(24, 4).double().eval(), images(2, 17, 24)
    expected = layer(x)[0]
    layer.qkv.weight = nn.Parameter(layer.qkv.weight.detach().as_subclass(Packed))
    with torch.set_grad_enabled(grad):
        out, attention = layer(x)
    torch.testing.assert_close(out.as_subclass(torch.Tensor), expected)
    assert attention.shape == (2, 4, 17, 17)


def test_gradient_checkpointing_gives_the_same_gradients():
    torch.manual_seed(0)
    model = VisionTransformer(**VIT).double().train()
    x = images(2, 3, 16, 16)
    results = []
    for model.gradient_checkpointing in (False, True):
        torch.manual_seed(1)
        out, _ = model(x, need_weights=False)
        results.append(gradients(model, x, out))
    torch.testing.assert_close(*results)
    with pytest.raises(ValueError, match=r"need_weights: expected False.*checkpointing"):
        model(x)
    assert model.eval()(x)[1] is not None


def test_forward_features_are_what_the_head_sees():
    model = VisionTransformer(**VIT).eval()
    x = images(2, 3, 16, 16, dtype=torch.float32)
    features = model.forward_features(x)
    assert features.shape == (2, 17, 24)
    torch.testing.assert_close(model.head(features[:, 0]), model(x)[0])


def test_resized_model_takes_other_images():
    model = VisionTransformer(**VIT).eval()
    cls, grid = model.pos_embed[:, :1].clone(), model.pos_embed[:, 1:].clone()
    assert model.resize(24) is model
    assert model.pos_embed.shape == (1, 37, 24) and model.pos_embed.requires_grad
    assert torch.equal(model.pos_embed[:, :1], cls)
    torch.testing.assert_close(model.pos_embed[:, 1:].mean(1), grid.mean(1), atol=0.02, rtol=0)
    assert model(torch.randn(1, 3, 24, 24))[0].shape == (1, 5)
    with pytest.raises(ValueError, match=r"\[B, 3, 24, 24\].*16, 16"):
        model(torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"img_size: expected a multiple of patch_size = 4, got 18"):
        model.resize(18)


def test_resize_to_the_same_size_changes_nothing():
    model = VisionTransformer(**VIT)
    before = model.pos_embed.detach().clone()
    torch.testing.assert_close(model.resize(16).pos_embed.detach(), before)


def test_norm_eps_reaches_every_norm():
    model = VisionTransformer(**VIT, norm_eps=1e-3)
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-3}


# -- torch's own machinery -----------------------------------------------------------------------------------------


@pytest.mark.compile
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_compiles_fullgraph_without_weights(training):
    torch._dynamo.reset()
    model = VisionTransformer(**VIT, dropout=0.1 if not training else 0.0).train(training)
    x = images(2, 3, 16, 16, dtype=torch.float32)
    compiled = torch.compile(lambda x: model(x, need_weights=False)[0], fullgraph=True)
    left, right = compiled(x), model(x)[0]
    torch.testing.assert_close(left, right)
    torch.testing.assert_close(gradients(model, x, left), gradients(model, x, right), atol=1e-4, rtol=1e-4)


@pytest.mark.compile
def test_eval_model_exports_without_weights():
    model = VisionTransformer(**VIT).eval()
    x = torch.randn(2, 3, 16, 16)
    program = torch.export.export(model, (x,), {"need_weights": False})
    torch.testing.assert_close(program.module()(x, need_weights=False)[0], model(x)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    model = VisionTransformer(**VIT, dropout=0.0)
    x = images(2, 3, 16, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        out, maps = model(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), model(x)[0], atol=0.05, rtol=0.05)
    torch.testing.assert_close(maps[0].dense().float(), model(x)[1][0].dense(), atol=0.01, rtol=0.05)
    out.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_channels_last_images_give_the_same_output():
    model = VisionTransformer(**VIT).eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last))[0], model(x)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_model_runs(dtype):
    model = VisionTransformer(**VIT).to(dtype).eval()
    out, maps = model(torch.randn(2, 3, 16, 16, dtype=dtype))
    assert out.dtype == maps[0].dtype == maps[0].dense().dtype == dtype and torch.isfinite(out).all()


def test_model_survives_copies_after_a_forward():
    model = VisionTransformer(**VIT).eval()
    x = torch.randn(1, 3, 16, 16)
    out = model(x)[0]
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x)[0], out)


def test_empty_batch_works():
    model = VisionTransformer(**VIT).eval()
    logits, maps = model(torch.randn(0, 3, 16, 16))
    assert logits.shape == (0, 5) and maps[0].dense().shape == (0, 4, 17, 17)


def test_model_learns():
    torch.manual_seed(0)
    model = VisionTransformer(**VIT, dropout=0.0)
    x, target = torch.randn(20, 3, 16, 16), torch.arange(20) % 5
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x)[0], target)
        loss.backward()
        optimizer.step()
    assert loss < 0.5


# -- errors --------------------------------------------------------------------------------------------------------

WRONG = {
    "image_of_another_size": (
        lambda: VisionTransformer(**VIT)(torch.randn(1, 3, 32, 8)),
        ValueError,
        r"x: expected images \[B, 3, 16, 16\].*\(1, 3, 32, 8\)",
    ),
    "image_of_other_channels": (
        lambda: PatchEmbedding(16, 4, 3, 8)(torch.randn(1, 1, 16, 16)),
        ValueError,
        r"x: expected images \[B, 3, 16, 16\].*\(1, 1, 16, 16\)",
    ),
    "image_is_not_a_tensor": (lambda: PatchEmbedding(16, 4)([1]), TypeError, r"x: .*tensor of images, got list"),
    "size_without_whole_patches": (
        lambda: VisionTransformer(30, 4),
        ValueError,
        r"img_size: expected a multiple of patch_size = 4, got 30",
    ),
    "heads_do_not_divide": (
        lambda: MultiHeadSelfAttention(10, 3),
        ValueError,
        r"embed_dim: expected a multiple of num_heads = 3, got 10",
    ),
    "no_depth": (lambda: VisionTransformer(**VIT | {"depth": 0}), ValueError, r"depth: .*at least 1, got 0"),
    "no_classes": (lambda: VisionTransformer(**VIT | {"num_classes": 0}), ValueError, r"num_classes: .*got 0"),
    "dropout_above_one": (lambda: MultiHeadSelfAttention(8, 2, 1.5), ValueError, r"dropout: .*got 1.5"),
    "mlp_of_no_channels": (lambda: TransformerBlock(8, 2, 0.0), ValueError, r"mlp_ratio: .*got 0.0"),
    "eps_is_negative": (lambda: TransformerBlock(8, 2, norm_eps=-1.0), ValueError, r"norm_eps: .*at least 0, got -1.0"),
    "sequence_of_other_channels": (
        lambda: MultiHeadSelfAttention(8, 2)(torch.randn(1, 5, 9)),
        ValueError,
        r"x: expected \[B, N, 8\], got shape \(1, 5, 9\)",
    ),
    "mask_of_other_length": (
        lambda: MultiHeadSelfAttention(8, 2)(torch.randn(1, 5, 8), key_padding_mask=torch.ones(1, 4) > 0),
        ValueError,
        r"key_padding_mask: .*\(1, 5\).*\(1, 4\)",
    ),
}


@pytest.mark.parametrize("scenario", WRONG)
def test_wrong_input_is_named(scenario):
    call, exception, pattern = WRONG[scenario]
    with pytest.raises(exception, match=pattern):
        call()
