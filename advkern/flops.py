"""Lets ``torch.utils.flop_counter.FlopCounterMode`` count this package's ops: importing the module is all.

Without it torch's counter sees an op of its own and counts nothing. The formulas stand beside the ops' schemas. Torch's
module is not imported with the package, since it imports triton.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from advkern.ops._schema import FLOPS

__all__ = ["FlopCounterMode"]

for _name, _formula in FLOPS.items():
    register_flop_formula(getattr(torch.ops.advkern, _name))(_formula)
