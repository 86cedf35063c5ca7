"""Measure what the tutorial's classes and ours do differently, and write the tables of docs/differences.md.

usage: python tools/differences [--keep-times] [--check]

--keep-times: take the rows of time and memory as they stand; --check: so too, write nothing, fail where one is stale.
The environment variable ADVKERN_TUTORIAL names the folder with the tutorial's text, from which its classes are made.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import graph_rows  # noqa: F401  (each module puts its rows into rows.TABLES)
import ode_rows  # noqa: F401
import pytest
import rows
import torch
import vision_rows  # noqa: F401

import advkern

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import tutorial  # noqa: E402  (tests/tutorial.py)

PAGE = ROOT / "docs/differences.md"
TABLES = re.compile(r"(<!-- differences -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = "| what | the tutorial | here | remark |\n|---|---|---|---|"
LONGEST = 90  # characters of an error's message


def main(argv: list[str]) -> int:
    """Rewrite the tables, or tell which rows are stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep-times", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(argv)
    try:
        theirs = tutorial_classes()
    except pytest.skip.Exception as missing:
        parser.error(str(missing))
    text = PAGE.read_text()
    kept = {line.split(" | ")[0]: line for line in text.splitlines()} if args.check or args.keep_times else {}
    table = "\n".join(_lines(theirs, kept))
    fresh = TABLES.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text)
    if not args.check:
        PAGE.write_text(fresh)
        return 0
    if fresh != text:
        changes = difflib.unified_diff(text.splitlines(), fresh.splitlines(), "committed", "measured", n=0, lineterm="")
        print("docs/differences.md is stale, run python tools/differences:", *changes, sep="\n")
    return int(fresh != text)


def tutorial_classes() -> SimpleNamespace:
    """The tutorial's classes, and the functions of its cell on scaling."""
    space = dict(tutorial.namespace())
    (scaling,) = (cell for cell in tutorial.cells() if "def calculate_scaled_params" in cell)
    space["print"] = lambda *words: None
    exec(compile(scaling, "tutorial", "exec"), space)
    return SimpleNamespace(**space)


def _lines(theirs: SimpleNamespace, kept: dict[str, str]) -> Iterator[str]:
    for title, table in rows.TABLES.items():
        yield f"\n## {title}\n\n{HEAD}"
        for row in table:
            what, _, remark = (" ".join(part.split()) for part in (row.__doc__ or "").partition("\n\n"))
            known = kept.get(f"| {what}") if row in rows.TIMED else None
            yield known or f"| {what} | {_cell(row, theirs)} | {_cell(row, advkern.nn)} | {remark} |"
    yield ""


def _cell(row: Callable[[Any], str], classes: Any) -> str:
    """What a row finds with these classes: its words, or its error."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return row(classes)
        except Exception as error:
            return error_text(error)


def error_text(error: Exception) -> str:
    """The kind of an error and the beginning of its first line, as a cell."""
    message = str(error).partition("\n")[0].replace("|", r"\|").replace("`", "'")
    end = "..." if len(message) > LONGEST else ""
    return f"{type(error).__name__}: `{message[:LONGEST].rstrip()}{end}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
