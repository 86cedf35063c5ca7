"""A neural ODE fitted to the hares and lynxes of the Hudson's Bay Company, beside the same integration in a loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advkern import plots
from advkern.demo.data import Data
from advkern.demo.picture import Figure, Picture
from advkern.demo.runner import Contender, Experiment, Result
from advkern.nn import NeuralODE, ODEFunc
from advkern.ops import odeint

# Pelts in thousands, 1900 to 1920: Howard 2009, "Modeling basics", as in Carpenter 2018, Stan's case study
HARES = (
    *(30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1),
    *(40.3, 57, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7),
)
LYNXES = (4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4, 8, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6)
FIRST_YEAR = 1900
AHEAD = 4  # years that are foretold from one
TIMES = tuple(float(year) for year in range(AHEAD + 1))
STEP, HIDDEN = 0.5, 32  # years, units


def experiments(device: torch.device) -> list[Experiment]:
    """From each year's pelts the next four years', by an autonomous ODE of two states; one window in five is tested."""
    data = pelts().to(device)
    return [
        Experiment(
            model="NeuralODE",
            data=data,
            op="rk4",
            ours=Contender(
                build=lambda: NeuralODE(ODEFunc(2, hidden_dim=HIDDEN), "rk4", STEP),
                scores=lambda model, rows: model(data.features[rows], TIMES)[1:].transpose(0, 1),
            ),
            twin=Contender(
                build=EagerNeuralODE,
                scores=lambda model, rows: model(data.features[rows], TIMES)[1:].transpose(0, 1),
            ),
            epochs=400,
            learning_rate=0.02,
            loss=nn.functional.mse_loss,
            score=explained,
            quantity="R² of the tested windows",
            pictures=pictures,
        )
    ]


def pelts() -> Data:
    """Windows of five years: the first one's logarithms of pelts, standardised, and as labels those of the others.

    Windows overlap, so a tested one's years stand in trained ones too: this tests the field, not a forecast.
    """
    states = standardised()
    count = len(states) - AHEAD
    labels = torch.stack([states[k + 1 : k + 1 + AHEAD] for k in range(count)])  # [windows, AHEAD, 2]
    return Data(
        name="hare and lynx",
        title="pelts of hares and lynxes, 1900 to 1920",
        features=states[:count],
        labels=labels,
        classes=("hares", "lynxes"),
        train_mask=torch.arange(count) % 5 != 2,
    )


def logarithms() -> Tensor:  # [years, 2]
    """The decimal logarithms of the pelts in thousands."""
    return torch.tensor([HARES, LYNXES]).T.log10()


def standardised() -> Tensor:  # [years, 2]
    """The logarithms with mean 0 and deviation 1."""
    logs = logarithms()
    return (logs - logs.mean(0)) / logs.std(0)


def explained(predicted: Tensor, actual: Tensor) -> float:
    """R²: the share of the variance that is explained."""
    return float(1 - (predicted - actual).pow(2).mean() / actual.var(unbiased=False))


class EagerNeuralODE(nn.Module):
    """The classical rule as a loop in plain PyTorch; its weights have the names of ``advkern.nn.NeuralODE``'s."""

    def __init__(self) -> None:
        super().__init__()
        self.func = nn.Module()
        self.func.net = nn.Sequential(nn.Linear(2, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2))

    def forward(self, x: Tensor, times: tuple[float, ...]) -> Tensor:
        """Return the states ``[T, N, 2]`` at whole years."""
        f = self.func.get_submodule("net")
        path, h = [x], STEP
        for _ in range(len(times) - 1):
            for _ in range(round(1 / h)):
                k1 = f(x)
                k2 = f(x + h * k1 / 2)
                k3 = f(x + h * k2 / 2)
                k4 = f(x + h * k3)
                x = x + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6
            path.append(x)
        return torch.stack(path)


def pictures(result: Result) -> list[Picture]:
    """The fit beside the data, and the field with trajectories from a grid of starting points."""
    func = result.ours[0].model.func.cpu()
    assert isinstance(func, ODEFunc)
    return [
        Picture(
            name="hare_and_lynx_fit",
            title="Hares and lynxes, fitted",
            caption="Dots and squares are the pelts of a year, lynxes a year or two behind hares, and each line starts "
            f"at one of them and foretells the next {AHEAD} years. Of the variance in the tested windows the fitted "
            f"equation explains {result.row.accuracy:.0%}.",
            draw=lambda: _fit(func),
        ),
        Picture(
            name="hare_and_lynx_field",
            title="The field that was fitted",
            caption="Arrows are the slopes of the fitted equation, and blue lines follow it for five years from a grid "
            "of starts. The measured years, joined in red, turn against the clock: more hares, then more lynxes, then "
            "fewer hares, then fewer lynxes.",
            draw=lambda: _field(func),
        ),
    ]


def _trajectory(func: ODEFunc, start: Tensor, years: float, points: int) -> Tensor:  # [points, N, 2], logarithms
    logs = logarithms()
    times = [years * k / (points - 1) for k in range(points)]
    with torch.no_grad():
        states = odeint(func, start, times, step_size=STEP)
    assert isinstance(states, Tensor)  # a tuple only for a tuple of states
    return states * logs.std(0) + logs.mean(0)


def _fit(func: ODEFunc) -> Figure:
    figure = Figure(figsize=(6.8, 5.6), layout="constrained")
    years = range(FIRST_YEAR, FIRST_YEAR + len(HARES))
    measured = {name: (years, values) for name, values in (("hares", HARES), ("lynxes", LYNXES))}
    fitted: dict[str, list[tuple[list[float], list[float]]]] = {name: [] for name in measured}
    for first in range(0, len(HARES) - AHEAD, AHEAD):
        path = 10 ** _trajectory(func, standardised()[first : first + 1], AHEAD, 41)[:, 0]
        times = [FIRST_YEAR + first + AHEAD * j / 40 for j in range(41)]
        for k, name in enumerate(measured):
            fitted[name].append((times, path[:, k].tolist()))
    ax = plots.fit(measured, fitted, figure.subplots())
    ax.set(xlabel="year", ylabel="pelts, thousands", xticks=list(years)[::4])
    return figure


def _field(func: ODEFunc) -> Figure:
    figure = Figure(figsize=(6.8, 5.6), layout="constrained")
    ax = figure.subplots()
    logs = logarithms()
    side = torch.linspace(-2, 2, 21)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        slopes = func(0.0, grid) * logs.std(0)
    plots.vector_field(grid * logs.std(0) + logs.mean(0), slopes, ax)
    starts = torch.cartesian_prod(side[::5], side[::5])
    plots.trajectories(_trajectory(func, starts, 5.0, 101), ax, label="5 years from a grid of starts")
    dashed = ax.plot(*logs.T.tolist(), "D--", color=plots.COLORS[2], markersize=3.5, linewidth=0.7)
    dashed[0].set_label("measured, 1900 to 1920")
    ax.set(xlabel="hares: log10 of thousand pelts", ylabel="lynxes: log10 of thousand pelts")
    ax.legend(frameon=True)
    return figure
