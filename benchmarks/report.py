"""Turn ``benchmarks/results`` into the tables of README.md and docs/performance.md, and pictures in docs/performance/.

usage: python benchmarks/report.py [--check]     --check: write nothing, fail where a table or a picture is stale
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pictures

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PICTURES = ROOT / "docs/performance"
SHOWN = "pictures_"  # before an op's name: its pictures, in place of a table
DOCUMENTS = ("README.md", "docs/performance.md")
HUGE = "[huge_pages]"
HOW = "The least of two to seven samples each, all in one run; a ratio is the peer's time over ours."


def main(argv: list[str]) -> int:
    """Rewrite each generated table, or tell which are stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(argv).check
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text()
        fresh = re.sub(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", _replace, text, flags=re.DOTALL)
        if fresh != text:
            stale.append(name)
            if not check:
                path.write_text(fresh)
    for results in sorted(RESULTS.glob("*/*.json")):
        picture = _picture_of(results)
        if not pictures.is_fresh(picture, results):
            stale.append(str(picture.relative_to(ROOT)))
            if not check:
                picture.parent.mkdir(parents=True, exist_ok=True)
                picture.write_bytes(pictures.draw(results))
    if check and stale:
        print(f"stale: {', '.join(stale)}: run python benchmarks/report.py")
        return 1
    return 0


def _replace(match: re.Match[str]) -> str:
    name = match[2]
    lines = _shown(name.removeprefix(SHOWN)) if name.startswith(SHOWN) else TABLES[name]()
    return match[1] + "\n".join(lines) + "\n" + match[3]


def _picture_of(results: Path) -> Path:
    return PICTURES / results.parent.name / f"{results.stem}.png"


def _shown(op: str) -> Iterator[str]:
    for results in sorted(RESULTS.glob(f"*/{op}.json")):
        target = _picture_of(results).relative_to(PICTURES.parent)
        yield f"![{op} beside its peers, {results.parent.name}]({target})"


# what a reader looks for first: a kind of work, its results, and what its rows have
GLANCE = (
    ("graph aggregation, forward", "gcn_aggregate", {"work": "forward"}),
    ("graph aggregation, with gradient", "gcn_aggregate", {"work": "forward+backward"}),
    ("GCN, training step", "gcn_aggregate", {"work": "training step"}),
    ("GAT layer, forward", "gat_attention", {"work": "forward"}),
    ("GAT layer, with gradient", "gat_attention", {"work": "forward+backward"}),
    ("GAT of the tutorial, cora's size", "gat_attention", {"work": "model"}),
    ("neural ODE, forward", "rk4", {"work": "forward", "dtype": "float32"}),
    ("neural ODE, with gradient", "rk4", {"work": "forward+backward", "dtype": "float32"}),
    ("attention of ViT, forward", "vit_attention", {"work": "forward"}),
    ("attention of ViT, with gradient", "vit_attention", {"work": "forward+backward"}),
    ("attention of ViT with dropout, with gradient", "vit_attention", {"work": "dropout, forward+backward"}),
    ("block of ViT, with gradient", "vit_attention", {"work": "block, forward+backward"}),
    ("ViT-S/16, forward", "vit", {"work": "forward"}),
    ("ViT-S/16, training step", "vit", {"work": "training step"}),
    ("EfficientNet-B0, forward", "efficientnet", {"work": "forward"}),
    ("EfficientNet-B0, training step", "efficientnet", {"work": "training step"}),
)
PEERS = {  # in the words of a reader; others by their own
    "advkern_dense_adj": "ours, of a dense adjacency",
    "plain": "plain PyTorch",
    "torch_csr": "torch CSR",
    "torch_coo": "torch COO",
    "torch_sparse": "torch-sparse",
    "pyg": "PyTorch Geometric",
    "tutorial": "the tutorial's class",
    "eager": "the tutorial's lines",
    "loop": "the tutorial's loop",
    "loop_compiled": "torch.compile of the loop",
    "compiled": "torch.compile of the lines",
    "sdpa_flash": "torch's SDPA",
    "sdpa_math": "SDPA's plain form",
    "flex": "FlexAttention",
}


def glance() -> Iterator[str]:
    """A line a kind of work: how many times as fast as the fastest peer, over all sizes, at two threads."""
    for machine in sorted(RESULTS.glob("*")):
        told = next(told for told, _ in _results("gcn_aggregate", machine.name))
        yield f"{told}, at two threads: the least and the greatest over all graphs and sizes that were measured."
        yield ""
        yield "| work | times as fast as the fastest of | |"
        yield "|---|---|--:|"
        for work, name, wanted in GLANCE:
            for _, results in _results(name, machine.name):
                yield _glance(work, [row for test, row in results["rows"].items() if HUGE not in test], wanted)
        yield ""


def _glance(work: str, rows: list[dict[str, Any]], wanted: dict[str, Any]) -> str:
    chosen = [row["ratios"] for row in rows if (wanted | {"threads": 2}).items() <= row.items()]
    beside = [{n: r for n, r in ratios.items() if not n.startswith(("advkern", "reference"))} for ratios in chosen]
    least = [min(ratios.values()) for ratios in beside]
    few = sorted({_few(min(least)), _few(max(least))}, key=float)
    names = dict.fromkeys(name for ratios in beside for name in ratios)
    return f"| {work} | {', '.join(PEERS.get(name, name) for name in names)} | {' to '.join(few)} |"


def _few(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}"


def aggregation() -> Iterator[str]:
    """The aggregation at two threads, beside its peers."""
    yield from _aggregation(lambda row: row["threads"] == 2)


def aggregation_all() -> Iterator[str]:
    """All rows of the aggregation."""
    yield from _aggregation(lambda row: True)


def _aggregation(keep: Any) -> Iterator[str]:
    for machine, results in _results("gcn_aggregate"):
        yield f"{machine}, float32. {HOW}"
        yield ""
        peers = "CSR | CSR, huge pages | COO | torch-sparse | index_add"
        yield f"| work | graph | F | threads | ours | {peers} | error, ours / CSR |"
        yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
        rows = {test: row for test, row in results["rows"].items() if row["work"] in ("forward", "forward+backward")}
        chosen = {test: row for test, row in rows.items() if not test.endswith(HUGE) and keep(row)}
        for test, row in sorted(chosen.items(), key=lambda item: _order(item[1])):
            huge = f"{rows[test + HUGE]['ratios']['torch_csr']:.2f}x" if test + HUGE in rows else ""
            ratio, errors = row["ratios"], row["errors"]
            sparse = f"{ratio['torch_sparse']:.1f}x" if "torch_sparse" in ratio else ""
            yield (
                f"| {row['work']} | {row['graph']} | {row['channels']} | {row['threads']} | {_ms(row)} | "
                f"{ratio['torch_csr']:.2f}x | {huge} | "
                f"{ratio['torch_coo']:.1f}x | {sparse} | {ratio['index_add']:.1f}x | "
                f"{errors['advkern']:.0e} / {errors['torch_csr']:.0e} |"
            )
        yield ""


def training() -> Iterator[str]:
    """A whole training step of a GCN, a graph that is used once, and the gradients of activations."""
    for machine, results in _results("gcn_aggregate"):
        yield f"{machine}, float32. {HOW}"
        yield ""
        yield "| work | graph | F | threads | ours | peers | peers with huge pages | error, ours / worst peer |"
        yield "|---|---|--:|--:|--:|---|---|--:|"
        rows = results["rows"]
        chosen = [
            test
            for test, row in rows.items()
            if row["work"].startswith(("training", "cold", "gradient of")) and HUGE not in test
        ]
        for test in sorted(chosen, key=lambda test: _order(rows[test])):
            row, huge = rows[test], rows.get(test + HUGE)
            errors, of = row["errors"], f"{row['graph']} | {row['channels']} | {row['threads']}"
            worst = max(error for name, error in errors.items() if name != "advkern")
            yield (
                f"| {row['work']} | {of} | {_ms(row)} | {_peers(row)} | "
                f"{_peers(huge) if huge else ''} | {errors['advkern']:.0e} / {worst:.0e} |"
            )
        yield ""


def memory() -> Iterator[str]:
    """Peak memory of forward and backward."""
    for machine, results in _results("gcn_aggregate"):
        row = results["rows"].get("bench_memory")
        if row is not None:
            sizes = ", ".join(f"{name} {size:.0f} MiB" for name, size in row["mebibytes"].items())
            yield f"{machine}: forward and backward on {row['graph']} with {row['channels']} channels: {sizes}."


def construction() -> Iterator[str]:
    """Building and transposing graphs."""
    for machine, results in _results("coo_to_csr"):
        yield f"{machine}. {HOW}"
        yield ""
        yield "| work | graph | threads | ours | peers |"
        yield "|---|---|--:|--:|---|"
        rows = [row for test, row in results["rows"].items() if not test.endswith(HUGE)]
        for row in sorted(rows, key=_order):
            yield f"| {row['work']} | {row['graph']} | {row['threads']} | {_ms(row)} | {_peers(row)} |"
        yield ""


def overhead() -> Iterator[str]:
    """One call on a graph of 34 nodes."""
    for machine, results in _results("gcn_aggregate"):
        row = results["rows"].get("bench_overhead[1thread]")
        if row is None:
            continue
        times = {name: 1e3 * min(samples) for name, samples in row["samples_ms"].items()}
        beyond = times["advkern"] - times["schema_op"]
        yield (
            f"{machine}: one call on a graph of 34 nodes takes {times['advkern']:.1f} us, of which "
            f"{times['schema_op']:.1f} us are the schema op (dispatch, allocation, kernel) and {beyond:.1f} us ours; "
            f"torch CSR takes {times['torch_csr']:.1f} us."
        )


def gat_attention() -> Iterator[str]:
    """Graph attention, whole layers and models, beside their peers."""
    for machine, results in _results("gat_attention"):
        yield f"{machine}, float32. {HOW}"
        yield ""
        yield "| work | graph | heads | threads | ours | PyG | PyG, huge pages | other peers | error, ours / PyG |"
        yield "|---|---|--:|--:|--:|--:|--:|---|--:|"
        rows = results["rows"]
        compared = ("advkern", "pyg")
        chosen = {test: row for test, row in rows.items() if not test.endswith(HUGE) and row["work"] != "memory"}
        for test, row in sorted(chosen.items(), key=lambda item: (*_order(item[1]), item[1]["heads"])):
            ratio, errors = row["ratios"], row["errors"]
            huge = rows.get(test + HUGE, {}).get("ratios", {}).get("pyg")
            others = ", ".join(
                f"{PEERS.get(name, name)} {value:.1f}x" for name, value in ratio.items() if name not in compared
            )
            told = [f"{errors[name]:.0e}" for name in compared if name in errors]
            shape = f"{row['heads']} x {row['channels']}"
            yield (
                f"| {row['work']} | {row['graph']} | {shape} | {row['threads']} | {_ms(row)} | "
                f"{_times(ratio.get('pyg'))} | {_times(huge)} | {others} | {' / '.join(told)} |"
            )
        yield ""
        for row in results["rows"].values():
            peaks, shape = row.get("peak_bytes"), f"{row['heads']} x {row['channels']}"
            if isinstance(peaks, dict):
                told = ", ".join(f"{name} {peak / 1e6:.0f} MB" for name, peak in peaks.items())
                yield f"Peak memory of forward and backward, {row['graph']}, {shape}: {told}."
            elif peaks:
                yield f"Peak memory of the {row['work']}, {row['graph']}: {peaks / 1e9:.2f} GB beyond its inputs."
        yield ""


def integration() -> Iterator[str]:
    """A neural ODE's 100 steps in float32, at two threads."""
    yield from _integration(lambda row: row["dtype"] == "float32" and row["threads"] == 2)


def integration_all() -> Iterator[str]:
    """All rows of the integration, of the step and of peak memory."""
    yield from _integration(lambda row: True)


def _integration(keep: Any) -> Iterator[str]:
    for machine, results in _results("rk4"):
        rows = results["rows"].values()
        chosen = [row for row in rows if "samples_ms" in row and keep(row)]
        yield f"{machine}. {HOW}"
        yield ""
        yield "| work | of | type | threads | ours | loop | loop, compiled step | torchdiffeq | error, ours / loop |"
        yield "|---|---|---|--:|--:|--:|--:|--:|--:|"
        for row in sorted(chosen, key=lambda row: (row["work"], row.get("channels", 0), row["dtype"], row["threads"])):
            ratio, errors = row["ratios"], row["errors"]
            compiled = f"{ratio['loop_compiled']:.1f}x" if "loop_compiled" in ratio else ""
            yield (
                f"| {row['work']} | {row['graph']} | {row['dtype']} | {row['threads']} | {_ms(row)} | "
                f"{ratio['loop']:.1f}x | {compiled} | {ratio['torchdiffeq']:.2f}x | "
                f"{errors['advkern']:.0e} / {errors['loop']:.0e} |"
            )
        yield ""
        memory = sorted((row for row in rows if row["work"] == "peak memory"), key=lambda row: row["dim"])
        for row in memory:
            used = {name: count / 1e6 for name, count in row["bytes"].items()}
            yield (
                f"- peak memory, forward and backward, D = {row['dim']}, {row['samples']:,} samples, float32: "
                f"{used['advkern']:.3g} MB; the loop {used['loop']:.3g} MB, torchdiffeq {used['torchdiffeq']:.3g} MB "
                f"({used['loop'] / used['advkern']:.0f} times ours)"
            )
        yield ""


VIT_PEERS = {
    "sdpa_flash": "SDPA, flash",
    "sdpa_math": "SDPA, math",
    "flex": "Flex",
    "eager": "tutorial",
    "compiled": "compiled",
}


def vit_attention() -> Iterator[str]:
    """Attention of ViT-B beside the eager lines and torch's own attention."""
    for machine, results in _results("vit_attention"):
        yield f"{machine}, float32, batch 4, 12 heads of 64. {HOW}"
        yield ""
        rows = [row for test, row in results["rows"].items() if not test.endswith(HUGE) and "length" in row]
        peers = {name: told for name, told in VIT_PEERS.items() if any(name in row["ratios"] for row in rows)}
        yield f"| work | N | threads | ours | {' | '.join(peers.values())} | error, ours / peer |"
        yield f"|---|--:|--:|--:|{'--:|' * len(peers)}--:|"
        for row in sorted(rows, key=lambda row: (row["work"], row["length"], row["threads"])):
            cells = " | ".join(_times(row["ratios"].get(name)) or "-" for name in peers)
            errors = dict(row["errors"])
            own = errors.pop("advkern", row.get("error_ours"))
            error = "" if own is None else f"{own:.0e}" + (f" / {min(errors.values()):.0e}" if errors else "")
            yield f"| {row['work']} | {row['length']} | {row['threads']} | {_ms(row)} | {cells} | {error} |"
        yield ""


def vit_models() -> Iterator[str]:
    """Whole vision transformers: time of ViT-S/16, peak memory of ViT-S/16 and ViT-B/16."""
    for machine, results in _results("vit"):
        rows = results["rows"]
        timed = [row for test, row in rows.items() if not test.endswith(HUGE) and "samples_ms" in row]
        yield f"{machine}, float32, 8 images of 224 x 224. {HOW}"
        yield ""
        yield "| work | model | threads | ours | tutorial | timm |"
        yield "|---|---|--:|--:|--:|--:|"
        for row in sorted(timed, key=_order):
            cells = " | ".join(_times(row["ratios"].get(name)) for name in ("tutorial", "timm"))
            yield f"| {row['work']} | {row['graph']} | {row['threads']} | {_ms(row)} | {cells} |"
        yield ""
        yield "Peak memory over the model, its optimiser and the images; a ratio is ours over the tutorial's."
        yield ""
        yield "| work | model | images | ours | tutorial | timm | ratio |"
        yield "|---|---|---|--:|--:|--:|--:|"
        for row in sorted(_weighed(rows), key=lambda row: (row["work"], row["size"], row["pixels"])):
            peaks = row["peak_bytes"]
            names = ("advkern", "tutorial", "timm")
            cells = " | ".join(f"{peaks[name] / 1e6:.0f} MB" if name in peaks else "" for name in names)
            images = f"{row['batch']} of {row['pixels']} x {row['pixels']}"
            yield f"| {row['work']} | {row['size']} | {images} | {cells} | {row['ratio']:.2f}x |"
        yield ""


def _weighed(rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for test, row in rows.items() if not test.endswith(HUGE) and "peak_bytes" in row]


def efficientnet() -> Iterator[str]:
    """EfficientNet-B0 beside timm's and torchvision's."""
    for machine, results in _results("efficientnet"):
        rows = [row for row in results["rows"].values() if not row["work"].startswith("squeeze")]
        yield f"{machine}, float32, {rows[0]['graph']}, channels last. {HOW}"
        yield ""
        yield "| work | threads | ours | timm | torchvision | tutorial's blocks | error, ours / torchvision |"
        yield "|---|--:|--:|--:|--:|--:|--:|"
        for row in sorted(rows, key=_order):
            cells = " | ".join(_times(row["ratios"].get(name)) for name in ("timm", "torchvision", "tutorial"))
            told = " / ".join(f"{row['errors'][n]:.0e}" for n in ("advkern", "torchvision") if n in row["errors"])
            yield f"| {row['work']} | {row['threads']} | {_ms(row)} | {cells} | {told} |"
        yield ""


def squeeze_excite() -> Iterator[str]:
    """All squeezes of B0: what fusing them would give."""
    for machine, results in _results("efficientnet"):
        rows = [row for row in results["rows"].values() if row["work"].startswith("squeeze")]
        yield f"{machine}, float32, the sixteen of {rows[0]['graph']}, channels last. {HOW}"
        yield ""
        yield "| work | threads | ours | tutorial's lines | these fused by Inductor | error, ours / tutorial |"
        yield "|---|--:|--:|--:|--:|--:|"
        for row in sorted(rows, key=_order):
            cells = " | ".join(_times(row["ratios"].get(name)) for name in ("tutorial", "inductor"))
            told = " / ".join(f"{row['errors'][name]:.0e}" for name in ("advkern", "tutorial"))
            yield f"| {row['work']} | {row['threads']} | {_ms(row)} | {cells} | {told} |"
        yield ""


def linear() -> Iterator[str]:
    """The product with a layer's weight beside torch's own."""
    for machine, results in _results("linear"):
        yield f"{machine}, float32. {HOW}"
        yield ""
        yield "| work | product | threads | ours | torch | error, ours / torch |"
        yield "|---|---|--:|--:|--:|--:|"
        rows = [row for test, row in results["rows"].items() if not test.endswith(HUGE)]
        for row in sorted(rows, key=lambda row: (row["work"], row["channels"], row["threads"])):
            told = " / ".join(f"{row['errors'][name]:.0e}" for name in ("advkern", "torch"))
            yield (
                f"| {row['work']} | {row['graph']} | {row['threads']} | {_ms(row)} | "
                f"{_times(row['ratios']['torch'])} | {told} |"
            )
        yield ""


def convert() -> Iterator[str]:
    """Models that people have, beside the same models converted."""
    for machine, results in _results("convert"):
        yield f"{machine}, float32. {HOW}"
        yield ""
        yield "| model | work | threads | converted | as it was | error, converted / as it was |"
        yield "|---|---|--:|--:|--:|--:|"
        rows = [row for test, row in results["rows"].items() if not test.endswith(HUGE)]
        for row in sorted(rows, key=lambda row: (row["graph"], row["work"], row["threads"])):
            errors = row["errors"]
            yield (
                f"| {row['graph']} | {row['work']} | {row['threads']} | {_ms(row)} | "
                f"{row['ratios']['unconverted']:.2f}x | {errors['advkern']:.0e} / {errors['unconverted']:.0e} |"
            )
        yield ""


TABLES = {
    "glance": glance,
    "efficientnet": efficientnet,
    "squeeze_excite": squeeze_excite,
    "convert": convert,
    "linear": linear,
    "integration": integration,
    "integration_all": integration_all,
    "aggregation": aggregation,
    "aggregation_all": aggregation_all,
    "construction": construction,
    "overhead": overhead,
    "gat_attention": gat_attention,
    "vit_attention": vit_attention,
    "vit_models": vit_models,
    "training": training,
    "memory": memory,
}


def _results(name: str, folder: str = "*") -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(RESULTS.glob(f"{folder}/{name}.json")):
        results = json.loads(path.read_text())
        machine = results["machine"]
        yield f"{machine['cpu']}, {machine['cores']} cores ({machine['isa']}), torch {machine['torch']}", results


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["work"], row["graph"], row.get("channels", 0), row["threads"]


def _peers(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {ratio:.1f}x" for name, ratio in row["ratios"].items() if name != "advkern")


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def _ms(row: dict[str, Any]) -> str:
    return f"{min(row['samples_ms']['advkern']):.3g} ms"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
