"""Every kernel specialisation compiled ahead of time, without a GPU, and what the compiler made.

    python -m benchmarks.gpu.compiled [--architecture sm_90 ...] [--select all] [--kernel NAME ...]

The launchers run on meta tensors (specimens.py) as they would on each architecture; every launch
is specialised by Triton's own binder, compiled, and its machine code read: registers, spills,
shared memory, tensor instructions. Prints a table, replaces the architecture's rows in
benchmarks/results/compiled/ and makes docs/gpu_compiled.md again from all rows; fails where
`faults` finds one. Compiled files stay in build/triton.
"""

import argparse
import importlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.gpu import machine_code
from benchmarks.gpu.compiled_report import COLUMNS, cells, document, read_rows, write_rows
from benchmarks.gpu.machine_code import ARCHITECTURES, Architecture, Row, faults

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "triton"
RESULTS = ROOT / "benchmarks" / "results" / "compiled"
DOCS = ROOT / "docs" / "gpu_compiled.md"
WORKERS = 2
SELECTIONS = ("tested", "usual", "essential", "all")


@dataclass(frozen=True)
class Job:
    """One specialisation, in what survives a trip to another process."""

    architecture: str
    module: str
    kernel: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[tuple[int, ...], Any], ...]
    attributes: tuple[tuple[tuple[int, ...], tuple[tuple[str, int], ...]], ...]
    options: tuple[tuple[str, Any], ...]
    chosen: tuple[tuple[str, Any], ...]
    """The constexprs that the launcher gave: what names a row."""


def job(launch: Any, architecture: Architecture) -> Job:
    """What Triton's JIT would compile for a recorded launch: its own binder says."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel = launch.kernel
    backend = make_backend(GPUTarget(architecture.backend, architecture.arch, architecture.warp))
    given = dict(launch.constants, num_warps=launch.warps, num_stages=launch.stages)
    if launch.cooperative:
        given["launch_cooperative_grid"] = True
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, extra = bind(*launch.args, **given)
    _, signature, constants, attributes = kernel._pack_args(
        backend, given, bound, specialization, extra
    )
    options = {name: value for name, value in given.items() if name not in launch.constants}
    return Job(
        architecture.name,
        kernel.fn.__module__,
        kernel.fn.__qualname__,
        tuple(signature.items()),
        tuple(constants.items()),
        tuple((path, tuple(map(tuple, found))) for path, found in attributes.items()),
        tuple(options.items()),
        tuple(launch.constants.items()),
    )


def jobs(architecture: Architecture) -> list[Job]:
    """Every specialisation that the specimens reach, each once, in the order of their launches."""
    from benchmarks.gpu import specimens
    from wssl_fast.backends.triton.dispatch import Target

    launches = specimens.launches(Target(architecture.name, architecture.programs))
    return list(dict.fromkeys(job(launch, architecture) for launch in launches))


def select(work: Sequence[Job], which: str) -> list[Job]:
    """Some of the specialisations of each architecture.

    usual      the first of each kernel and product: the usual call
    essential  the first of each kernel, tile, product and dtype of the rows, and of these the one
               that assumes least about sizes and strides, which needs the most registers
    all        every one
    tested     essential for sm_90, usual for the others: what `make test` compiles
    """
    if which == "all":
        return list(work)
    if which == "tested":
        known = dict.fromkeys(one.architecture for one in work)
        parts = {name: [one for one in work if one.architecture == name] for name in known}
        return [
            one
            for name, part in parts.items()
            for one in select(part, "essential" if name == "sm_90" else "usual")
        ]
    groups: dict[object, list[Job]] = {}
    for one in work:
        words = [value for _, value in one.chosen if isinstance(value, str)]
        key: tuple[object, ...] = (one.architecture, one.module, one.kernel, *words)
        if which == "essential":
            sizes = [k for k in one.chosen if type(k[1]) is int]
            key += (*sizes, one.options, dict(one.signature).get("z"))
        groups.setdefault(key, []).append(one)
    if which == "usual":
        return [group[0] for group in groups.values()]
    return [
        one
        for group in groups.values()
        for one in dict.fromkeys((group[0], min(group, key=_assumptions)))
    ]


def _assumptions(one: Job) -> int:
    """Sizes and strides that are 1 or divide by 16, pointers that are aligned."""
    return len(one.constants) + sum(len(pairs) for _, pairs in one.attributes)


def compile_job(work: Job) -> Row:
    """Compiles one specialisation and reads its machine code; an error becomes part of the row."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    architecture = ARCHITECTURES[work.architecture]
    source = ASTSource(
        getattr(importlib.import_module(work.module), work.kernel),
        dict(work.signature),
        dict(work.constants),
        {path: [list(pair) for pair in pairs] for path, pairs in work.attributes},
    )
    target = GPUTarget(architecture.backend, architecture.arch, architecture.warp)
    try:
        with _quiet():
            compiled = triton.compile(source, target=target, options=dict(work.options))
    except Exception as error:  # whatever stops a compiler is a row, and a fault
        return described(work) | {"error": f"{type(error).__name__}: {str(error).strip()[-300:]}"}
    row = described(work) | {"shared": compiled.metadata.shared}
    if architecture.backend == "cuda":
        return row | machine_code.of_cubin(compiled.asm["cubin"])
    return row | machine_code.of_amdgcn(compiled.asm["amdgcn"])


def described(work: Job) -> Row:
    """The part of a row that is known before compiling."""
    options = dict(work.options)
    return {
        "architecture": work.architecture,
        "module": work.module.rsplit(".", 1)[-1],
        "kernel": work.kernel,
        "types": " ".join(name for _, name in work.signature if name.startswith("*")),
        "constants": dict(work.chosen),
        "warps": options["num_warps"],
        "stages": options["num_stages"],
        "cooperative": options.get("launch_cooperative_grid", False),
    }


def compile_all(work: Sequence[Job], workers: int = WORKERS) -> Iterator[Row]:
    """Rows in the order of `work`. A compiler that aborts (LLVM does) costs its own row alone."""
    done = 0
    while done < len(work):
        try:
            with _pool(workers) as pool:
                for row in pool.map(compile_job, work[done:]):
                    yield row
                    done += 1
        except BrokenProcessPool:
            try:
                with _pool(1) as pool:
                    row = pool.submit(compile_job, work[done]).result()
            except BrokenProcessPool:
                row = described(work[done]) | {"error": "the compiler aborted"}
            yield row
            done += 1


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_prepare)


def _prepare() -> None:
    os.environ["TRITON_INTERPRET"] = "0"
    os.environ["TRITON_CACHE_DIR"] = str(CACHE)


@contextmanager
def _quiet() -> Iterator[None]:
    """Compilers print whole modules to the process's standard error when they fail."""
    with TemporaryFile() as sink:
        kept = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def main() -> int:
    """0 when nothing is wrong with any specialisation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", nargs="+", choices=ARCHITECTURES, default=None)
    parser.add_argument("--kernel", nargs="+", default=None, help="only kernels of these names")
    parser.add_argument("--select", choices=SELECTIONS, default="tested")
    parser.add_argument("--rows", type=Path, default=None, help="folder for rows; no document")
    options = parser.parse_args()
    _prepare()
    console = Console()
    work = [
        one
        for name in options.architecture or ARCHITECTURES
        for one in jobs(ARCHITECTURES[name])
        if options.kernel is None or one.kernel in options.kernel
    ]
    work = select(work, options.select)
    rows = list(
        track(compile_all(work), "compiling", total=len(work), console=console, transient=True)
    )
    for name in dict.fromkeys(row["architecture"] for row in rows):
        table = Table(*COLUMNS, title=name)
        for line in cells([row for row in rows if row["architecture"] == name]):
            table.add_row(*line)
        console.print(table)
    if options.rows is not None:
        write_rows(rows, options.rows)
    elif options.kernel is None and options.select != "usual":
        write_rows(rows, RESULTS)
        DOCS.write_text(document(read_rows(RESULTS)))
    bad = sum(bool(faults(row)) for row in rows)
    console.print(f"{len(rows)} specialisations, {bad} with a fault")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
