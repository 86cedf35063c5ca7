"""Fast, exact kernels behind the architectures of a well-known deep-learning tutorial."""

from advkern import backend
from advkern._version import __version__
from advkern.backend import BackendError, FallbackWarning, use_backend
from advkern.comparison import compare
from advkern.explanation import explain
from advkern.graph import Graph

from advkern import nn, ops  # isort: skip  (they need Graph)
from advkern.conversion import convert, revert  # isort: skip  (it needs nn)

__all__ = [
    "BackendError",
    "FallbackWarning",
    "Graph",
    "__version__",
    "backend",
    "compare",
    "convert",
    "explain",
    "nn",
    "ops",
    "revert",
    "use_backend",
]
