"""What the default instances of the Triton kernels cost, compiled ahead of time: no GPU is needed.

usage: python -m advkern._triton.instances [--dim 64 ...] [--arch 80 90]

Prints registers a thread, shared memory and spilled bytes of every instance. Needs triton, which brings ptxas.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from advkern._triton import vit_attention as kernels

ARCHS = (80, 90)
DIMS = (16, 32, 64, 128)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LENGTHS = {"fwd": (197,), "bwd_one": (64, 65, 128, 129, 197, 257), "bwd_q": (577,), "bwd_kv": (577,)}
_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


class Instance(NamedTuple):
    """One compiled form of a kernel."""

    form: str
    length: int
    dim: int
    dtype: torch.dtype
    options: bool  # with key-padding mask, dropout and a gradient of lse
    arch: int


class Cost(NamedTuple):
    """What ptxas tells of an instance."""

    registers: int  # a thread
    spilled: int  # bytes stored and loaded
    shared: int  # bytes
    warps: int
    tensor_cores: bool


def instances(
    dims: tuple[int, ...] = DIMS, archs: tuple[int, ...] = ARCHS, dtypes: tuple[torch.dtype, ...] = DTYPES
) -> Iterator[Instance]:
    """Every instance of the default table."""
    for form, lengths in LENGTHS.items():
        for length in lengths:
            for dim in dims:
                for dtype in dtypes:
                    if form == "bwd_one" and (dtype == torch.float32 or dim > 64):
                        continue  # these take the two passes
                    for options in (False, True):
                        for arch in archs:
                            yield Instance(form, length, dim, dtype, options, arch)


def cost(each: Instance) -> Cost:
    """Compile an instance and ask ptxas about it."""
    constants, launch = kernels.instance(each.form, each.length, each.dim, each.dtype)
    constants |= {"MASKED": each.options, "DROPPED": each.options}
    constants |= {"WITH_LSE": True} if each.form == "fwd" else {"WITH_GRAD_LSE": each.options}
    kernel = kernels.KERNELS[each.form]
    signature = {name: _type(name, each.dtype) for name in kernel.arg_names if name not in constants}
    signature |= dict.fromkeys(constants, "constexpr")
    places = [index for index, name in enumerate(kernel.arg_names) if name not in constants]
    # pointers and strides of aligned tensors are multiples of 16, which Triton finds out at a launch
    aligned = [i for i in places if signature[kernel.arg_names[i]][0] == "*" or "_" in kernel.arg_names[i]]
    aligned = [i for i in aligned if not kernel.arg_names[i].startswith("threshold")]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    # Triton's own call of ptxas is the one to read: which ptxas an architecture takes, and with what options, differs
    # from version to version of Triton. An error of it says what ptxas said.
    log = io.StringIO()
    with triton.knobs.nvidia.scope(), triton.knobs.compilation.scope(), contextlib.redirect_stdout(log):
        triton.knobs.nvidia.dump_ptxas_log = triton.knobs.compilation.always_compile = True
        compiled = triton.compile(source, target=GPUTarget("cuda", each.arch, 32), options=launch)
    registers, spilled = _read_log(log.getvalue())
    ptx = compiled.asm["ptx"]
    tensor_cores = "wgmma.mma_async" in ptx or "mma.sync" in ptx
    return Cost(registers, spilled, compiled.metadata.shared, launch["num_warps"], tensor_cores)


def _type(name: str, dtype: torch.dtype) -> str:
    own = "*" + _TYPES[dtype]
    fixed = {"hidden": "*u8", "seed": "*i64", "lse": "*fp32", "grad_lse": "*fp32", "scale": "fp32", "kept": "fp32"}
    if name in fixed:
        return fixed[name]
    return own if name in ("q", "k", "v", "out", "grad_out", "grad") else "i32"


def _read_log(log: str) -> tuple[int, int]:
    """Registers a thread and bytes spilled, from what ptxas says of a kernel."""
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    assert registers and spills, f"ptxas says nothing of registers: {log}"
    return int(registers[1]), sum(map(int, spills))


def main(argv: list[str]) -> int:
    """Print the table; fail where an instance spills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, nargs="+", default=DIMS)
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHS)
    chosen = parser.parse_args(argv)
    spilling = 0
    print(f"triton {triton.__version__}")
    print("form     length  dim type  options  arch  warps  registers  shared  spilled")
    for each in instances(tuple(chosen.dim), tuple(chosen.arch)):
        c: Any = cost(each)
        spilling += c.spilled > 0
        print(
            f"{each.form:8} {each.length:6} {each.dim:4} {_TYPES[each.dtype]:5} {'all' if each.options else 'none':7}  "
            f"sm_{each.arch}  {c.warps:5}  {c.registers:9}  {c.shared:6}  {c.spilled:7}"
            f"{'' if c.tensor_cores else '  no tensor cores'}",
            flush=True,
        )
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
