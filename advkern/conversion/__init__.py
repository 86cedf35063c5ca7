"""``advkern.convert`` and ``advkern.revert``: make a model that one already has faster, in place."""

from advkern.conversion.convert import convert, revert
from advkern.conversion.report import Entry, Report

__all__ = ["Entry", "Report", "convert", "revert"]
