"""The ops as functions, differentiable any number of times."""

from advkern.ops.coo_to_csr import coo_to_csr
from advkern.ops.gcn_aggregate import gcn_aggregate
from advkern.ops.vit_attention import vit_attention

__all__ = ["coo_to_csr", "gcn_aggregate", "vit_attention"]
