"""csrc/cuda as compiled, and as modelled: the tables of docs/cuda.md.

    python -m benchmarks.gpu.cuda_kernel            compiles, writes rows and the tables
    python -m benchmarks.gpu.cuda_kernel --model    the model's table alone: no nvcc, no rows

Each instance of the kernel is compiled for each architecture without a GPU; ptxas says how many
registers, spills and barriers, the machine code which tensor instructions. The model is
csrc/cuda/schedule.cpp's own, which also chooses tiles. Nothing here is run.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.gpu import machine_code
from wssl_fast.backends import cuda

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc" / "cuda"
RESULTS = ROOT / "benchmarks" / "results" / "compiled" / "cuda.jsonl"
DOCS = ROOT / "docs" / "cuda.md"
ARCHITECTURES = ("80", "90a", "100")
REGISTERS = 65536  # of a multiprocessor
THREADS = 256
H200 = cuda.Device(132, 227 * 1024, 90)
TARGETS = {256: 60, 512: 120, 1024: 350}  # us, asked for at float32 grade on an H200

Row = dict[str, Any]


def tiles() -> list[Path]:
    """A file an instance, largest tile first."""
    return sorted(SOURCES.glob("tile_*.cu"), key=lambda p: [-int(x) for x in _size(p)])


def _size(path: Path) -> list[str]:
    return re.findall(r"\d+", path.stem)


def compile_tile(nvcc: Path, source: Path, architecture: str) -> Row:
    """One instance on one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        command = [str(nvcc), "-std=c++17", "-O3", f"-arch=sm_{architecture}", "-cubin"]
        command += ["-Xptxas", "-v", "-o", str(cubin), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        found = machine_code.of_cubin(cubin.read_bytes())
    said = done.stdout + done.stderr
    spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes", said)
    used = re.search(r"Used (\d+) registers, used (\d+) barriers", said)
    if spills is None or used is None:
        raise RuntimeError(f"ptxas says nothing of {source.name}: {said}")
    stack, stores, loads = map(int, spills.groups())
    rows, columns, depth, stages = next(
        t for t in cuda.tiles() if [str(t[0]), str(t[1])] == _size(source)
    )
    return {
        "kernel": source.stem,
        "architecture": f"sm_{architecture}",
        "registers": int(used[1]),
        "spills": stores + loads,
        "stack": stack,
        "barriers": int(used[2]),
        "shared": stages * (rows + columns) * depth * 4 + 64,
        "tensor": found["tensor"],
        "instructions": found["instructions"],
    }


def compile_all(nvcc: Path, architectures: Sequence[str] = ARCHITECTURES) -> list[Row]:
    """Every instance on every architecture."""
    work = [(nvcc, source, name) for name in architectures for source in tiles()]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda job: compile_tile(*job), work))


def faults(row: Row) -> list[str]:
    """What is wrong with a compiled instance; empty for a good one."""
    found = []
    if row["spills"] or row["stack"]:
        found.append(f"{row['spills']} bytes spilled, {row['stack']} bytes of stack")
    if row["registers"] * THREADS > REGISTERS:
        found.append(f"{row['registers']} registers: no block of {THREADS} threads fits")
    if row["barriers"] != 1:
        found.append(f"{row['barriers']} barriers, 1 expected: __syncthreads alone")
    limit = machine_code.ARCHITECTURES[row["architecture"].rstrip("a")].shared
    if row["shared"] > limit:
        found.append(f"{row['shared']} bytes of shared memory, {limit} allowed")
    # products: 24 a step of a warp, unrolled over the steps of a stage, in one loop
    if row["tensor"].get("HMMA", 0) < 24 or set(row["tensor"]) != {"HMMA"}:
        found.append(f"tensor instructions: {row['tensor']}")
    return found


def compiled_table(rows: Sequence[Row]) -> str:
    """Markdown."""
    names = ("architecture", "registers", "spills", "barriers", "shared KiB", "HMMA")
    cells = [
        [
            "x".join(re.findall(r"\d+", row["kernel"])),
            *(str(row[name]) for name in names[:4]),
            f"{row['shared'] / 1024:.0f}",
            str(row["tensor"].get("HMMA", 0)),
            f"{row['instructions']:,}",
        ]
        for row in rows
    ]
    return _markdown(["tile", *names, "instructions"], cells, left=2)


def model_table(sizes: Sequence[int] = (64, 128, 256, 384, 512, 768, 1024, 2048)) -> str:
    """Markdown: what a call should take on an H200."""
    cells = []
    for k in sizes:
        found = cuda.estimate(k, device=H200)
        counts = [str(found[name]) for name in ("blocks", "waves", "barriers")]
        times = [f"{found[name] * 1e6:.0f}" for name in ("multiply", "load", "seconds")]
        tile = f"{found['rows']}x{found['columns']}"
        cells.append([f"{k:,}", tile, *counts, *times, str(TARGETS.get(k, ""))])
    names = ("blocks", "waves", "barriers", "products us", "operands us", "modelled us")
    return _markdown(["k", "tile", *names, "target us"], cells, left=2)


def _markdown(head: Sequence[str], cells: Sequence[Sequence[str]], *, left: int) -> str:
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *cells))


def write_docs(name: str, table: str) -> None:
    """Replaces what stands between the markers of this name."""
    text = DOCS.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, rest = text.split(begin)
    DOCS.write_text(f"{before}{begin}{table}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def main() -> int:
    """0 when nothing is wrong with any instance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="store_true", help="the model alone")
    options = parser.parse_args()
    console = Console()
    write_docs("model", model_table())
    console.print(model_table())
    if options.model:
        return 0
    sys.path.insert(0, str(ROOT / "csrc"))
    import nvcc as build

    nvcc = build.find_nvcc(os.environ)
    release = build.toolkit(nvcc).release
    rows = [row | {"nvcc": release} for row in compile_all(nvcc)]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_docs("compiled", f"nvcc {release}\n\n{compiled_table(rows)}")
    console.print(compiled_table(rows))
    bad = [(row["kernel"], row["architecture"], fault) for row in rows for fault in faults(row)]
    for fault in bad:
        console.print(*fault)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
