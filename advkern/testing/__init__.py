"""What tests and benchmarks share: seeded inputs, one comparison rule, interleaved timing."""

from advkern.testing.compare import assert_matches, mismatch
from advkern.testing.graphs import SIZES, hub_graph, isolated_graph, power_law_graph, standard_graph, uniform_graph
from advkern.testing.isa import available_isas, use_isa
from advkern.testing.memory import peak_allocated
from advkern.testing.timing import interleave, peak_memory

__all__ = [
    "SIZES",
    "assert_matches",
    "available_isas",
    "hub_graph",
    "interleave",
    "isolated_graph",
    "mismatch",
    "peak_allocated",
    "peak_memory",
    "power_law_graph",
    "standard_graph",
    "uniform_graph",
    "use_isa",
]
