"""The pictures, in matplotlib's habit: ``ax=None`` draws on the current axes, and the axes come back."""

from advkern.plots._common import COLORS, MissingExtraError, demo_extra
from advkern.plots.attention import attention_map
from advkern.plots.dynamics import fit, trajectories, vector_field
from advkern.plots.graphs import graph
from advkern.plots.sizes import model_sizes
from advkern.plots.training import training_curves

__all__ = [
    "COLORS",
    "MissingExtraError",
    "attention_map",
    "demo_extra",
    "fit",
    "graph",
    "model_sizes",
    "training_curves",
    "trajectories",
    "vector_field",
]
