"""Finds the experiments, trains both models of each from the same seeds, and measures them fairly."""

from __future__ import annotations

import copy
import importlib
import math
import pkgutil
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from advkern import backend, demo
from advkern.demo.data import Data
from advkern.demo.picture import Picture
from advkern.plots import demo_extra
from advkern.testing import peak_allocated

with demo_extra():
    from tqdm import tqdm

SEEDS = 3
QUICK_EPOCHS = 3  # at the least
WARM_UP_STEPS = 5  # before the measured ones: caches are filled, threads started


@dataclass(frozen=True)
class Contender:
    """One of the two models of an experiment, and how it scores samples."""

    build: Callable[[], nn.Module]
    scores: Callable[[nn.Module, Tensor], Tensor]  # (model, rows [n]) -> log-probabilities [n, classes]


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """The fraction of samples whose highest score is their label's."""
    return (scores.argmax(dim=1) == labels).float().mean().item()


@dataclass(frozen=True)
class Experiment:
    """A model of the package and its twin, on one set of data.

    Both are trained with Adam on the same batches, all training samples at once where there is no ``batch_size``, and
    build the same parameters, by the same names, out of the same random numbers.
    """

    model: str
    data: Data
    op: str | None  # the op whose backend the table names; None where torch's own layers do it all
    ours: Contender
    twin: Contender
    naive: Contender | None = None  # the twin as the tutorial writes it, of which a single step is enough
    epochs: int = 200
    batch_size: int | None = None
    learning_rate: float = 0.01
    cooling: bool = False  # the learning rate falls along half a cosine, epoch by epoch
    weight_decay: float = 5e-4
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.nll_loss
    score: Callable[[Tensor, Tensor], float] = accuracy  # what the table calls accuracy
    quantity: str = "test accuracy"
    pictures: Callable[[Any], list[Picture]] | None = None  # of the Result


@dataclass
class Training:
    """One training of one model."""

    model: nn.Module
    seconds: float  # of the steps alone
    loss: list[float]  # [epochs]
    accuracy: list[float]  # [epochs], on the test samples


@dataclass(frozen=True)
class Row:
    """One line of the table; accuracies are fractions after the last epoch, spreads are over seeds."""

    model: str
    data: str
    accuracy: float
    accuracy_spread: float | None  # standard deviation; None of a single seed
    twin_accuracy: float
    twin_accuracy_spread: float | None
    seconds: float  # of a whole training, the median over seeds
    twin_seconds: float
    ratio: float  # twin_seconds / seconds
    peak_bytes: int  # by which a training step raises what torch has allocated
    twin_peak_bytes: int
    max_difference: float  # of both outputs in eval with the same weights
    backend: str
    parameters: int
    seeds: int
    epochs: int
    naive_step_seconds: float | None = None  # of one training step as the tutorial computes it; None: not measured
    naive_step_bytes: int | None = None  # its peak
    step_seconds: float | None = None  # of one of ours, where that is given


@dataclass(frozen=True)
class Result:
    """An experiment, its line of the table, and all trainings."""

    experiment: Experiment
    row: Row
    ours: list[Training]
    twin: list[Training]


def discover() -> dict[str, ModuleType]:
    """Map the name of each module of ``advkern.demo`` that has ``experiments`` to it."""
    names = [module.name for module in pkgutil.iter_modules(demo.__path__)]
    modules = {name: importlib.import_module(f"{demo.__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "experiments")}


def collect(only: Iterable[str], device: torch.device, *, quick: bool = False) -> list[Experiment]:
    """Build the experiments of the modules in ``only``; ``quick``: a quarter of the epochs, and no naive step."""
    modules = discover()
    found = [experiment for name in dict.fromkeys(only) for experiment in modules[name].experiments(device)]
    shorter = lambda each: replace(each, epochs=max(QUICK_EPOCHS, each.epochs // 4), naive=None)
    return [shorter(each) for each in found] if quick else found


def run(experiments: Sequence[Experiment], *, seeds: int = SEEDS) -> list[Result]:
    """Run each experiment, with a progress bar over all epochs where stderr is a terminal."""
    total = sum(2 * (_warm_up(experiment) + seeds * experiment.epochs) for experiment in experiments)
    with tqdm(total=total, unit="epoch", disable=None) as bar:
        return [_compare(experiment, seeds, bar) for experiment in experiments]


def _compare(experiment: Experiment, seeds: int, bar: tqdm) -> Result:
    bar.set_description(f"{experiment.model} on {experiment.data.name}")
    for contender in (experiment.ours, experiment.twin):
        _train(replace(experiment, epochs=_warm_up(experiment)), contender, 0, bar, WARM_UP_STEPS)
    ours, twin = [], []
    for seed in range(seeds):  # in turn, so that a slow spell of the machine meets both
        ours.append(_train(experiment, experiment.ours, seed, bar))
        twin.append(_train(experiment, experiment.twin, seed, bar))
    return Result(experiment, _row(experiment, ours, twin), ours, twin)


def _warm_up(experiment: Experiment) -> int:
    """The epochs over which the steps of the warm-up go."""
    return 1 if experiment.batch_size else WARM_UP_STEPS


def _train(
    experiment: Experiment, contender: Contender, seed: int, bar: tqdm, most_steps: int | None = None
) -> Training:
    """Train a new model; ``most_steps``: of an epoch."""
    torch.manual_seed(seed)
    data = experiment.data
    train, test = data.train, data.test
    model = contender.build().to(train.device)
    rate, decay = experiment.learning_rate, experiment.weight_decay
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay, fused=True)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_share_of_rate, experiment))
    training = Training(model, 0.0, [], [])
    shuffled = torch.Generator().manual_seed(seed)  # its own: the models draw their dropout in ways of their own
    for _ in range(experiment.epochs):
        start = _now(train.device)
        total = torch.zeros((), device=train.device)
        for rows in islice(_batches(train, experiment.batch_size, shuffled), most_steps):
            total += _step(experiment, contender, model, optimizer, rows) * len(rows)
        rates.step()
        training.seconds += _now(train.device) - start
        training.loss.append(total.item() / len(train))
        training.accuracy.append(experiment.score(evaluate(model, contender, test), data.labels[test]))
        bar.update()
    return training


def _share_of_rate(experiment: Experiment, epoch: int) -> float:
    """The part of its learning rate with which an experiment trains in an epoch."""
    return (1 + math.cos(math.pi * epoch / experiment.epochs)) / 2 if experiment.cooling else 1.0


def _step(
    experiment: Experiment, contender: Contender, model: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor
) -> Tensor:  # []
    """Train on ``rows`` once; return the loss before."""
    optimizer.zero_grad()
    loss = experiment.loss(contender.scores(model, rows), experiment.data.labels[rows])
    loss.backward()
    optimizer.step()
    return loss.detach()


def _step_peak(experiment: Experiment, contender: Contender, model: nn.Module) -> int:
    """The bytes that a training step takes at its peak, above parameters, optimiser's state and data."""
    rows = experiment.data.train[: experiment.batch_size]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    step = partial(_step, experiment, contender, model, optimizer, rows)
    step()  # the optimiser's state, and what is cached
    model.zero_grad()
    return peak_allocated(step, rows.device)


def _batches(rows: Tensor, size: int | None, generator: torch.Generator) -> Iterable[Tensor]:
    """All rows, shuffled and in batches of ``size`` where that is given."""
    if size is None:
        return [rows]
    return rows[torch.randperm(len(rows), generator=generator).to(rows.device)].split(size)


def evaluate(model: nn.Module, contender: Contender, rows: Tensor) -> Tensor:
    """Return the scores of ``rows`` in eval, ``[n, classes]``; the model goes back to training."""
    model.eval()
    with torch.no_grad():
        scores = contender.scores(model, rows)
    model.train()
    return scores


def _row(experiment: Experiment, ours: list[Training], twin: list[Training]) -> Row:
    device = experiment.data.labels.device
    accuracy, accuracy_spread = _mean_and_spread(ours)
    twin_accuracy, twin_accuracy_spread = _mean_and_spread(twin)
    seconds, twin_seconds = (statistics.median(each.seconds for each in runs) for runs in (ours, twin))
    return Row(
        model=experiment.model,
        data=experiment.data.name,
        accuracy=accuracy,
        accuracy_spread=accuracy_spread,
        twin_accuracy=twin_accuracy,
        twin_accuracy_spread=twin_accuracy_spread,
        seconds=seconds,
        twin_seconds=twin_seconds,
        ratio=twin_seconds / seconds,
        peak_bytes=_step_peak(experiment, experiment.ours, copy.deepcopy(ours[-1].model)),
        twin_peak_bytes=_step_peak(experiment, experiment.twin, copy.deepcopy(twin[-1].model)),
        max_difference=max(_difference(experiment, training.model) for training in ours),
        backend=backend.choose(experiment.op, device.type) if experiment.op else "torch",
        parameters=sum(p.numel() for p in ours[0].model.parameters()),
        seeds=len(ours),
        epochs=experiment.epochs,
        **_naive_step(experiment, seconds),
    )


def _naive_step(experiment: Experiment, seconds: float) -> dict[str, Any]:
    """One training step of the naive form beside one of ours, whose whole training takes ``seconds``."""
    naive = experiment.naive
    if naive is None:
        return {}
    rows = experiment.data.train[: experiment.batch_size]
    steps = experiment.epochs * math.ceil(len(experiment.data.train) / len(rows))
    model = naive.build().to(rows.device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    took = 0.0

    def step() -> None:
        nonlocal took
        start = _now(rows.device)
        _step(experiment, naive, model, optimizer, rows)
        took = _now(rows.device) - start

    peak = peak_allocated(step, rows.device)
    return {"naive_step_seconds": took, "naive_step_bytes": peak, "step_seconds": seconds / steps}


def _mean_and_spread(trainings: list[Training]) -> tuple[float, float | None]:
    final = [training.accuracy[-1] for training in trainings]
    return statistics.fmean(final), statistics.stdev(final) if len(final) > 1 else None


def _difference(experiment: Experiment, model: nn.Module) -> float:
    """The largest difference of both outputs once the twin has the trained weights of ``model``."""
    rows = torch.arange(len(experiment.data.labels), device=experiment.data.labels.device)
    twin = experiment.twin.build().to(rows.device)
    twin.load_state_dict(model.state_dict())
    outputs = evaluate(model, experiment.ours, rows), evaluate(twin, experiment.twin, rows)
    return (outputs[0] - outputs[1]).abs().max().item()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
