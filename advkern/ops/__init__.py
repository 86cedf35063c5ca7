"""The ops as functions, differentiable any number of times."""

from advkern.ops.coo_to_csr import coo_to_csr
from advkern.ops.gat_attention import gat_attention
from advkern.ops.gcn_aggregate import gcn_aggregate

__all__ = ["coo_to_csr", "gat_attention", "gcn_aggregate"]
