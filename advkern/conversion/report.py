"""What a conversion tells: every module it looked at, what became of it, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One module of the model."""

    module: str  # its first name in the model; "" is the model itself
    kind: str  # its class
    action: str  # "converted", "left" or "reverted"
    reason: str  # what runs here now and when, or why it was left

    def __str__(self) -> str:
        return f"{self.action:<9}  {self.module or '(model)'} ({self.kind}): {self.reason}"


@dataclass(frozen=True)
class Report:
    """What :func:`advkern.convert` or :func:`advkern.revert` did; ``print`` shows a line a module."""

    entries: tuple[Entry, ...]
    largest_difference: float | None = None  # of any output on the sample inputs; None: none were given

    def of(self, action: str) -> tuple[Entry, ...]:
        """The entries of one action: "converted", "left" or "reverted"."""
        return tuple(entry for entry in self.entries if entry.action == action)

    def __str__(self) -> str:
        lines = [str(entry) for entry in self.entries] or ["nothing here that advkern knows"]
        if self.largest_difference is not None:
            lines.append(f"largest difference on the sample inputs: {self.largest_difference:.3g}")
        return "\n".join(lines)
