"""``advkern info | demo``, also ``python -m advkern``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import advkern


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="advkern", description=advkern.__doc__)
    parser.add_argument("--version", action="version", version=f"advkern {advkern.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    info = commands.add_parser("info", help="versions, backends with reasons, build facts")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)

    args = parser.parse_args(argv)
    return args.run(args)


def _info(args: argparse.Namespace) -> int:
    facts = advkern.backend.info()
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_lines(facts)))
    return 0


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """``key: value`` lines, nested dicts indented below their key."""
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif value is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{key}: {shown}")
    return lines
