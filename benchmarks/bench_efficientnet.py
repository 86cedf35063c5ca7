"""EfficientNet-B0 beside timm's and torchvision's, and the squeeze-excite chain beside what fusing it would give."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from advkern.nn import EfficientNet, SqueezeExcite
from advkern.testing.peers import import_peer

BATCH, PIXELS, CLASSES = 8, 224, 1000
# channels, squeeze channels and pixels a side of B0's sixteen squeezes
SQUEEZES = (
    (32, 8, 112),
    (96, 4, 56),
    (144, 6, 56),
    (144, 6, 28),
    (240, 10, 28),
    (240, 10, 14),
    *[(480, 20, 14)] * 3,
    *[(672, 28, 14)] * 2,
    (672, 28, 7),
    *[(1152, 48, 7)] * 4,
)


def last(module_or_tensor: Any) -> Any:
    return module_or_tensor.to(memory_format=torch.channels_last)


def torchvision_b0() -> nn.Module:
    """Torchvision's network."""
    return import_peer("torchvision.models").efficientnet_b0()


def timm_b0() -> nn.Module:
    """timm's network, with the drop rates of ours."""
    return import_peer("timm").create_model("efficientnet_b0", drop_rate=0.2, drop_path_rate=0.2)


class TutorialExcite(nn.Module):
    """The tutorial's lines."""

    def __init__(self, ours: SqueezeExcite) -> None:
        super().__init__()
        self.fc1, self.fc2, self.activation = ours.fc1, ours.fc2, ours.activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(self.activation(self.fc1(scale))))


class TutorialBlock(nn.Module):
    """The tutorial's lines, around the layers of one of our blocks; drop path as torchvision's."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        layers = [TutorialExcite(each) if isinstance(each, SqueezeExcite) else each for each in ours.conv]
        self.conv, self.use_residual, self.drop_path = nn.Sequential(*layers), ours.use_residual, ours.drop_path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv(x)
        if not self.use_residual:
            return out
        if self.training and self.drop_path.p:
            out = out * self.drop_path(out.new_ones(len(out), 1, 1, 1))
        return x + out


def tutorial_b0() -> nn.Module:
    """The tutorial's blocks in our network."""
    model: Any = EfficientNet("b0")
    parts = [nn.Sequential(*model.features[0])]
    parts += [nn.Sequential(*(TutorialBlock(block) for block in stage)) for stage in model.features[1:8]]
    parts += [nn.Sequential(*model.features[8])]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.classifier)


def networks() -> dict[str, nn.Module]:
    """Every network that imports here, with the weights of ours, channels last."""
    made: dict[str, Callable[[], nn.Module]] = {
        "advkern": lambda: EfficientNet("b0"),
        "timm": timm_b0,
        "torchvision": torchvision_b0,
        "tutorial": tutorial_b0,
    }
    found: dict[str, nn.Module] = {}
    for name, make in made.items():
        try:
            found[name] = last(make())
        except ImportError:
            continue
        states = found[name].state_dict(), found["advkern"].state_dict()
        assert [v.shape for v in states[0].values()] == [v.shape for v in states[1].values()], name
        found[name].load_state_dict(dict(zip(states[0], states[1].values(), strict=True)))
    return found


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return last(torch.randn(BATCH, 3, PIXELS, PIXELS, generator=generator))


def facts(work: str, threads: int) -> dict[str, Any]:
    return {"work": work, "graph": f"B0, batch {BATCH}, {PIXELS} pixels", "threads": threads}


@torch.no_grad()
def bench_forward(compare, threads, images):
    models = {name: model.eval() for name, model in networks().items()}
    settle(models, images)
    candidates = {name: lambda m=model: m(images) for name, model in models.items()}
    wide = copy.deepcopy(models["tutorial"]).double()
    compare(candidates, lambda: wide(images.double()), **facts("forward", threads))


def settle(models: dict[str, nn.Module], images: torch.Tensor) -> None:
    """Give every norm the averages of a batch, the same in all: nothing grows or fades over the layers."""
    model = models["advkern"].train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model(images)
    for norm in norms:
        norm.momentum = 0.1
    state = model.eval().state_dict()
    for other in models.values():
        other.load_state_dict(dict(zip(other.state_dict(), state.values(), strict=True)))


def bench_training_step(compare, threads, images):
    """Forward, backward and a step of SGD; their gradients are compared in the tests."""
    target = torch.arange(BATCH)

    def stepper(model):
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)

        def step():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), target).backward()
            optimizer.step()

        return step

    candidates = {name: stepper(model.train()) for name, model in networks().items()}
    compare(candidates, **facts("training step", threads))


@pytest.mark.parametrize("work", ["forward", "forward+backward"])
def bench_squeeze_excite(compare, threads, work):
    """All sixteen squeezes of B0: ours, the tutorial's lines, and these fused by Inductor."""
    torch.manual_seed(0)
    ours = nn.ModuleList(SqueezeExcite(c, squeeze_channels=q, activation=nn.SiLU) for c, q, _ in SQUEEZES)
    torch._dynamo.reset()
    fused = [torch.compile(TutorialExcite(module), dynamic=False) for module in ours]
    xs = [last(torch.randn(BATCH, c, side, side)) for c, _, side in SQUEEZES]
    cotangents = [torch.randn_like(x) for x in xs]
    leaves = [x.requires_grad_(work != "forward") for x in xs]
    ours.requires_grad_(work != "forward")

    def chain(modules, owners=ours, xs=leaves):
        if work == "forward":
            return lambda: tuple(module(x) for module, x in zip(modules, xs, strict=True))
        return lambda: tuple(
            grad
            for module, own, x, g in zip(modules, owners, xs, cotangents, strict=True)
            for grad in torch.autograd.grad(module(x), [x, *own.parameters()], g.to(x.dtype))
        )

    wide = copy.deepcopy(ours).double()
    truth = chain(
        [TutorialExcite(module) for module in wide],
        wide,
        [x.detach().double().requires_grad_(work != "forward") for x in xs],
    )
    tutorial = [TutorialExcite(module) for module in ours]
    candidates = {"advkern": chain(ours), "tutorial": chain(tutorial), "inductor": chain(fused)}
    compare(candidates, truth, **facts(f"squeeze-excite, {work}", threads))
