"""A small EfficientNet on handwritten digits, beside the tutorial's own blocks in the same network."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from advkern import plots
from advkern.demo.data import Data, digit_images
from advkern.demo.picture import Figure, Picture
from advkern.demo.runner import Contender, Experiment, Result
from advkern.nn import EfficientNet, compound_scaling

# of a B0 with a quarter of the channels and one block a stage: expand ratio, kernel, stride, channels
WIDTH, DEPTH = 0.25, 0.25
STEM, HEAD = 8, 320
STAGES = (
    (1, 3, 1, 8),
    (6, 3, 2, 8),
    (6, 5, 2, 16),
    (6, 3, 2, 24),
    (6, 5, 1, 32),
    (6, 5, 2, 48),
    (6, 3, 1, 80),
)
# ImageNet top-1 of one crop: Tan and Le 2019, arXiv:1905.11946, table 2
ACCURACY = {"b0": 77.1, "b1": 79.1, "b2": 80.1, "b3": 81.6, "b4": 82.9, "b5": 83.6, "b6": 84.0, "b7": 84.3}


def experiments(device: torch.device) -> list[Experiment]:
    """The digit of an image, enlarged to 16 x 16 pixels; one image in four is tested."""
    data = enlarged_digits().to(device)
    return [
        Experiment(
            model="EfficientNet",
            data=data,
            op=None,
            ours=Contender(build=network, scores=lambda model, rows: model(data.features[rows])),
            twin=Contender(build=twin, scores=lambda model, rows: model(data.features[rows])),
            epochs=8,
            batch_size=64,
            cooling=True,
            weight_decay=0.0,
            loss=nn.functional.cross_entropy,
            pictures=pictures,
        )
    ]


def enlarged_digits() -> Data:
    """The digits of 8 x 8 pixels at twice the size: five halvings leave little of an image."""
    data = digit_images()
    larger = nn.functional.interpolate(data.features, scale_factor=2.0, mode="bilinear")
    return replace(data, name="enlarged digits", title=f"{data.title}, enlarged to 16 x 16", features=larger)


def network() -> EfficientNet:
    """The network for one channel and ten classes, channels last; nothing is left out at random but features."""
    model = EfficientNet("b0", 10, 1, width=WIDTH, depth=DEPTH, drop_path=0.0)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not among its stubs


def twin() -> nn.Module:
    """The eager network, with the weights that :func:`network` draws."""
    with torch.device("meta"):
        eager = EagerEfficientNet(1, 10)
    eager.load_state_dict(network().state_dict(), assign=True)
    return eager


def pictures(result: Result) -> list[Picture]:
    """What B0 to B7 cost, and what they are worth."""

    def draw() -> Figure:
        figure = Figure(figsize=(6.8, 5.2), layout="constrained")
        plots.compound_scaling(scaled, ACCURACY, figure.subplots())
        return figure

    scaled = {variant: compound_scaling(variant) for variant in ACCURACY}
    gain = ACCURACY["b7"] - ACCURACY["b0"]
    return [
        Picture(
            name="compound_scaling",
            title="Compound scaling: EfficientNet B0 to B7",
            caption="Each pair of marks is one network, counted as built here: its parameters, and the multiply-adds "
            "of one image at its own resolution, against the ImageNet accuracy that Tan and Le published (2019, "
            f"arXiv:1905.11946). B7 takes {scaled['b7']['relative_params']:.1f} times the parameters of B0 and "
            f"{scaled['b7']['relative_flops']:.0f} times the multiply-adds for {gain:.1f} points more.",
            draw=draw,
        )
    ]


class EagerSqueeze(nn.Module):
    """Scale each channel by what two products read from all means, as in the tutorial."""

    def __init__(self, channels: int, squeeze_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled images."""
        scale = nn.functional.silu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.fc2(scale))


class EagerBlock(nn.Module):
    """The tutorial's block, with a squeeze of a quarter of its input."""

    def __init__(self, in_channels: int, out_channels: int, expand_ratio: int, stride: int, kernel_size: int) -> None:
        super().__init__()
        self.use_residual = stride == 1 and in_channels == out_channels
        hidden = in_channels * expand_ratio
        layers: list[nn.Module] = [] if expand_ratio == 1 else _conv_norm(in_channels, hidden, 1)
        layers += _conv_norm(hidden, hidden, kernel_size, stride, groups=hidden)
        layers += [EagerSqueeze(hidden, in_channels // 4), *_conv_norm(hidden, out_channels, 1)[:2]]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return x + self.conv(x) if self.use_residual else self.conv(x)


class EagerEfficientNet(nn.Module):
    """The tutorial's blocks in a network; its weights have the names of ``advkern.nn.EfficientNet``'s."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Sequential(*_conv_norm(in_channels, STEM, 3, stride=2)))
        channels = STEM
        for expand_ratio, kernel_size, stride, width in STAGES:
            self.features.append(nn.Sequential(EagerBlock(channels, width, expand_ratio, stride, kernel_size)))
            channels = width
        self.features.append(nn.Sequential(*_conv_norm(channels, HEAD, 1)))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(HEAD, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]``."""
        return self.classifier(self.features(x).mean((2, 3)))


def _conv_norm(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    padding = kernel_size // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.SiLU()]
