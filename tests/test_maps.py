"""Attention maps: what they tell without computing anything, and that everything else sees the values."""

import einops
import numpy as np
import pytest
import torch

from advkern.maps import AttentionMap, AttentionMaps


class Counting:
    """A source that counts how often it is asked."""

    def __init__(self, values):
        self.values, self.asked = values, 0

    def dense(self):
        self.asked += 1
        return self.values * 2


@pytest.fixture
def source():
    return Counting(torch.arange(12.0).view(3, 4).requires_grad_())


@pytest.fixture
def attention(source):
    return AttentionMap(source, (3, 4), torch.float32, torch.device("cpu"), True)


def test_facts_compute_nothing(source, attention):
    assert isinstance(attention, torch.Tensor)
    assert attention.shape == (3, 4) and attention.size(1) == 4 and len(attention) == 3 and attention.numel() == 12
    assert attention.dim() == attention.ndim == 2 and attention.dtype == torch.float32 and attention.requires_grad
    assert attention.device.type == "cpu" and attention.is_floating_point()
    assert repr(attention) == "AttentionMap([3, 4], torch.float32, not computed)"
    assert source.asked == 0


USES = {
    "numpy": lambda a: torch.from_numpy(a.detach().numpy()),
    "asarray": lambda a: torch.from_numpy(np.asarray(a.detach())),
    "times": lambda a: a * 1,
    "from the right": lambda a: 1 * a,
    "index": lambda a: a[:],
    "iterate": lambda a: torch.stack(list(a)),
    "stack": lambda a: torch.stack([a, a])[0],
    "cat": lambda a: torch.cat(AttentionMaps([a, a]))[:3],
    "out of place": lambda a: a.clone(),
    "to": lambda a: a.to(torch.float64).float(),
    "einops": lambda a: einops.rearrange(einops.rearrange(a, "i j -> (i j)"), "(i j) -> i j", i=3),
    "matmul": lambda a: torch.eye(3) @ a,
    "tolist": lambda a: torch.tensor(a.tolist()),
    "dense": AttentionMap.dense,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_every_other_use_sees_the_values_and_computes_them_once(use, source, attention):
    for _ in range(2):
        assert torch.equal(use(attention).detach(), 2 * source.values.detach())
        assert type(use(attention)) is torch.Tensor
    assert source.asked == 1
    assert repr(attention).endswith("computed)") and "not" not in repr(attention)


def test_gradients_lead_back_to_the_forward(source, attention):
    with torch.no_grad():
        attention.dense()
    (grad,) = torch.autograd.grad((attention * 3).sum(), source.values)
    assert torch.equal(grad, torch.full((3, 4), 6.0))


def test_map_of_a_forward_without_grad_has_none(source):
    with torch.no_grad():
        attention = AttentionMap(source, (3, 4), torch.float32, torch.device("cpu"), False)
    assert not attention.requires_grad and not (attention * 1).requires_grad


def test_release_lets_go_of_values_and_source(source, attention):
    maps = AttentionMaps([attention])
    attention.dense()
    maps.release()
    assert attention.shape == (3, 4) and "released" in repr(attention)
    with pytest.raises(RuntimeError, match=r"AttentionMap: release\(\) was called"):
        attention.sum()


def test_maps_are_a_list(attention):
    maps = AttentionMaps([attention])
    assert isinstance(maps, list) and len(maps) == 1 and maps[0] is attention
