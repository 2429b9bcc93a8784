"""`python -m benchmarks.reliability`: what training does to a loss, tried for long.

    python -m benchmarks.reliability endurance         what a process holds, call after call
    python -m benchmarks.reliability descent           who leaves a collapse, in how many steps
    python -m benchmarks.reliability descent --quick   the same in seconds, at small sizes
    python -m benchmarks.reliability descent --draw    pictures and table again, from the rows

Rows and pictures go to build/reliability, or with --record to benchmarks/results/reliability.
docs/reliability.md says what they show.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.reliability import descent_report, endurance, endurance_report
from benchmarks.reliability.calls import kinds

RECORDED = Path(__file__).parents[1] / "results" / "reliability"


def run_endurance(given: argparse.Namespace, out: Path, console: Console) -> int:
    """1 where something is not flat."""
    if not endurance.PROC.exists():
        console.print(f"{endurance.PROC} is Linux's: nothing to sample here")
        return 2
    count = len(kinds())
    every = min(given.every, max(given.calls // 20, 1))
    started, commit = time.perf_counter(), machine.commit()
    found = endurance.watch(given.calls, every, given.seed)
    samples = endurance_report.watched(console, found, given.calls, count)
    about = {
        "kinds": count,
        "seed": given.seed,
        "seconds": round(time.perf_counter() - started, 1),
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "commit": commit,
    }
    path = out / "endurance.json"
    endurance_report.write(path, samples, count, about)
    record = json.loads(path.read_text(encoding="utf-8"))
    endurance_report.draw(record, out / "endurance.png")
    console.print(f"{path}, {out / 'endurance.png'}")
    return 0 if all(v.flat for v in samples.verdicts(count)) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    long = commands.add_parser("endurance", help="many calls; memory, threads, files, objects")
    long.add_argument("--calls", type=int, default=100_000)
    long.add_argument("--every", type=int, default=1_000, help="calls between samples")
    down = commands.add_parser("descent", help="gradient descent from collapsed batches")
    down.add_argument("--quick", action="store_true", help="small sizes, one seed, seconds")
    down.add_argument("--draw", action="store_true", help="pictures and table from the rows there")
    down.add_argument("--write-docs", action="store_true", help="tables of docs/reliability.md")
    for each in (long, down):
        each.add_argument("--seed", type=int, default=0)
        each.add_argument("--record", action="store_true", help=f"into {RECORDED.parent.name}/")
        each.add_argument("--out", type=Path, default=Path("build/reliability"))
    given = parser.parse_args(arguments)
    out = RECORDED if given.record else given.out
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    if given.command == "endurance":
        return run_endurance(given, out, console)
    return descent_report.run(given.quick, given.draw, given.write_docs, given.seed, out, console)


if __name__ == "__main__":
    sys.exit(main())
