"""The pictures, in matplotlib's habit: ``ax=None`` draws on the current axes, and the axes come back."""

from advkern.plots._common import COLORS, MissingExtraError, demo_extra
from advkern.plots.attention import attention_map, cross_modal_blocks
from advkern.plots.dynamics import fit, trajectories, vector_field
from advkern.plots.graphs import graph
from advkern.plots.images import class_token_attention, patch_grid
from advkern.plots.sizes import model_sizes
from advkern.plots.training import training_curves

__all__ = [
    "COLORS",
    "MissingExtraError",
    "attention_map",
    "class_token_attention",
    "cross_modal_blocks",
    "demo_extra",
    "fit",
    "graph",
    "model_sizes",
    "patch_grid",
    "training_curves",
    "trajectories",
    "vector_field",
]
