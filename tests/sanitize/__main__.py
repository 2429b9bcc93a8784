"""csrc/ under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

python -m tests.sanitize                 everything
python -m tests.sanitize address         memory and undefined behaviour of csrc/cpu
python -m tests.sanitize thread          races between threads of csrc/cpu

First the faults of planted.py must be found. Exit code 1 if one is not, or if a test fails.
"""

import subprocess
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from tests.sanitize.build import (
    ADDRESS,
    ROOT,
    THREAD,
    Sanitizer,
    build,
    environment,
    why_not,
)
from tests.sanitize.planted import FAULTS

NATIVE = ("tests/test_native.py", "tests/sanitize/test_shapes.py", "tests/sanitize/test_threads.py")
TESTS = {
    ADDRESS: (
        *NATIVE,
        *("tests/test_regressions.py", "tests/test_w2.py", "tests/test_uniformity.py"),
        "tests/fuzz/test_fuzz.py",
    ),
    THREAD: NATIVE,
}
PLANTED = {ADDRESS: ("read", "write", "misaligned"), THREAD: ("race",)}
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0")


def main(arguments: Sequence[str]) -> int:
    console = Console()
    if why := why_not():
        console.print(f"no sanitizer here: {why}")
        return 2
    names = [s.name for s in TESTS]
    if unknown := [a for a in arguments if a not in names]:
        console.print(f"unknown: {', '.join(unknown)}; there are {', '.join(names)}")
        return 2
    wanted = [s for s in TESTS if not arguments or s.name in arguments]
    clean = [_watch(console, sanitizer) for sanitizer in wanted]
    return 0 if all(clean) else 1


def _watch(console: Console, sanitizer: Sanitizer) -> bool:
    started = time.monotonic()
    build(sanitizer)
    console.print(f"[bold]{sanitizer.name}[/]  built in {time.monotonic() - started:.0f} s")
    noticed = [_noticed(console, sanitizer, name) for name in PLANTED[sanitizer]]
    command = [sys.executable, *PYTEST, "-p", "tests.sanitize.preload", *TESTS[sanitizer]]
    passed = subprocess.run(command, cwd=ROOT, env=environment(sanitizer), check=False).returncode
    console.print(f"{sanitizer.name}: {'clean' if passed == 0 else '[red]failed[/]'}")
    return all(noticed) and passed == 0


def _noticed(console: Console, sanitizer: Sanitizer, name: str) -> bool:
    """Whether the fault ends its process with the report that it should."""
    command = [sys.executable, "-m", "tests.sanitize.planted", name]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment(sanitizer), capture_output=True, text=True, check=False
    )
    noticed = ran.returncode != 0 and FAULTS[name] in ran.stderr
    console.print(f"  planted {name}: {'noticed' if noticed else '[red]not noticed[/]'}")
    if not noticed:
        console.print(ran.stdout + ran.stderr, markup=False, highlight=False)
    return noticed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
