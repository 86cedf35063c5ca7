"""``load_pretrained``: files, wrappers, reports; a bad checkpoint is a clear error and leaves the model untouched."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from advkern.nn import GCN, ODEFunc, VisionTransformer
from advkern.weights import WeightsError, export_state_dict, import_state_dict, load_pretrained

SIZES = {"img_size": 16, "patch_size": 8, "num_classes": 3, "embed_dim": 8, "depth": 1, "num_heads": 2}


@pytest.fixture
def model():
    return VisionTransformer(**SIZES)


@pytest.fixture
def state():
    return VisionTransformer(**SIZES).state_dict()


@pytest.fixture
def untouched(model):
    """Fails the test where the model's parameters, or what they hold, have changed."""
    before, parameters = copy.deepcopy(model.state_dict()), list(model.parameters())
    yield
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def assert_loaded(model, state):
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)


# -- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_files_of_torch(model, state, tmp_path, suffix, zipped):
    path = tmp_path / f"vit{suffix}"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert load_pretrained(model, path).complete
    assert_loaded(model, state)


def test_files_of_safetensors(model, state, tmp_path):
    path = str(tmp_path / "vit.safetensors")
    pytest.importorskip("safetensors.torch").save_file(export_state_dict(model, "timm"), path)
    expected = copy.deepcopy(model.state_dict())
    model.load_state_dict(state)
    report = load_pretrained(model, path)
    assert report.source == "timm" and report.complete
    assert_loaded(model, expected)


def test_without_safetensors_the_remedy_is_named(model, tmp_path, monkeypatch, untouched):
    (tmp_path / "vit.safetensors").touch()
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"advkern\[weights\]"):
        load_pretrained(model, tmp_path / "vit.safetensors")


WRAPPERS = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
    "model": lambda state: {"model": state},
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "_orig_mod.": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_taken_off_and_named(model, state, tmp_path, wrapper):
    torch.save(WRAPPERS[wrapper](state), tmp_path / "vit.pt")
    report = load_pretrained(model, tmp_path / "vit.pt")
    assert report.complete and len(report.notes) == 1 and repr(wrapper) in report.notes[0]
    assert_loaded(model, state)


def test_several_wrappers(model, state):
    nested = {"state_dict": {"model": {f"module._orig_mod.{key}": value for key, value in state.items()}}}
    assert len(load_pretrained(model, nested).notes) == 4
    assert_loaded(model, state)


def test_values_are_cast_to_the_models_type(model, state):
    halves = {key: value.half() for key, value in state.items()}
    load_pretrained(model, halves)
    assert_loaded(model, {key: value.float() for key, value in halves.items()})


MODULES = {
    "ODEFunc": lambda: ODEFunc(3),
    "linear": lambda: nn.Linear(2, 3),
    "norm": lambda: nn.BatchNorm1d(3),
    "DataParallel": lambda: nn.DataParallel(nn.Linear(2, 3)),
    "compiled": lambda: torch.compile(nn.Linear(2, 3)),
    "a child named module": lambda: nn.ModuleDict({"module": nn.Linear(2, 3), "other": nn.ReLU()}),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_any_module_loads_its_own_keys(make):
    model, other = make(), make()
    report = load_pretrained(model, other.state_dict())
    assert report.source == "advkern" and not report.notes
    assert_loaded(model, other.state_dict())


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod."])
def test_a_prefix_before_a_models_own_is_taken_off(wrapper):
    model, other = nn.DataParallel(nn.Linear(2, 3)), nn.DataParallel(nn.Linear(2, 3))
    load_pretrained(model, WRAPPERS[wrapper](other.state_dict()))
    assert_loaded(model, other.state_dict())


class Nested(nn.Module):
    """Has a ``weight``, and a child ``module`` with another one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))
        self.module = nn.Linear(2, 3, bias=False)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod."])
def test_a_prefix_that_makes_other_keys_of_the_models_own(wrapper):
    model, other = Nested(), Nested()
    load_pretrained(model, WRAPPERS[wrapper](other.state_dict()))
    assert_loaded(model, other.state_dict())


def test_gradients_and_optimisers_keep_their_parameters(model, state):
    parameters = list(model.parameters())
    load_pretrained(model, state)
    assert all(a is b and a.requires_grad for a, b in zip(model.parameters(), parameters, strict=True))


# -- the report ----------------------------------------------------------------------------------------------------


def test_report_names_every_key(model, state):
    state = dict(state)
    del state["norm.bias"]
    state |= {"extra": torch.zeros(2), "head.weight": torch.zeros(4, 8)}
    with pytest.raises(WeightsError) as raised:
        load_pretrained(model, state)
    strict = raised.value.report
    report = load_pretrained(model, state, strict=False)
    assert report == strict and not report.complete
    assert report.missing == ["norm.bias"] and report.unexpected == ["extra"]
    assert [mismatch.key for mismatch in report.mismatched] == ["head.weight"]
    assert sorted(report.matched) == sorted(model.state_dict().keys() - {"norm.bias", "head.weight"})
    assert str(report).splitlines() == [
        f"advkern: {len(report.matched)} matched",
        "  missing (1):",
        "    norm.bias",
        "  unexpected (1):",
        "    extra",
        "  mismatched (1):",
        "    head.weight: [4, 8] float32 in the checkpoint, [3, 8] float32 in the model",
    ]
    assert str(report) in str(raised.value)


def test_what_does_not_fit_stays_as_it_was(model, state):
    before = copy.deepcopy(model.state_dict())
    report = load_pretrained(model, {**state, "head.weight": torch.zeros(4, 8)}, strict=False)
    assert_loaded(model, {**state, "head.weight": before["head.weight"]})
    assert len(report.mismatched) == 1


# -- bad checkpoints -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_file(model, state, tmp_path, untouched, suffix, kept):
    path = tmp_path / f"vit{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(dict(state), str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    with pytest.raises(WeightsError, match=r"vit\..*expected a whole file of tensors"):
        load_pretrained(model, path)


def test_truncated_file_of_the_older_kind(model, state, tmp_path, untouched):
    path = tmp_path / "vit.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 100])
    with pytest.raises(WeightsError, match="expected a whole file of tensors"):
        load_pretrained(model, path)


class Payload:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


SAVERS = {
    "torch": torch.save,
    "torch, older": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pickle": lambda content, path: path.write_bytes(pickle.dumps(content)),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("saver", SAVERS)
def test_malicious_pickle_does_not_run(model, state, tmp_path, untouched, saver, suffix):
    # torch meets an unknown opcode of a plain pickle before the call
    named = suffix == ".pt" and saver != "pickle"
    message = r"a pickle that calls io\.open: it could run code" if named else "does not read as such"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch")
    path, trace = tmp_path / f"vit{suffix}", tmp_path / "trace"
    SAVERS[saver]({**state, "head.weight": Payload(trace)}, path)
    with pytest.raises(WeightsError, match=message) as raised:
        load_pretrained(model, path)
    assert "trust" not in str(raised.value)  # torch's message advises how to load it nevertheless
    assert not trace.exists()


def test_the_payload_would_have_run(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "trace"))).close()
    assert (tmp_path / "trace").exists()


def test_pickled_module_is_refused(model, tmp_path, untouched):
    torch.save(VisionTransformer(**SIZES), tmp_path / "vit.pt")
    with pytest.raises(WeightsError, match=r"calls advkern\.nn\.vit\.VisionTransformer: it could run code"):
        load_pretrained(model, tmp_path / "vit.pt")


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("other", [lambda: GCN(3, 4, 2), lambda: nn.Linear(2, 3)], ids=["GCN", "linear"])
def test_another_architecture(model, untouched, other, strict):
    with pytest.raises(WeightsError, match=r"has nothing of VisionTransformer.*another architecture"):
        load_pretrained(model, other().state_dict(), strict=strict)


@pytest.mark.parametrize("strict", [True, False])
def test_nothing_of_the_right_shape(model, untouched, strict):
    with pytest.raises(WeightsError, match=r"(?s)nothing that fits VisionTransformer: other sizes.*mismatched"):
        load_pretrained(model, VisionTransformer(16, 4, 1, 4, 12, 1, 2).state_dict(), strict=strict)


def test_integers_in_place_of_floats(model, state, untouched):
    with pytest.raises(WeightsError, match=r"norm\.bias: \[8\] int8 in the checkpoint, \[8\] float32"):
        load_pretrained(model, {**state, "norm.bias": torch.zeros(8, dtype=torch.int8)})


CONTENTS = {
    "a list": ([torch.zeros(2)], "expected tensors by name, got list"),
    "a tensor": (torch.zeros(2), "expected tensors by name, got Tensor"),
    "nothing": ({}, "an empty mapping"),
    "a number among the tensors": ({"head.weight": torch.zeros(3, 8), "lr": 0.1}, "got float at 'lr'"),
    "a number as key": ({0: torch.zeros(3, 8)}, "got Tensor at 0"),
    "a sparse tensor": ({"head.weight": torch.eye(3, 8).to_sparse()}, "dense tensors that hold values.*'head.weight'"),
}


@pytest.mark.parametrize(("content", "message"), CONTENTS.values(), ids=CONTENTS)
def test_file_that_is_no_checkpoint(model, tmp_path, untouched, content, message):
    torch.save(content, tmp_path / "vit.pt")
    with pytest.raises(WeightsError, match=message):
        load_pretrained(model, tmp_path / "vit.pt")


def test_mapping_that_holds_itself(model, tmp_path, untouched):
    endless = {}
    endless["state_dict"] = endless
    torch.save(endless, tmp_path / "vit.pt")
    with pytest.raises(WeightsError, match="got dict at 'state_dict'"):
        load_pretrained(model, tmp_path / "vit.pt")


def test_flipped_bytes(model, state, tmp_path, untouched):
    """Whatever a byte is changed to: an error of ours, or a checkpoint that fits (and is put back here)."""
    path = tmp_path / "vit.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    whole, before = path.read_bytes(), copy.deepcopy(model.state_dict())
    refused = 0
    for position in range(0, 3000, 37):  # the pickle comes before the values
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            load_pretrained(model, path)
            model.load_state_dict(before)
        except WeightsError:
            refused += 1
    assert refused > 50


def test_tensors_without_values(model, state, untouched):
    with pytest.raises(WeightsError, match="hold values"):
        load_pretrained(model, {key: value.to("meta") for key, value in state.items()})


def test_file_that_is_not_there(model, tmp_path, untouched):
    for name in ("vit.pt", "vit.safetensors"):
        with pytest.raises(FileNotFoundError, match="vit"):
            load_pretrained(model, tmp_path / name)


def test_unknown_kind_of_file(model, tmp_path, untouched):
    with pytest.raises(WeightsError, match=r"vit\.onnx: expected a file whose name ends in one of \.pt"):
        load_pretrained(model, tmp_path / "vit.onnx")


# -- arguments -----------------------------------------------------------------------------------------------------


def test_wrong_arguments(model, state, untouched):
    with pytest.raises(TypeError, match="source: expected a path or a state_dict, got int"):
        load_pretrained(model, 3)
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got dict"):
        load_pretrained(dict(state), state)
    with pytest.raises(ValueError, match=r"target: expected one of 'advkern', 'timm', 'torchvision'.*got 'keras'"):
        export_state_dict(model, "keras")
    with pytest.raises(ValueError, match="source: expected one of 'advkern' for ODEFunc, got 'timm'"):
        import_state_dict(ODEFunc(3), state, "timm")
    with pytest.raises(ValueError, match="resize_positions: expected False for ODEFunc"):
        load_pretrained(ODEFunc(3), ODEFunc(3).state_dict(), resize_positions=True)
    with pytest.raises(ValueError, match="meta device"):
        load_pretrained(VisionTransformer(**SIZES).to("meta"), state)


def test_import_is_as_strict_as_loading(model, state, untouched):
    with pytest.raises(WeightsError, match="missing"):
        import_state_dict(model, state, "timm")


def test_exported_tensors_are_contiguous(model):
    """So that safetensors takes them."""
    for target in ("timm", "torchvision", "advkern"):
        assert all(value.is_contiguous() for value in export_state_dict(model, target).values())


def test_import_needs_torch_alone():
    code = "import sys, advkern.weights; assert not {'safetensors', 'timm', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
