"""``advkern info | demo | selftest``, also ``python -m advkern``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import advkern
from advkern.plots import MissingExtraError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    try:
        args = _parser().parse_args(argv)
        status = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor may the flush at exit complain
        return 1
    except MissingExtraError as error:
        return _failed(str(error), 1)


def _failed(message: str, status: int) -> int:
    print(f"advkern: {message}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="advkern", description=advkern.__doc__)
    parser.add_argument("--version", action="version", version=f"advkern {advkern.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    info = commands.add_parser("info", help="versions, backends with reasons, build facts")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)

    demo = commands.add_parser("demo", help="each model, trained on real data beside its eager twin")
    demo.add_argument(
        "--output", type=Path, default="advkern-demo", help="folder of report.html and PNGs (%(default)s)"
    )
    demo.add_argument("--only", nargs="+", type=_model, metavar="MODEL", help="these models instead of all")
    demo.add_argument("--device", type=_device, default=_default_device(), help="cpu or cuda (%(default)s)")
    demo.add_argument("--quick", action="store_true", help="one seed, about a quarter of the epochs")
    demo.add_argument("--json", action="store_true", help="print JSON in place of the table")
    demo.set_defaults(run=_demo)

    selftest = commands.add_parser("selftest", help="each op on each backend that can run here, against float64")
    selftest.add_argument("--only", nargs="+", type=_op, metavar="OP", default=(), help="these ops instead of all")
    selftest.add_argument("--json", action="store_true", help="print JSON in place of the table")
    selftest.set_defaults(run=_selftest)
    return parser


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


def _demo(args: argparse.Namespace) -> int:
    from advkern.demo import pictures, report, runner, table

    try:  # now, not after the training
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _failed(f"--output: {error}", 2)
    experiments = runner.collect(args.only or runner.discover(), args.device, quick=args.quick)
    results = runner.run(experiments, seeds=1 if args.quick else runner.SEEDS)
    rows = [result.row for result in results]
    page, saved = report.write(rows, pictures.collect(results), args.device, args.output)
    if args.json:
        print(table.as_json(rows, args.device, page, saved))
    else:
        table.show(rows, args.device)
        print(f"Report: {page}, and its {len(saved)} pictures beside it")
    return 0


def _selftest(args: argparse.Namespace) -> int:
    from advkern import selftest

    report = selftest.run(args.only, _progress)
    _progress("")
    print(selftest.as_json(report) if args.json else selftest.as_text(report))
    return 0 if report.passed else 1


def _progress(what: str) -> None:
    """Show one line that the next one covers, where stderr is a terminal."""
    if sys.stderr.isatty():
        print(f"\r{what:<60}\r", end="", file=sys.stderr, flush=True)


def _op(name: str) -> str:
    """A name that the self-test knows."""
    if name not in (known := advkern.backend.registered_ops()):
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(known)}, got {name!r}")
    return name


def _model(name: str) -> str:
    """A name that ``--only`` knows."""
    from advkern.demo.runner import discover

    if name not in (known := discover()):
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(known)}, got {name!r}")
    return name


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _device(name: str) -> torch.device:
    """A device that is there."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch raises either, in several lines
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"expected {_devices()}, got {name!r}")
    return device


def _devices() -> str:
    return " or ".join(["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))])
