"""``advkern.convert``: the same numbers on our kernels, in the same objects."""

from __future__ import annotations

import copy
import io
import pickle

import models
import pytest
import torch

import advkern
from advkern import backend
from advkern.conversion.swap import Converted

CASES = pytest.mark.parametrize("name", models.CASES)


def converted_parts(model):
    return [m for m in model.modules() if isinstance(m, Converted)]


@CASES
@pytest.mark.parametrize("training", [False, True])
def test_outputs_and_gradients_obey_the_rule(name, training):
    original, inputs = models.make(name)
    for module in original.modules():  # what is drawn differs by nature: training without dropout here
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    if training and name.startswith("tutorial GAT"):
        pytest.skip("the tutorial writes the dropout of 0.6 into its forward")
    original.train(training)
    model = copy.deepcopy(original)
    report = advkern.convert(model)
    assert report.of("converted")
    models.assert_converted_matches(original, model, inputs, name)


@CASES
def test_the_kernels_are_called(name):
    model, inputs = models.make(name)
    assert not advkern.explain(model, *inputs).choices
    advkern.convert(model)
    taken = advkern.explain(model, *inputs).choices
    if name == "tutorial GAT, a lonely node":
        assert not {choice.op for choice in taken} & {"gat_attention"}
    else:
        assert taken


@CASES
def test_nothing_but_the_classes_changes(name):
    model, inputs = models.make(name)
    state = {key: id(value) for key, value in model.state_dict(keep_vars=True).items()}
    parameters = [id(p) for p in model.parameters()]
    modules, classes = list(model.modules()), [type(m) for m in model.modules()]
    attributes = [dict(m.__dict__) for m in modules]
    printed, drawn = repr(model), torch.get_rng_state()
    report = advkern.convert(model, *inputs)
    assert len(converted_parts(model)) == len(report.of("converted")) > 0
    for _ in range(2):  # converted, then reverted
        assert {key: id(value) for key, value in model.state_dict(keep_vars=True).items()} == state
        assert [id(p) for p in model.parameters()] == parameters
        assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
        assert [m.__dict__.keys() for m in modules] == [a.keys() for a in attributes]
        assert all(m.__dict__[k] is v for m, a in zip(modules, attributes, strict=True) for k, v in a.items())
        assert all(isinstance(m, c) for m, c in zip(modules, classes, strict=True))
        assert repr(model) == printed
        advkern.revert(model)
    assert [type(m) for m in model.modules()] == classes
    assert torch.equal(torch.get_rng_state(), drawn)


@CASES
def test_revert_gives_the_same_bits_as_before(name):
    model, inputs = models.make(name)
    before = models.results(model.eval(), inputs)
    advkern.convert(model)
    report = advkern.revert(model)
    assert report.of("reverted") and not converted_parts(model)
    after = models.results(model, inputs)
    assert all(torch.equal(a, b) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True))
    assert not advkern.revert(model).entries


@CASES
def test_return_types(name):
    model, inputs = models.make(name)
    before = model.eval()(*inputs)
    advkern.convert(model)
    after = model(*inputs)

    def alike(a, b):
        if isinstance(b, (list, tuple)):
            return isinstance(a, type(b)) and len(a) == len(b) and all(map(alike, a, b))
        return isinstance(a, torch.Tensor) and (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)

    assert alike(after, before)


@CASES
def test_copies_and_pickles_stay_converted(name):
    model, inputs = models.make(name)
    advkern.convert(model.eval())
    copies = [copy.deepcopy(model)]
    if not name.startswith("tutorial"):  # those classes live in a namespace that no import leads to
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        copies += [pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)]
    expected = models.results(model, inputs)
    for each in copies:
        assert [type(m) for m in each.modules()] == [type(m) for m in model.modules()]
        actual = models.results(each, inputs)
        assert all(torch.equal(a, b) for x, y in zip(actual, expected, strict=True) for a, b in zip(x, y, strict=True))
        advkern.revert(each)
        assert not converted_parts(each) and converted_parts(model)


@CASES
def test_an_optimiser_goes_on(name):
    model, inputs = models.make(name)
    optimiser = torch.optim.Adam(model.parameters())
    for k in range(3):
        if k == 1:
            advkern.convert(model)
        before = [p.detach().clone() for p in model.parameters()]
        optimiser.zero_grad()
        sum(t.sum() for t in models.tensors_with_graph(model(*inputs))[:1]).backward()
        optimiser.step()
        moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert any(moved)
    state = copy.deepcopy(model.state_dict())
    fresh, _ = models.make(name)
    fresh.load_state_dict(state)


def test_report_of_a_model():
    model, inputs = models.make("encoder")
    report = advkern.convert(model, *inputs)
    assert [(e.module, e.kind, e.action) for e in report.entries] == [
        ("layers.0.self_attn", "MultiheadAttention", "converted"),
        ("layers.1.self_attn", "MultiheadAttention", "converted"),
    ]
    assert 0 < report.largest_difference < 1e-5
    assert "layers.0.self_attn" in str(report) and "largest difference" in str(report)
    again = advkern.convert(model)
    assert {e.reason for e in again.entries} == {"is converted already"}
    assert again.largest_difference is None


def test_one_model_only():
    one, inputs = models.make("encoder")
    other, _ = models.make("encoder")
    advkern.convert(one)
    assert not converted_parts(other)
    assert not converted_parts(models.make("encoder")[0])
    with torch.random.fork_rng():
        assert not advkern.explain(other, *inputs).choices


def test_a_model_of_nothing_known():
    report = advkern.convert(torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.ones(1, 2))
    assert report.entries == () and report.largest_difference == 0
    assert "nothing" in str(report)


def test_shared_modules_stay_shared():
    attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    model = torch.nn.ModuleList([attention, attention])
    report = advkern.convert(model)
    assert [e.module for e in report.entries] == ["0"]
    assert model[0] is model[1] is attention


def test_hooks_are_kept():
    model, inputs = models.make("timm attention")
    seen = []
    model.register_forward_hook(lambda m, x, y: seen.append("forward"))
    model.register_forward_pre_hook(lambda m, x: seen.append("pre"))
    model.register_full_backward_hook(lambda m, gi, go: seen.append("backward"))
    model.register_state_dict_post_hook(lambda m, s, p, meta: seen.append("state_dict"))
    model.qkv.register_forward_hook(lambda m, x, y: seen.append("qkv"))
    advkern.convert(model, *inputs)
    assert seen == []  # sample inputs run on a copy without hooks
    models.results(model, inputs)
    model.state_dict()
    assert seen == ["pre", "qkv", "forward", "backward", "state_dict"]


def test_sample_inputs_leave_flags_buffers_and_random_state():
    attention, x = models.timm_attention(), models.sequence()
    model = torch.nn.Sequential(attention, torch.nn.BatchNorm1d(17))
    attention.eval()
    model[1].train()
    drawn, mean = torch.get_rng_state(), model[1].running_mean.clone()
    advkern.convert(model, x)
    assert torch.equal(torch.get_rng_state(), drawn) and torch.equal(model[1].running_mean, mean)
    assert not attention.training and model[1].training and model[1].num_batches_tracked == 0


def test_a_wrong_model():
    for call in (advkern.convert, advkern.revert):
        with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got list"):
            call([torch.nn.Linear(2, 2)])


def test_without_the_compiled_part_it_still_works():
    model, inputs = models.make("encoder")
    expected = model(*inputs)
    advkern.convert(model)
    with backend.use_backend("torch"):
        torch.testing.assert_close(model(*inputs), expected)
