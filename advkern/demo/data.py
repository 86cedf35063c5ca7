"""Real data that comes with ordinary packages: a few labelled nodes of a graph, or images to learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from advkern.plots import demo_extra


@dataclass(frozen=True, eq=False)
class Data:
    """Samples to classify, and the graph that joins them where there is one."""

    name: str
    title: str
    features: Tensor  # [N, F], images [N, C, H, W]
    labels: Tensor  # [N], 0 to C - 1
    classes: tuple[str, ...]  # [C]
    train_mask: Tensor  # [N], True where the label is known in training
    network: Any = None  # a networkx.Graph of the N samples, None where there is no graph
    layout: Callable[[], Mapping[int, Any]] | None = None  # where a picture puts them; None: as edges pull

    @property
    def train(self) -> Tensor:  # [num_train] ids
        """The samples whose labels are known in training."""
        return self.train_mask.nonzero()[:, 0]

    @property
    def test(self) -> Tensor:  # [num_test] ids
        """All others."""
        return (~self.train_mask).nonzero()[:, 0]

    def to(self, device: torch.device) -> Data:
        """Return the data with its tensors on ``device``."""
        tensors = {name: getattr(self, name).to(device) for name in ("features", "labels", "train_mask")}
        return replace(self, **tensors)


@cache
def karate() -> Data:
    """34 members of a karate club, joined by their friendships, who split into two clubs.

    Four members of each club are labelled. A member's feature is who he is: the graph alone must tell.
    Zachary 1977, "An information flow model for conflict and fission in small groups".
    """
    with demo_extra():
        import networkx as nx

    network = nx.karate_club_graph()
    clubs = [club for _, club in network.nodes(data="club")]
    classes = tuple(sorted(set(clubs)))
    labels = torch.tensor([classes.index(club) for club in clubs])
    return Data(
        name="karate",
        title=f"Zachary's karate club: {len(network)} members, {network.number_of_edges()} friendships",
        features=torch.eye(len(network)),
        labels=labels,
        classes=classes,
        train_mask=labelled(labels, per_class=4),
        network=network,
    )


@cache
def digits() -> Data:
    """1,797 handwritten digits of 8 x 8 pixels, each joined to the 10 most alike.

    Ten of each class are labelled. Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits".
    """
    with demo_extra():
        import networkx as nx
        from sklearn.datasets import load_digits
        from sklearn.neighbors import kneighbors_graph

    images, digit = load_digits(return_X_y=True)
    images = images / 16  # pixels count from 0 to 16
    nearest = kneighbors_graph(images, n_neighbors=10)
    network = nx.from_scipy_sparse_array(nearest.maximum(nearest.T), edge_attribute=None)
    edges = network.number_of_edges()
    labels = torch.from_numpy(digit).long()
    return Data(
        name="digits",
        title=f"{len(network):,} handwritten digits, {edges:,} nearest-neighbour edges, placed by t-SNE",
        features=torch.from_numpy(images).float(),
        labels=labels,
        classes=tuple(map(str, range(10))),
        train_mask=labelled(labels, per_class=10),
        network=network,
        layout=lambda: _embedded(images),
    )


@cache
def digit_images() -> Data:
    """The same digits as images ``[N, 1, 8, 8]`` with mean 0 and deviation 1; every fourth is for the test."""
    with demo_extra():
        from sklearn.datasets import load_digits

    digits = load_digits()
    labels = torch.from_numpy(digits.target).long()
    images = torch.from_numpy(digits.images).float()[:, None]
    return Data(
        name="digit images",
        title=f"{len(labels):,} handwritten digits of 8 x 8 pixels",
        features=(images - images.mean()) / images.std(),
        labels=labels,
        classes=tuple(map(str, range(10))),
        train_mask=torch.arange(len(labels)) % 4 != 3,
    )


def labelled(labels: Tensor, per_class: int) -> Tensor:  # [N] -> [N]
    """Return the mask of ``per_class`` samples of each class, drawn once for all seeds."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        mask[order[labels[order] == label][:per_class]] = True
    return mask


def _embedded(features: Any) -> Mapping[int, Any]:  # [N, F]
    """Two coordinates for each sample, alike beside alike: t-SNE, van der Maaten and Hinton 2008."""
    with demo_extra():
        from sklearn.manifold import TSNE

    return dict(enumerate(TSNE(max_iter=300, random_state=0).fit_transform(features)))
