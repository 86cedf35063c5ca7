"""The pictures, in matplotlib's habit: ``ax=None`` draws on the current axes, and the axes come back."""

from advkern.plots._common import COLORS, MissingExtraError, demo_extra
from advkern.plots.graphs import graph
from advkern.plots.sizes import model_sizes
from advkern.plots.training import training_curves

__all__ = ["COLORS", "MissingExtraError", "demo_extra", "graph", "model_sizes", "training_curves"]
