"""The demo's pictures, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from advkern import plots
from advkern.demo.data import Data
from advkern.demo.runner import Result, Training

with plots.demo_extra():
    from matplotlib.figure import Figure  # not pyplot: no window system is asked for
    from matplotlib.layout_engine import ConstrainedLayoutEngine


def save(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write each graph, attention and the training curves into ``folder``, which is there; return the paths."""
    data = {result.experiment.data.name: result.experiment.data for result in results}
    figures = {f"{name}_graph.png": _graph(each) for name, each in data.items() if each.network is not None}
    for result in results:
        if result.experiment.attention is not None:
            figures[f"{result.row.data}_attention.png"] = _attention(result)
    figures["training_curves.png"] = _curves(results)
    for result in results:
        if result.experiment.pictures is not None:
            figures |= result.experiment.pictures(result)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=150)
    return [folder / name for name in figures]


def _graph(data: Data) -> Figure:
    figure = Figure(figsize=(9, 7), layout="constrained")
    train = data.train.tolist()
    ax = plots.graph(
        data.network,
        data.labels.tolist(),
        figure.subplots(),
        pos=data.layout() if data.layout else None,
        names=dict(enumerate(data.classes)),
        marked=train,
    )
    ax.set_title(f"{data.title}\nringed: the {len(train)} whose label is known in training")
    return figure


def _attention(result: Result) -> Figure:
    """The attention of one head as a heat map, the nodes in the order of their classes."""
    experiment = result.experiment
    assert experiment.attention is not None
    order = experiment.data.labels.argsort(stable=True).cpu()
    attention = experiment.attention(result.ours[-1].model).cpu()[order][:, order]
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    ax = figure.subplots()
    figure.colorbar(ax.imshow(attention.numpy(), cmap="magma", interpolation="nearest"), ax=ax)
    ax.set_title(f"{result.row.model} on {result.row.data}: attention of the first head")
    ax.set_xlabel("attended to, by class")
    ax.set_ylabel("node, by class")
    return figure


def _curves(results: Sequence[Result]) -> Figure:
    seeds = results[0].row.seeds
    figure = Figure(figsize=(10, 0.4 + 3.4 * len(results)), layout=ConstrainedLayoutEngine(h_pad=0.12))
    title = "one seed" if seeds == 1 else f"mean of {seeds} seeds, in a band from the least to the greatest"
    figure.suptitle(title, size="medium")
    for result, (left, right) in zip(results, figure.subplots(len(results), 2, squeeze=False), strict=True):
        title = f"{result.row.model} on {result.row.data}"
        loss = {name: [run.loss for run in runs] for name, runs in _named(result).items()}
        accuracy = {name: [run.accuracy for run in runs] for name, runs in _named(result).items()}
        plots.training_curves(loss, left, quantity="training loss").set_title(title)
        plots.training_curves(accuracy, right, quantity=result.experiment.quantity).set_title(title)
        left.set_ylim(bottom=0)
        right.set_ylim(0, 1.02)
    return figure


def _named(result: Result) -> dict[str, list[Training]]:
    return {"advkern": result.ours, "plain PyTorch": result.twin}
