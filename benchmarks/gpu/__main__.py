"""`python -m benchmarks.gpu`: the tests and the measurements that need a CUDA machine.

    run      build in place, tests and a sanitizer, the k x k problem alone, sweep, table of
             targets: what `make gpu` does; some of them with --stages
    root     the k x k problem and the table alone
    sweep    the sweep and the table alone
    targets  the table again, from rows
    tune     tiles for this machine's architecture: regenerates its part of table.json

Rows, log and reports go to --out: $OUT if that is set, else build/gpu; at most eight files.
`--dry` prints the plan. A rehearsal on a CPU, of every stage at sizes that take seconds:

    run --device cpu --shape '24x40 float32' --tests tests/triton/test_tiles.py
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu import plan, rows, stages, targets, workers
from benchmarks.gpu.place import Place
from benchmarks.gpu.supervise import parse_steps

SCRATCH = Path("build/gpu/scratch")  # journals: what nobody reads afterwards


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all went well; 1 if tests failed or a sanitizer found something; 2 if there is no GPU;
    3 if a worker lost it."""
    options = _parser().parse_args(arguments)
    if options.command == "targets":
        found = rows.read(options.rows)
        print(targets.table(targets.verdicts(found)))
        print(targets.suggestion(found))
        return 0
    deadline = options.deadline or time.time() + options.seconds
    shapes = tuple(options.shape)
    place = Place(
        options.out.resolve(), deadline, options.device, shapes, options.scratch.resolve()
    )
    if options.dry:
        if options.command == "run":
            print(stages.describe())
        print(plan.describe(place.cases()))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing measured (--dry prints the plan)", file=sys.stderr)
        return 2
    if options.device == "cuda":
        os.environ.pop("TRITON_INTERPRET", None)  # real kernels, in every process started here
    else:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    return _dispatch(options, place)


def _dispatch(options: argparse.Namespace, place: Place) -> int:
    if options.command == "run":
        return stages.everything(place, options.tests, options.stages)
    if options.command in ("root", "sweep"):
        stages.fresh(place)
        stages.roots(place) if options.command == "root" else stages.sweep(place)
        stages.conclude(place)
        return 0
    if options.command == "tune":
        return stages.tune(place, _tune_arguments(options))
    if options.command == "warm":
        workers.warm_part(place, options.part, options.parts)
        return 0
    skipped = parse_steps(options.skip)
    if options.command == "worker":
        return workers.work(place, skipped)
    if options.command == "root-worker":
        return workers.root_work(place, skipped)
    return workers.tune_work(place, skipped, options.kernel, options.product, options.size)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(dry=False)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{run,root,sweep,targets,tune}"
    )
    again = commands.add_parser("targets")
    again.add_argument("rows", type=Path)
    inside = ("worker", "root-worker", "warm", "tune-worker")
    for name in ("run", "root", "sweep", "tune", *inside):
        command = commands.add_parser(name)
        default = Path(os.environ.get("OUT") or "build/gpu")
        command.add_argument("--out", type=Path, default=default)
        command.add_argument("--scratch", type=Path, default=SCRATCH, help=argparse.SUPPRESS)
        seconds = f"it ends by itself within them, {stages.SECONDS:.0f} if not given"
        command.add_argument("--seconds", type=float, default=stages.SECONDS, help=seconds)
        command.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
        command.add_argument("--device", default="cuda", help="cpu: a rehearsal, with --shape")
        command.add_argument("--shape", action="append", default=[], help="as '48x80 float32'")
        command.add_argument("--skip", help=argparse.SUPPRESS)
        if name in ("run", "sweep"):
            command.add_argument("--dry", action="store_true", help="print the plan alone")
        if name == "run":
            command.add_argument("--tests", nargs="*", help="instead of the usual ones")
            some = {"nargs": "+", "choices": stages.STAGES, "default": stages.STAGES}
            command.add_argument("--stages", help="these alone", **some)
        if name == "warm":
            command.add_argument("--part", type=int, required=True)
            command.add_argument("--parts", type=int, required=True)
        if name.startswith("tune"):
            command.add_argument("--kernel", action="append", default=[])
            command.add_argument("--product", action="append", default=[])
            command.add_argument("--size", action="append", default=[], help="a limit, or any")
    return parser


def _tune_arguments(options: argparse.Namespace) -> list[str]:
    return [
        part
        for name in ("kernel", "product", "size")
        for value in getattr(options, name)
        for part in (f"--{name}", value)
    ]


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # a process that lost its device may hang on its way out
    os._exit(code) if code == 3 else sys.exit(code)
