"""All pictures of the demo: those of the data and of all models here, those of one model from its own file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from advkern import plots
from advkern.demo.data import Data
from advkern.demo.picture import Figure, Picture
from advkern.demo.runner import Result, Training

with plots.demo_extra():
    from matplotlib.layout_engine import ConstrainedLayoutEngine


def collect(results: Sequence[Result]) -> list[Picture]:
    """The pictures in the order of the report."""
    data = {result.experiment.data.name: result.experiment.data for result in results}
    pictures = [_graph(each) for each in data.values() if each.network is not None]
    for result in results:
        if result.experiment.pictures is not None:
            pictures += result.experiment.pictures(result)
    return [*pictures, _sizes(results), _curves(results)]


def _graph(data: Data) -> Picture:
    train = data.train.tolist()
    layout = cache(data.layout) if data.layout else lambda: None  # drawn twice, laid out once
    labels = data.labels.tolist()

    def draw() -> Figure:
        figure = Figure(figsize=(6.8, 5.4), layout="constrained")
        names = dict(enumerate(data.classes))
        plots.graph(data.network, labels, figure.subplots(), pos=layout(), names=names, marked=train)
        return figure

    inside = sum(labels[a] == labels[b] for a, b in data.network.edges) / data.network.number_of_edges()
    return Picture(
        name=f"{data.name}_graph",
        title=data.title,
        caption=f"A dot is a sample in the colour of its class; ringed are the {len(train)} whose class the models "
        f"were told in training. {inside:.0%} of the edges join two of one class, and along them a graph network "
        "passes on what it knows.",
        draw=draw,
    )


def _sizes(results: Sequence[Result]) -> Picture:
    sizes = {_title(result): result.row.parameters for result in results}

    def draw() -> Figure:
        figure = Figure(figsize=(6.8, 1.2 + 0.42 * len(sizes)), layout="constrained")
        plots.model_sizes(sizes, figure.subplots())
        return figure

    least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    return Picture(
        name="model_sizes",
        title="Model sizes",
        caption=f"A bar is the number of parameters that a model learns, on a scale on which each step is ten times "
        f"the last. {most} has {sizes[most] / sizes[least]:,.0f} times as many as {least}.",
        draw=draw,
    )


def _curves(results: Sequence[Result]) -> Picture:
    def draw() -> Figure:
        figure = Figure(figsize=(13, 2.9 * len(results)), layout=ConstrainedLayoutEngine(h_pad=0.1))
        rows = figure.subplots(len(results), 2, squeeze=False)
        for result, (left, right) in zip(results, rows, strict=True):
            _draw_curves(result, left, right)
        return figure

    seeds = results[0].row.seeds
    each = "one training" if seeds == 1 else f"the mean of {seeds} trainings, in a band from the least to the greatest"
    gap, where = max((abs(result.row.accuracy - result.row.twin_accuracy), _title(result)) for result in results)
    return Picture(
        name="training_curves",
        title="Training curves",
        caption=f"A curve is {each}: the thick one advkern's, the dashed one its twin's in plain PyTorch, which starts "
        f"from the same weights. They end at most {100 * gap:.1f} points apart ({where}), by dropout, which each "
        "draws in its own way, and by rounding.",
        draw=draw,
    )


def _draw_curves(result: Result, left: Any, right: Any) -> None:
    loss = {name: [run.loss for run in runs] for name, runs in _named(result).items()}
    accuracy = {name: [run.accuracy for run in runs] for name, runs in _named(result).items()}
    plots.training_curves(loss, left, quantity="training loss").set_title(_title(result))
    plots.training_curves(accuracy, right, quantity=result.experiment.quantity).set_title(_title(result))
    left.set_ylim(bottom=0)
    right.set_ylim(0, 1.02)


def _named(result: Result) -> dict[str, list[Training]]:
    return {"advkern": result.ours, "plain PyTorch": result.twin}


def _title(result: Result) -> str:
    return f"{result.row.model} on {result.row.data}"
