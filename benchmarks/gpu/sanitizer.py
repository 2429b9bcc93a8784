"""csrc/cuda under compute-sanitizer: memcheck for every access, racecheck for shared memory.

It watches sanitize_target.py. Memory comes from cudaMalloc buffer by buffer, so that an access
beyond one is seen. API errors are not counted: PyTorch provokes some when it starts, and a launch
that fails raises.
"""

import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Log, Row, row
from benchmarks.gpu.supervise import ROOT, stop

TARGET = "benchmarks.gpu.sanitize_target"
DONE = "every tile is right"  # its last line
TOOLS = ("memcheck", "racecheck")
SECONDS = 100.0  # most of them PyTorch's import
LAST_PLACE = "/usr/local/cuda"
SUMMARY = {
    "memcheck": r"ERROR SUMMARY: (?P<errors>\d+) error",
    "racecheck": r"RACECHECK SUMMARY: \d+ hazards? displayed "
    r"\((?P<errors>\d+) errors?, (?P<warnings>\d+) warnings?\)",
}
FINDING = re.compile(r"=+ +((Invalid|Error|Race|Misaligned|Out-of|Warp|Device).*)")


def find(environ: Mapping[str, str], last: str = LAST_PLACE) -> str | None:
    """compute-sanitizer of PATH, CUDA_HOME or `last`."""
    homes = [environ.get("CUDA_HOME", ""), last]
    folders = [environ.get("PATH", ""), *(str(Path(home, "bin")) for home in homes if home)]
    found = (shutil.which("compute-sanitizer", path=folder) for folder in folders)
    return next(filter(None, found), None)


def run(
    place: Place, why_not: str, log: Log, *, program: str | None = None, until: float = math.inf
) -> bool:
    """A row and a line a tool, both tools at once, until `until` (time.time) at most. False if one
    found something wrong. `why_not`: why csrc/cuda cannot run; `program`: the sanitizer, else it
    is looked for."""
    program = program or find(os.environ)
    if not why_not and program is None:
        why_not = f"compute-sanitizer: not in PATH, CUDA_HOME/bin or {LAST_PLACE}/bin"

    def found_by(tool: str) -> Row:
        if why_not or program is None:
            return {"skipped": why_not}
        return watch(place, program, tool, max(min(SECONDS, until - time.time()), 0.0))

    right = True
    with ThreadPoolExecutor(len(TOOLS)) as pool:
        for tool, found in zip(TOOLS, pool.map(found_by, TOOLS), strict=True):
            place.writer().add(row(group="sanitizer", provider=tool) | found)
            log.say(f"{tool}: {next(str(value) for value in found.values() if value)}")
            right = right and not found.get("wrong")
    return right


def watch(place: Place, program: str, tool: str, seconds: float) -> Row:
    """What one tool says of TARGET, within `seconds`."""
    command = [program, "--tool", tool, "--report-api-errors", "no"]
    command += [sys.executable, "-m", TARGET, place.device]
    report = place.report(tool)
    started = time.time()
    with report.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            stop(process)
    lines = report.read_text(encoding="utf-8", errors="replace").splitlines()
    return verdict(tool, lines, code, time.time() - started)


def verdict(tool: str, lines: Sequence[str], code: int | None, seconds: float) -> Row:
    """`wrong`: the tool found something. `error`: it, or what it watched, did not come to an end
    that says anything. Else a note. `code` None: stopped."""
    findings = [match[1] for line in lines if (match := FINDING.match(line))]
    if code is None:
        after = f", after {findings[0]}" if findings else ""
        kind = "wrong" if findings else "error"
        return {kind: f"timed out after {seconds:.0f} s{after}"[:300]}
    summaries = (re.search(SUMMARY[tool], line) for line in reversed(lines))
    summary = next(filter(None, summaries), None)
    last = next((line.strip("= ") for line in reversed(lines) if line.strip()), "no output")
    if summary is None:
        return {"error": f"no summary, exit code {code}: {last}"[:300]}
    if int(summary["errors"]):
        first = f": {findings[0]}" if findings else ""
        return {"wrong": f"{summary['errors']} errors found{first}"[:300]}
    if code or DONE not in lines:
        said = [line for line in lines if line.strip() and not line.startswith("=")]
        return {"error": f"exit code {code}: {said[-1] if said else 'it printed nothing'}"[:300]}
    warnings = summary.groupdict().get("warnings", "0")
    return {"note": f"clean, {warnings} warnings, {seconds:.0f} s"}
