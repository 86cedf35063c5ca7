"""Runs that repeat: one fixed hypothesis profile, one seed at the start of every test."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("advkern", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("advkern")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def directed():
    """A weighted digraph as a float64 matrix: a self loop, a row without entries, a node without any edge.

    No two of its entries mirror each other, and all are exact in every float type.
    """
    return torch.tensor(
        [
            [0, 2, 0, 0, 0.5, 0],
            [0, 0, 3, 0, 0, 0],
            [4, 0, 5, 0, 0, 0],
            [0, 0, 0, 0, 0, 0],
            [0, 1, 0, 1.5, 0, 0],
            [0, 0, 0, 0, 0, 0],
        ],
        dtype=torch.float64,
    )
