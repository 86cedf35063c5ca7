"""The ops as functions, differentiable any number of times."""

from advkern.ops._odeint import odeint
from advkern.ops._rk4_step import rk4_step
from advkern.ops.coo_to_csr import coo_to_csr
from advkern.ops.gat_attention import gat_attention
from advkern.ops.gcn_aggregate import gcn_aggregate
from advkern.ops.linear import linear
from advkern.ops.rk4 import rk4
from advkern.ops.vit_attention import vit_attention

__all__ = ["coo_to_csr", "gat_attention", "gcn_aggregate", "linear", "odeint", "rk4", "rk4_step", "vit_attention"]
