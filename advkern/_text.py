"""Tables and numbers in plain text, for what must not need an extra."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lay out a table: columns of equal width, the first ``left`` flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if k < left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(header), rule, *map(line, rows)])


def engineering(value: float) -> str:
    """Write a number with three digits and a prefix: 1.23 M."""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{_digits(value / 10**power)} {prefix}"
    return _digits(value)


def _digits(value: float) -> str:
    """Three digits, none of them in an exponent."""
    return f"{value:.0f}" if abs(value) >= 99.95 or value == int(value) else f"{value:.3g}"
