"""The tables of README: results come from the committed ones, and no op is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from advkern import backend

ROOT = Path(__file__).parents[1]


def test_tables_come_from_the_committed_results():
    command = [sys.executable, ROOT / "benchmarks/report.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_table_of_ops_names_every_op():
    table = (ROOT / "README.md").read_text().partition("\n## Ops\n")[2]
    rows = re.findall(r"^\| \[`(\w+)`\]\(advkern/ops/(\w+)\.py\).*`csrc/(\w+)`", table, re.MULTILINE)
    assert sorted(rows) == sorted((op, op, op) for op in backend.registered_ops())
