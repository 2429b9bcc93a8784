"""`wssl-fast doctor`: what is installed, and what it would use."""

import platform
import sys
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import wssl_fast
from wssl_fast.backends import choice, cuda, native
from wssl_fast.backends.eager.roots import resolve_solver
from wssl_fast.cli.exits import BAD_USAGE, exit_codes
from wssl_fast.cli.output import show


def doctor(
    n: Annotated[int, typer.Option(help="Rows of a batch to explain.", min=1)] = 512,
    m: Annotated[int, typer.Option(help="Columns of a batch to explain.", min=1)] = 8192,
) -> None:
    """Versions, devices, the compiled part, and what `auto` uses for an n x m batch and why.

    Exit codes: 0, 2 when WSSL_FAST_BACKEND asks for a backend that cannot run here.
    """
    with exit_codes(Console(stderr=True)):
        table = Table(title="wssl-fast doctor", show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column()
        for name, value in report(n, m):
            table.add_row(name, escape(value))  # extras stand in brackets
        show(table)
        if why_no_backend(_device()):
            raise typer.Exit(BAD_USAGE)


def report(n: int, m: int) -> list[tuple[str, str]]:
    """Rows (name, value) of `doctor`."""
    gram = n <= m
    k = min(n, m)
    device = _device()
    on_gpu = device.type == "cuda"
    solver, asked = resolve_solver("auto", device), choice.requested()
    root = "LAPACK is fastest on a CPU" if solver == "eigh" else "matrix products alone"
    return [
        ("wssl_fast", wssl_fast.__version__),
        ("python", f"{platform.python_version()} on {platform.machine()}, {sys.platform}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("device", torch.cuda.get_device_name() if on_gpu else "CPU"),
        (
            "compiled CPU part",
            native.why_missing() or f"present, {native.instruction_sets()[-1]}",
        ),
        ("Triton", _triton(on_gpu)),
        ("compiled CUDA part", _compiled_cuda(on_gpu, k)),
        (
            "backend",
            why_no_backend(device) or f"{asked} asked for: {choice.resolve(asked, device)}",
        ),
        (
            f"auto at {n} x {m}",
            f"{'Gram' if gram else 'covariance'} formulation (n {'<=' if gram else '>'} m), "
            f"a {k} x {k} root by {solver} ({root}); float32, and float64 where the spectrum "
            "asks for it",
        ),
    ]


def why_no_backend(device: torch.device) -> str:
    """Why the backend asked for, which may be none, cannot run there; empty when it can."""
    try:
        choice.resolve(choice.requested(), device)
    except (RuntimeError, ValueError) as error:
        return str(error)
    return ""


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _triton(on_gpu: bool) -> str:
    """Version, and what the kernels would be planned for; or why there are none."""
    missing = choice.why_no_triton()
    if missing:
        return missing + (": CUDA tensors go through PyTorch calls, which wait" if on_gpu else "")
    import triton

    version = triton.__version__
    if not on_gpu:
        return f"{version}; no CUDA device: its kernels run here in tests alone"
    from wssl_fast.backends.triton import dispatch

    target = dispatch.target_of(torch.device("cuda"))
    return f"{version}; {target.name}, {target.programs} multiprocessors, tiles of table.json"


def _compiled_cuda(on_gpu: bool, k: int) -> str:
    """Whether it is there, runs here, and what `auto` makes of it."""
    if not cuda.available():
        return cuda.why_missing()
    if not on_gpu:
        return "present; no CUDA device"
    found = cuda.device(torch.cuda.current_device())
    try:
        plan = cuda.plan(k, device=found)
    except ValueError as error:
        return f"present; not for {k} x {k}: {error}"
    taken = cuda.preferred(f"sm_{found.capability}", k)
    why = "measured faster than Triton" if taken else "nothing measured prefers it to Triton"
    return (
        f"present; {k} x {k} in tiles of {plan.rows} x {plan.columns}; "
        f"auto {'takes' if taken else 'does not take'} it ({why}; backend 'cuda' by name)"
    )
