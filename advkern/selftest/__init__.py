"""``advkern selftest``: whether every op is right on this machine, on every backend that can run here.

An op joins by one file of its name here that has ``cases(scale, device) -> list[Case]``; see ``gcn_aggregate.py``.
"""

from advkern.selftest._report import Report, Row, as_json, as_text
from advkern.selftest._run import run

__all__ = ["Report", "Row", "as_json", "as_text", "run"]
